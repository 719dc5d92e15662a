//! The start of an incarnation: a CID is leased and the VM is launched.

use super::{Attempt, Effect, Intent, Life, Link, Phase, RETRY_DELAY, Stage};
use crate::executor::ExecutorError;
use crate::policy::Ending;
use crate::spec::Cid;
use crate::vm::report::{Facts, Mode};
use pepita_wire::record::CallErrorKind;
use pepita_wire::{Exit, StatusRecord};
use std::time::Instant;

/// The number of CIDs of other programs that one launch may run into before it counts as failed.
const TAKEN_CIDS_MAX: u32 = 64;

impl Life {
    pub(super) fn start(&mut self, mode: Mode) {
        match self.phase {
            Phase::Created => match mode {
                Mode::Launch => {
                    self.phase = Phase::Leasing { attempt: None, retry_at: None };
                    self.effects.push(Effect::Lease);
                }
                Mode::Adopt => self.adopt(Intent::Watch),
            },
            Phase::Leasing { .. }
            | Phase::Launching(_)
            | Phase::Undoing
            | Phase::Adopting(_)
            | Phase::Alive { .. }
            | Phase::Stopping { .. }
            | Phase::Removing { .. }
            | Phase::Gone => {}
        }
    }

    pub(super) fn leased(&mut self, now: Instant, lease: Option<Result<Cid, String>>) {
        let Phase::Leasing { attempt, retry_at } = &mut self.phase else { return };
        match lease {
            // The allocator failed before it answered: its successor is asked.
            None => *retry_at = Some(now + RETRY_DELAY),
            Some(Ok(cid)) => {
                let first =
                    Attempt { deadline: now + self.spec.start.timeout, taken_cids: 0, is_told: false };
                self.phase = Phase::Launching(attempt.unwrap_or(first));
                self.know(Facts { cid: Some(cid), vmm_pid: None });
                self.effects.push(Effect::Launch(cid));
            }
            Some(Err(message)) => {
                self.gone(Ending::NotLaunched { recoverable: true, refused: false, message });
            }
        }
    }

    pub(super) fn launched(&mut self, now: Instant, result: Result<Box<StatusRecord>, ExecutorError>) {
        match self.phase {
            Phase::Launching(attempt) => match result {
                Ok(record) => {
                    let stage = Stage::Booting { deadline: attempt.deadline };
                    self.phase = Phase::Alive { stage, link: Link::NotDialled };
                    self.effects.push(Effect::Watch(record.clone()));
                    self.status(now, &record);
                }
                Err(error) => self.not_launched(now, attempt, &error),
            },
            Phase::Undoing => match result {
                // The launcher was not called.
                Err(ExecutorError::Cancelled | ExecutorError::Gone) => self.gone(Exit::StopRequested.into()),
                Ok(_) | Err(_) => self.remove_stopped(now),
            },
            Phase::Created
            | Phase::Leasing { .. }
            | Phase::Adopting(_)
            | Phase::Alive { .. }
            | Phase::Stopping { .. }
            | Phase::Removing { .. }
            | Phase::Gone => {}
        }
    }

    /// Begins the time for the start: a download does not count.
    pub(super) fn prepared(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Launching(attempt) => attempt.deadline = now + self.spec.start.timeout,
            Phase::Created
            | Phase::Leasing { .. }
            | Phase::Undoing
            | Phase::Adopting(_)
            | Phase::Alive { .. }
            | Phase::Stopping { .. }
            | Phase::Removing { .. }
            | Phase::Gone => {}
        }
    }

    fn not_launched(&mut self, now: Instant, attempt: Attempt, error: &ExecutorError) {
        // The executor failed before it called the launcher: its successor is asked.
        if matches!(error, ExecutorError::Gone) {
            self.phase = Phase::Leasing { attempt: Some(attempt), retry_at: Some(now + RETRY_DELAY) };
            return;
        }
        // The launcher could not be run: no process, no descriptor. That is no failure of the VM, as long as there is time.
        let retry_at = now + RETRY_DELAY;
        if matches!(error, ExecutorError::Call { .. }) && retry_at < attempt.deadline {
            if !attempt.is_told {
                self.effects.push(Effect::Notice(format!("cannot be launched yet: {error}")));
            }
            let attempt = Attempt { is_told: true, ..attempt };
            self.phase = Phase::Leasing { attempt: Some(attempt), retry_at: Some(retry_at) };
            return;
        }
        let kind = error.kind();
        if kind == Some(CallErrorKind::CidTaken) && attempt.taken_cids < TAKEN_CIDS_MAX {
            let attempt = Attempt { taken_cids: attempt.taken_cids + 1, ..attempt };
            self.phase = Phase::Leasing { attempt: Some(attempt), retry_at: None };
            self.effects.push(Effect::Notice(format!("{error}; another CID is leased")));
            self.effects.push(Effect::LeaseAnother);
            return;
        }
        if kind == Some(CallErrorKind::Unreadable) {
            return self.gone(Ending::Unreadable { message: error.to_string() });
        }
        let ending = Ending::NotLaunched {
            recoverable: error.is_recoverable(),
            refused: kind == Some(CallErrorKind::Usage),
            message: error.to_string(),
        };
        if kind == Some(CallErrorKind::NameTaken) || error.may_have_launched() {
            // A former incarnation of this VM is left, or this one may come up although the launcher has not said so. It
            // must be gone before the next incarnation starts, and before this one counts as failed.
            self.remove(now, ending);
        } else {
            self.gone(ending);
        }
    }
}
