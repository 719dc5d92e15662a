//! How an incarnation ends: stopped, destroyed, confirmed gone.

use super::{CALL_RETRY, Effect, Life, Phase, STOP_SLACK, Then};
use crate::executor::ExecutorError;
use crate::policy::{Ending, Exit};
use std::time::Instant;

impl Life {
    pub(super) fn stop(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Created | Phase::Leasing { .. } | Phase::Launching { retry: Some(_), .. } => {
                self.gone(Exit::StopRequested.into());
            }
            Phase::Launching { undo, .. } => {
                *undo = true;
                self.effects.push(Effect::CallOff);
            }
            Phase::Adopting { then, .. } => *then = (*then).max(Then::Stop),
            Phase::Booting { .. } => self.destroy(now, Exit::StopRequested.into()),
            Phase::Running { .. } | Phase::Ready { .. } | Phase::Paused { .. } => {
                let stop = self.spec.stop;
                if stop.timeout.is_zero() {
                    return self.destroy(now, Exit::StopRequested.into());
                }
                self.phase = Phase::Stopping { deadline: now + stop.timeout + STOP_SLACK };
                self.effects.push(Effect::StopPolitely { signal: stop.signal, grace: stop.timeout });
            }
            // Told twice: the first deadline holds.
            Phase::Stopping { .. } | Phase::Destroying { .. } | Phase::Gone => {}
        }
    }

    pub(super) fn destroy_now(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Created | Phase::Leasing { .. } | Phase::Launching { retry: Some(_), .. } => {
                self.gone(Exit::StopRequested.into());
            }
            Phase::Launching { undo, .. } => {
                *undo = true;
                self.effects.push(Effect::CallOff);
            }
            Phase::Adopting { then, .. } => *then = Then::Destroy,
            Phase::Booting { .. }
            | Phase::Running { .. }
            | Phase::Ready { .. }
            | Phase::Paused { .. }
            | Phase::Stopping { .. } => self.destroy(now, Exit::StopRequested.into()),
            Phase::Destroying { .. } | Phase::Gone => {}
        }
    }

    pub(super) fn destroyed(&mut self, now: Instant, result: Result<(), ExecutorError>) {
        if let Phase::Destroying { ending, retry, .. } = &mut self.phase {
            match result {
                Ok(()) => {
                    let ending = ending.clone();
                    self.gone(ending);
                }
                Err(e) => {
                    *retry = Some(now + CALL_RETRY);
                    self.effects.push(Effect::Notice(format!("cannot be destroyed yet: {e}")));
                }
            }
        }
    }

    pub(super) fn destroy(&mut self, now: Instant, ending: Ending) {
        self.phase = Phase::Destroying { ending, since: now, retry: None, told: now };
        self.effects.push(Effect::Destroy);
    }

    pub(super) fn gone(&mut self, ending: Ending) {
        self.phase = Phase::Gone;
        self.effects.push(Effect::End(ending));
    }
}
