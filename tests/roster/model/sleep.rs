//! VMs that sleep until a client comes (semantics 20).

use super::*;
use pepita_supervisor::spec::StartOn;

impl Vm {
    pub(super) fn may_be_idle(&self) -> bool {
        self.spec.start.on == StartOn::Connection || !self.spec.idle.after.is_zero()
    }

    /// Returns the phase of a VM that its group starts.
    pub(super) fn at_start(&self) -> Is {
        match self.spec.start.on {
            StartOn::Boot if !(self.drowsy && self.may_be_idle()) => Is::Waiting,
            StartOn::Boot | StartOn::Connection => Is::Idle { not_before: None, is_called: false },
        }
    }

    /// Returns the phase of a VM that has ended cleanly by itself, at this moment.
    pub(super) fn at_clean_end(&self, now: Instant) -> Is {
        match self.spec.start.on {
            StartOn::Connection if !self.spec.significant => {
                Is::Idle { not_before: Some(now + self.spec.restart.backoff.initial), is_called: false }
            }
            StartOn::Boot | StartOn::Connection => Is::Completed,
        }
    }
}

impl Model {
    /// Takes in whether a VM is used.
    pub(super) fn drowsiness(&mut self, v: usize, news: Transition) {
        let in_set = self.round.as_ref().is_some_and(|round| round.set.contains(&self.vms[v].spec.name));
        let goes_on = self.group == Group::Up && !in_set;
        let vm = &mut self.vms[v];
        match news {
            Transition::Idle => vm.drowsy |= goes_on && vm.is == Is::Ready && vm.may_be_idle(),
            _ => vm.drowsy = false,
        }
        self.go_on();
    }

    /// Lets a VM sleep that has ended.
    pub(super) fn sleeps_after(&mut self, v: usize) {
        match self.group {
            Group::Up if self.vms[v].may_be_idle() => {
                self.vms[v].is = Is::Idle { not_before: None, is_called: false };
            }
            Group::Up => {
                (self.vms[v].in_order, self.vms[v].first) = (false, false);
                self.wait_or_start(v);
            }
            Group::GoingDown(_) | Group::Down(_) => self.vms[v].is = Is::Stopped,
        }
    }

    /// Takes in that a client waits at a port of a VM.
    pub(crate) fn client_came(&mut self, v: usize) {
        if let Is::Idle { is_called, .. } = &mut self.vms[v].is {
            *is_called = true;
        }
        self.go_on();
    }

    /// Starts what sleeps and was called, when it may start.
    pub(super) fn wake(&mut self) {
        for v in 0..self.vms.len() {
            let alone = self.round.as_ref().is_none_or(|round| !round.set.contains(&self.vms[v].spec.name));
            if let Is::Idle { not_before, is_called: true } = self.vms[v].is
                && alone
                && not_before.is_none_or(|at| at <= self.now)
            {
                (self.vms[v].in_order, self.vms[v].first) = (false, false);
                self.wait_or_start(v);
            }
        }
    }
}
