//! How an incarnation begins: leased and launched, or adopted.

use super::{CALL_RETRY, CID_TRIES, Effect, Life, Phase, Then};
use crate::executor::ExecutorError;
use crate::policy::{Ending, Exit};
use crate::spec::Cid;
use crate::vm::report::{Facts, Mode};
use pepita_wire::StatusRecord;
use pepita_wire::record::CallErrorKind;
use std::time::Instant;

impl Life {
    pub(super) fn begin(&mut self, mode: Mode) {
        if !matches!(self.phase, Phase::Created) {
            return;
        }
        match mode {
            Mode::Launch => {
                self.phase = Phase::Leasing { retry: None };
                self.effects.push(Effect::Lease);
            }
            Mode::Adopt => {
                self.phase = Phase::Adopting { then: Then::Watch, retry: None };
                self.effects.push(Effect::Adopt);
            }
        }
    }

    pub(super) fn leased(&mut self, now: Instant, lease: Option<Result<Cid, String>>) {
        let (deadline, tries) = match self.phase {
            Phase::Leasing { .. } => (now + self.spec.start.timeout, 0),
            Phase::Launching { undo: true, .. } => return self.gone(Exit::StopRequested.into()),
            Phase::Launching { deadline, tries, .. } => (deadline, tries),
            _ => return,
        };
        // The allocator failed before it answered: its successor is asked.
        let Some(lease) = lease else {
            let (Phase::Leasing { retry } | Phase::Launching { retry, .. }) = &mut self.phase else { return };
            *retry = Some(now + CALL_RETRY);
            return;
        };
        match lease {
            Ok(cid) => {
                self.phase = Phase::Launching { undo: false, deadline, tries, retry: None };
                self.effects.push(Effect::Facts(Facts { cid: Some(cid), vmm_pid: None }));
                self.effects.push(Effect::Launch(cid));
            }
            Err(message) => self.gone(Ending::NotLaunched { recoverable: true, message }),
        }
    }

    pub(super) fn launched(&mut self, now: Instant, result: Result<Box<StatusRecord>, ExecutorError>) {
        let Phase::Launching { undo, deadline, tries, .. } = self.phase else { return };
        match result {
            Ok(_) if undo => self.destroy(now, Exit::StopRequested.into()),
            Ok(record) => {
                self.phase = Phase::Booting { deadline };
                self.effects.push(Effect::Watch(record.clone()));
                self.status(now, &record);
            }
            // The launcher was not called.
            Err(ExecutorError::Cancelled | ExecutorError::Gone) if undo => {
                self.gone(Exit::StopRequested.into())
            }
            Err(_) if undo => self.destroy(now, Exit::StopRequested.into()),
            Err(ExecutorError::Gone) => {
                self.phase = Phase::Launching { undo, deadline, tries, retry: Some(now + CALL_RETRY) };
            }
            Err(e) if e.kind() == Some(CallErrorKind::CidTaken) && tries < CID_TRIES => {
                self.phase = Phase::Launching { undo, deadline, tries: tries + 1, retry: None };
                self.effects.push(Effect::Notice(format!("{e}; another CID is leased")));
                self.effects.push(Effect::Avoid);
            }
            Err(e) if e.kind() == Some(CallErrorKind::NameTaken) => {
                // A former incarnation of ours that nobody took down. It must go before the next one comes.
                self.destroy(now, Ending::NotLaunched { recoverable: true, message: e.to_string() });
            }
            Err(e) => {
                let recoverable = e.is_recoverable();
                self.gone(Ending::NotLaunched { recoverable, message: e.to_string() });
            }
        }
    }

    pub(super) fn adopted(&mut self, now: Instant, result: Result<Box<StatusRecord>, ExecutorError>) {
        let Phase::Adopting { then, .. } = self.phase else { return };
        match result {
            _ if then == Then::Destroy => self.destroy(now, Exit::StopRequested.into()),
            // It went politely; now its traces go.
            Ok(record) if then == Then::Stop && record.state.is_terminal() => {
                self.destroy(now, Exit::StopRequested.into())
            }
            Ok(record) => {
                if let Ok(cid) = Cid::new(record.vsock.cid) {
                    self.effects.push(Effect::Reserve(cid));
                }
                self.phase = Phase::Booting { deadline: now + self.spec.start.timeout };
                self.connected = false;
                if !record.state.is_terminal() {
                    self.effects.push(Effect::Watch(record.clone()));
                }
                self.status(now, &record);
                if then == Then::Stop {
                    self.stop(now);
                }
            }
            // The executor failed before it called the launcher, which proves nothing about the VM.
            Err(ExecutorError::Gone) => {
                self.phase = Phase::Adopting { then, retry: Some(now + CALL_RETRY) };
            }
            Err(_) if then == Then::Stop => self.destroy(now, Exit::StopRequested.into()),
            // It is not there: nobody saw it end.
            Err(e) if e.kind() == Some(CallErrorKind::NoSuchVm) => self.gone(Exit::Unknown.into()),
            // It may be there. What we cannot watch we take down.
            Err(e) => {
                self.effects.push(Effect::Notice(format!("cannot be taken over: {e}")));
                self.destroy(now, Exit::Unknown.into());
            }
        }
    }
}
