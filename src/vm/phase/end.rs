//! The end of an incarnation: stopped or killed, removed, confirmed gone.

use super::{Effect, Intent, Life, Phase, RETRY_DELAY, STILL_THERE_PERIOD, Stage};
use crate::executor::ExecutorError;
use crate::policy::Ending;
use pepita_wire::Exit;
use pepita_wire::record::CallErrorKind;
use std::time::{Duration, Instant};

/// The time, beyond its grace, that a stop may take before the VM actor kills the VM: the monitor has the same deadline
/// (semantics 7.1).
const STOP_SLACK: Duration = Duration::from_millis(500);

impl Life {
    pub(super) fn stop(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Created | Phase::Leasing { .. } => self.gone(Exit::StopRequested.into()),
            Phase::Launching(_) => self.undo(),
            Phase::Adopting { intent, .. } => *intent = (*intent).max(Intent::Stop),
            Phase::Alive { stage: Stage::Booting { .. }, .. } => self.remove_stopped(now),
            Phase::Alive {
                stage: Stage::Running { .. } | Stage::Ready { .. } | Stage::Paused(_), ..
            } => {
                let stop = self.spec.stop;
                if stop.timeout.is_zero() {
                    return self.remove_stopped(now);
                }
                self.phase = Phase::Stopping { deadline: now + stop.timeout + STOP_SLACK };
                self.effects.push(Effect::StopDaemon { signal: stop.signal, grace: stop.timeout });
            }
            // A second stop does not move the deadline.
            Phase::Undoing | Phase::Stopping { .. } | Phase::Removing { .. } | Phase::Gone => {}
        }
    }

    pub(super) fn kill(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Created | Phase::Leasing { .. } => self.gone(Exit::StopRequested.into()),
            Phase::Launching(_) => self.undo(),
            Phase::Adopting { intent, .. } => *intent = Intent::Kill,
            Phase::Alive { .. } | Phase::Stopping { .. } => self.remove_stopped(now),
            Phase::Undoing | Phase::Removing { .. } | Phase::Gone => {}
        }
    }

    fn undo(&mut self) {
        self.phase = Phase::Undoing;
        self.effects.push(Effect::CancelLaunch);
    }

    pub(super) fn remove_stopped(&mut self, now: Instant) {
        self.remove(now, Exit::StopRequested.into());
    }

    pub(super) fn remove(&mut self, now: Instant, ending: Ending) {
        let notice_at = now + STILL_THERE_PERIOD;
        self.phase = Phase::Removing { ending, since: now, retry_at: None, notice_at };
        self.effects.push(Effect::Remove);
    }

    pub(super) fn removed(&mut self, now: Instant, result: Result<(), ExecutorError>) {
        let Phase::Removing { ending, retry_at, .. } = &mut self.phase else { return };
        match result {
            Ok(()) => {
                let ending = ending.clone();
                self.gone(ending);
            }
            Err(error) if error.kind() == Some(CallErrorKind::Unreadable) => self.unreadable(&error),
            Err(error) => {
                *retry_at = Some(now + RETRY_DELAY);
                self.effects.push(Effect::Notice(format!("cannot be removed yet: {error}")));
            }
        }
    }

    pub(super) fn gone(&mut self, ending: Ending) {
        self.phase = Phase::Gone;
        self.effects.push(Effect::End(ending));
    }
}
