//! VMs that sleep until a client comes (semantics 20).

use super::*;
use pepita_supervisor::spec::StartOn;

impl Vm {
    /// Returns the phase of a VM that its group starts.
    pub(super) fn at_start(&self) -> Is {
        match self.spec.start.on {
            StartOn::Boot => Is::Waiting,
            StartOn::Connection => Is::Idle { not_before: None, is_called: false },
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
