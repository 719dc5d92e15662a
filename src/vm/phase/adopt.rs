//! The adoption of an incarnation: the launcher finds the VM and makes sure that it has a monitor, or says that it is
//! gone (semantics 9.4, 9.11).

use super::{Effect, Intent, Life, Link, Phase, RETRY_DELAY, Stage};
use crate::executor::ExecutorError;
use crate::policy::Ending;
use crate::spec::Cid;
use pepita_wire::record::CallErrorKind;
use pepita_wire::{Exit, StatusRecord};
use std::time::Instant;

impl Life {
    pub(super) fn adopt(&mut self, intent: Intent) {
        self.phase = Phase::Adopting { intent, retry_at: None };
        self.effects.push(Effect::Adopt);
    }

    pub(super) fn monitor_lost(&mut self, why: &str) {
        match self.phase {
            Phase::Alive { .. } => {
                let text = format!("its monitor is gone ({why}); looking for the VM");
                self.effects.push(Effect::Notice(text));
                self.adopt(Intent::Watch);
            }
            // In most cases the VM has ended between the monitor's last answer and the next question.
            Phase::Stopping { .. } => self.adopt(Intent::Stop),
            // A launch, an adoption or a removal that is under way detects the loss itself.
            Phase::Created
            | Phase::Leasing { .. }
            | Phase::Launching(_)
            | Phase::Undoing
            | Phase::Adopting { .. }
            | Phase::Removing { .. }
            | Phase::Gone => {}
        }
    }

    pub(super) fn adopted(&mut self, now: Instant, result: Result<Box<StatusRecord>, ExecutorError>) {
        let Phase::Adopting { intent, .. } = self.phase else { return };
        match (intent, result) {
            (Intent::Kill, _) => self.remove_stopped(now),
            (Intent::Stop, Ok(record)) if record.state.is_terminal() => self.remove_stopped(now),
            (Intent::Watch | Intent::Stop, Ok(record)) => {
                self.found(now, record);
                if intent == Intent::Stop {
                    self.stop(now);
                }
            }
            // The executor failed before it called the launcher, which proves nothing about the VM.
            (Intent::Watch | Intent::Stop, Err(ExecutorError::Gone)) => {
                self.phase = Phase::Adopting { intent, retry_at: Some(now + RETRY_DELAY) };
            }
            (Intent::Watch | Intent::Stop, Err(error)) if error.kind() == Some(CallErrorKind::Unreadable) => {
                self.unreadable(&error);
            }
            (Intent::Stop, Err(_)) => self.remove_stopped(now),
            (Intent::Watch, Err(error)) => self.not_adopted(now, &error),
        }
    }

    fn found(&mut self, now: Instant, record: Box<StatusRecord>) {
        if let Ok(cid) = Cid::new(record.vsock.cid) {
            self.effects.push(Effect::Reserve(cid));
        }
        let stage = Stage::Booting { deadline: now + self.spec.start.timeout };
        self.phase = Phase::Alive { stage, link: Link::NotDialled };
        if !record.state.is_terminal() {
            self.effects.push(Effect::Watch(record.clone()));
        }
        self.status(now, &record);
    }

    /// Gives up a VM of which a stored file cannot be read. The VM runs on, and only an operator removes it
    /// (semantics 13.2).
    pub(super) fn unreadable(&mut self, error: &ExecutorError) {
        self.effects.push(Effect::Notice(format!("cannot be taken over, runs on unsupervised: {error}")));
        self.gone(Ending::Unreadable { message: error.to_string() });
    }

    fn not_adopted(&mut self, now: Instant, error: &ExecutorError) {
        if error.kind() == Some(CallErrorKind::NoSuchVm) {
            // No program saw how the VM ended.
            return self.gone(Exit::Unknown.into());
        }
        self.effects.push(Effect::Notice(format!("cannot be taken over: {error}")));
        // The VM may run. A VM that cannot be watched is killed.
        self.remove(now, Exit::Unknown.into());
    }
}
