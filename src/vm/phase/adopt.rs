//! The adoption of an incarnation: the launcher finds the VM and makes sure that it has a monitor, or says that it is
//! gone; then the monitor answers (semantics 9.4, 9.11, 9.14).
//!
//! ```text
//!              found               the monitor answers
//!   Calling ──────────▶ Asking ───────────────────────▶ Alive
//!      ▲ │                │
//!      │ │ failed         │ the monitor is gone
//!      │ ▼                ▼
//!      └──────────── Pausing
//! ```

use super::{
    ADOPTION_DELAY_MAX, Adoption, Effect, Intent, Life, Link, MONITOR_PATIENCE, Phase, RETRY_DELAY, Search,
    Stage,
};
use crate::executor::ExecutorError;
use crate::policy::Ending;
use crate::spec::Cid;
use crate::vm::report::{Facts, Transition};
use pepita_wire::record::CallErrorKind;
use pepita_wire::{Exit, StatusRecord};
use std::time::{Duration, Instant};

impl Adoption {
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let search = match self.search {
            Search::Calling => None,
            Search::Pausing { until } => Some(until),
            Search::Asking { silent_at } => silent_at,
        };
        let kill_at = match self.intent {
            Intent::Watch => None,
            Intent::Stop { deadline } => Some(deadline),
        };
        search.into_iter().chain(kill_at).min()
    }

    /// Has the launcher asked again after a delay that grows with each failure.
    fn pause(&mut self, now: Instant) {
        let delay = RETRY_DELAY.saturating_mul(1 << self.failures.min(5)).min(ADOPTION_DELAY_MAX);
        self.failures = self.failures.saturating_add(1);
        self.search = Search::Pausing { until: now + delay };
    }

    /// Returns the effects that tell once that the VM cannot be reached.
    fn unreachable(&mut self) -> Option<Effect> {
        let told = std::mem::replace(&mut self.is_unreachable, true);
        (!told).then_some(Effect::Tell(Transition::Unreachable))
    }
}

impl Life {
    pub(super) fn adopt(&mut self, intent: Intent) {
        let said = String::new();
        let adoption = Adoption { intent, search: Search::Calling, failures: 0, said, is_unreachable: false };
        self.phase = Phase::Adopting(adoption);
        self.effects.push(Effect::Adopt);
    }

    pub(super) fn monitor_lost(&mut self, now: Instant, why: &str) {
        match &mut self.phase {
            Phase::Alive { .. } => {
                let text = format!("its monitor is gone ({why}); looking for the VM");
                self.effects.push(Effect::Notice(text));
                self.adopt(Intent::Watch);
            }
            // In most cases the VM has ended between the monitor's last answer and the next question.
            Phase::Stopping { deadline, ending } if ending.exit() == Some(&Exit::StopRequested) => {
                let deadline = *deadline;
                self.adopt(Intent::Stop { deadline });
            }
            // The time of a daemon whose health has failed is over when its monitor is gone.
            Phase::Stopping { ending, .. } => {
                let ending = ending.clone();
                self.remove(now, ending);
            }
            Phase::Adopting(adoption) => match adoption.search {
                Search::Asking { .. } => self.not_found(now, why),
                // The report of a watch that was given up.
                Search::Calling | Search::Pausing { .. } => {}
            },
            // A launch or a removal that is under way detects the loss itself.
            Phase::Created
            | Phase::Leasing { .. }
            | Phase::Launching(_)
            | Phase::Undoing
            | Phase::Removing { .. }
            | Phase::Gone => {}
        }
    }

    pub(super) fn adopted(&mut self, now: Instant, result: Result<Box<StatusRecord>, ExecutorError>) {
        let Phase::Adopting(adoption) = &mut self.phase else { return };
        if adoption.search != Search::Calling {
            return;
        }
        match result {
            Ok(record) if record.state.is_terminal() => match adoption.intent {
                Intent::Watch => self.found(now, &record),
                Intent::Stop { .. } => self.remove_stopped(now),
            },
            Ok(record) => {
                adoption.search = Search::Asking { silent_at: Some(now + MONITOR_PATIENCE) };
                let cid = Cid::new(record.vsock.cid).ok();
                self.effects.extend(cid.map(Effect::Reserve));
                self.know(Facts { cid, vmm_pid: record.vmm_pid, ..Facts::default() });
                self.effects.push(Effect::Watch(record));
            }
            // The executor failed before it called the launcher, which proves nothing about the VM.
            Err(ExecutorError::Gone) => adoption.search = Search::Pausing { until: now + RETRY_DELAY },
            Err(error) if error.kind() == Some(CallErrorKind::Unreadable) => match adoption.intent {
                Intent::Watch => self.unreadable(&error),
                // A VM whose files were removed can still be ended; any other is refused again (semantics 13.8).
                Intent::Stop { .. } => self.remove_stopped(now),
            },
            // No program saw how the VM ended.
            Err(error) if error.kind() == Some(CallErrorKind::NoSuchVm) => self.gone(Exit::Unknown.into()),
            // No process, no descriptor, no answer in time: that says nothing about the VM.
            Err(error) => self.not_found(now, &error.to_string()),
        }
    }

    /// Takes in a report of the monitor that an adoption waits for.
    pub(super) fn answered(&mut self, now: Instant, record: &StatusRecord) {
        let Phase::Adopting(Adoption { search: Search::Asking { .. }, intent, .. }) = self.phase else {
            return;
        };
        match intent {
            Intent::Watch => self.found(now, record),
            Intent::Stop { .. } if record.state.is_terminal() => self.remove_stopped(now),
            Intent::Stop { deadline } => {
                self.found(now, record);
                self.stop_by(now, deadline);
            }
        }
    }

    pub(super) fn tick_adopting(&mut self, now: Instant) {
        let Phase::Adopting(adoption) = &mut self.phase else { return };
        if let Intent::Stop { deadline } = adoption.intent
            && now >= deadline
        {
            return self.late_stop(now, Exit::StopRequested.into());
        }
        match adoption.search {
            Search::Pausing { until } if now >= until => {
                adoption.search = Search::Calling;
                self.effects.push(Effect::Adopt);
            }
            Search::Asking { silent_at: Some(at) } if now >= at => {
                adoption.search = Search::Asking { silent_at: None };
                let text = "its monitor does not answer; the VM is left as it is, and is taken over when the monitor \
                            answers";
                self.effects.extend(adoption.unreachable());
                self.effects.push(Effect::Notice(text.into()));
            }
            Search::Calling | Search::Pausing { .. } | Search::Asking { .. } => {}
        }
    }

    /// Leaves a VM that could not be found as it is, and looks for it again later.
    fn not_found(&mut self, now: Instant, why: &str) {
        let Phase::Adopting(adoption) = &mut self.phase else { return };
        // One failure may pass at once, and is only told.
        if adoption.failures > 0 {
            self.effects.extend(adoption.unreachable());
        }
        adoption.pause(now);
        if adoption.said != why {
            why.clone_into(&mut adoption.said);
            let text = format!("cannot be taken over yet, is left as it is and looked for again: {why}");
            self.effects.push(Effect::Notice(text));
        }
    }

    fn found(&mut self, now: Instant, record: &StatusRecord) {
        self.effects.push(Effect::Tell(Transition::Reached));
        let stage = Stage::Booting { deadline: now + self.spec.start.timeout };
        self.phase = Phase::Alive { stage, link: Link::NotDialled };
        self.is_adopted = true;
        self.status(now, record);
    }

    /// Gives up a VM of which a stored file cannot be read. The VM runs on, and only an operator removes it
    /// (semantics 13.2).
    pub(super) fn unreadable(&mut self, error: &ExecutorError) {
        self.effects.push(Effect::Notice(format!("cannot be taken over, runs on unsupervised: {error}")));
        self.gone(Ending::Unreadable { message: error.to_string() });
    }

    /// Stops a VM that is being adopted once it is found, within the time that any stop has.
    pub(super) fn stop_adopting(&mut self, now: Instant, limit: Duration) {
        let Phase::Adopting(adoption) = &mut self.phase else { return };
        if let Intent::Watch = adoption.intent {
            adoption.intent = Intent::Stop { deadline: now + limit };
        }
    }
}
