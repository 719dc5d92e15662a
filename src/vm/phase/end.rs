//! The end of an incarnation: stopped or killed, removed, confirmed gone.

use super::{Effect, Life, Phase, RETRY_DELAY, STILL_THERE_PERIOD, Stage};
use crate::executor::ExecutorError;
use crate::policy::Ending;
use pepita_wire::Exit;
use pepita_wire::record::CallErrorKind;
use std::time::{Duration, Instant};

/// The time, beyond its grace, that a stop may take before the VM actor kills the VM: the monitor has the same deadline
/// (semantics 7.1).
pub(super) const STOP_SLACK: Duration = Duration::from_millis(500);

impl Life {
    pub(super) fn stop(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Created | Phase::Leasing { .. } => self.gone(Exit::StopRequested.into()),
            Phase::Launching(_) => self.undo(),
            Phase::Adopting(_) if self.spec.stop.timeout.is_zero() => self.remove_stopped(now),
            Phase::Adopting(_) => self.stop_adopting(now, self.spec.stop.timeout + STOP_SLACK),
            Phase::Alive { stage: Stage::Booting { .. } | Stage::Spare, .. } => self.remove_stopped(now),
            Phase::Alive {
                stage: Stage::Running { .. } | Stage::Ready { .. } | Stage::Paused(_), ..
            } => {
                self.begin_stop(now, self.spec.stop.timeout, Exit::StopRequested.into());
            }
            // A second stop does not move the deadline. A stop because of the health may have a longer grace than the stop
            // that is asked for now.
            Phase::Stopping { deadline, ending } if ending.exit() != Some(&Exit::StopRequested) => {
                let timeout = self.spec.stop.timeout;
                if timeout.is_zero() {
                    let ending = ending.clone();
                    return self.remove(now, ending);
                }
                *deadline = (*deadline).min(now + timeout + STOP_SLACK);
            }
            Phase::Stopping { .. } | Phase::Undoing | Phase::Removing { .. } | Phase::Gone => {}
        }
    }

    /// Stops a VM that was found during its stop: the deadline of the stop has not moved.
    pub(super) fn stop_by(&mut self, now: Instant, deadline: Instant) {
        match &self.phase {
            Phase::Alive {
                stage: Stage::Running { .. } | Stage::Ready { .. } | Stage::Paused(_), ..
            } => {
                let grace = deadline.saturating_duration_since(now).saturating_sub(STOP_SLACK);
                self.begin_stop(now, grace, Exit::StopRequested.into());
            }
            Phase::Alive { stage: Stage::Booting { .. } | Stage::Spare, .. } => self.remove_stopped(now),
            Phase::Created
            | Phase::Leasing { .. }
            | Phase::Launching(_)
            | Phase::Undoing
            | Phase::Adopting(_)
            | Phase::Stopping { .. }
            | Phase::Removing { .. }
            | Phase::Gone => {}
        }
    }

    /// Stops a daemon that runs, because that is asked for or because of its health: a signal, a grace, then a kill
    /// (semantics 7.1, 1.12).
    pub(super) fn begin_stop(&mut self, now: Instant, grace: Duration, ending: Ending) {
        if grace.is_zero() {
            return self.remove(now, ending);
        }
        self.phase = Phase::Stopping { deadline: now + grace + STOP_SLACK, ending };
        self.effects.push(Effect::StopDaemon { signal: self.stop_signal(), grace });
    }

    /// Kills a VM whose stop has taken too long.
    pub(super) fn late_stop(&mut self, now: Instant, ending: Ending) {
        self.effects.push(Effect::Notice("did not stop in time; it is killed".into()));
        self.remove(now, ending);
    }

    pub(super) fn kill(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Created | Phase::Leasing { .. } => self.gone(Exit::StopRequested.into()),
            Phase::Launching(_) => self.undo(),
            // The removal stands behind the call of the adoption.
            Phase::Adopting(_) | Phase::Alive { .. } | Phase::Stopping { .. } => self.remove_stopped(now),
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
        let said = String::new();
        self.phase = Phase::Removing { ending, since: now, retry_at: None, notice_at, said };
        self.effects.push(self.removal());
    }

    pub(super) fn removed(&mut self, now: Instant, result: Result<(), ExecutorError>) {
        let Phase::Removing { ending, retry_at, said, .. } = &mut self.phase else { return };
        match result {
            Ok(()) => {
                let ending = ending.clone();
                self.gone(ending);
            }
            Err(error) if error.kind() == Some(CallErrorKind::Unreadable) => self.unreadable(&error),
            Err(error) => {
                *retry_at = Some(now + RETRY_DELAY);
                let why = error.to_string();
                if *said != why {
                    self.effects.push(Effect::Notice(format!("cannot be removed yet: {why}")));
                    *said = why;
                }
            }
        }
    }

    pub(super) fn gone(&mut self, ending: Ending) {
        self.phase = Phase::Gone;
        self.effects.push(Effect::End(self.in_role(ending)));
    }
}
