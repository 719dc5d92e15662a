//! The ends of the daemon, of the back-end and of the VMM.

use super::phase::Phase;
use super::{Effect, Life};
use crate::monitor::evidence::{LastWords, Report, Verdict, Way, weigh_evidence};
use pepita_wire::record::DaemonState;
use pepita_wire::{Exit, ExitRecord};
use std::time::{Duration, Instant};

/// The time limit for a VMM that seems to be ending. A VMM that still runs after it has lost its back-end.
pub(super) const VMM_EXIT: Duration = Duration::from_millis(500);

impl Life {
    /// Handles the agent's report of the daemon's end. The first report over vsock is final; a note on the console is
    /// believed until that report comes.
    pub(super) fn on_daemon_reported(&mut self, now: Instant, exit: Exit, way: Way) {
        match (self.evidence.report.as_ref().map(|report| report.way), way) {
            (None, Way::Vsock | Way::Console) | (Some(Way::Console), Way::Vsock) => {
                self.evidence.report = Some(Report { exit, way });
                self.on_daemon_ended(now);
            }
            (Some(Way::Vsock), Way::Vsock | Way::Console) | (Some(Way::Console), Way::Console) => {}
        }
    }

    fn on_daemon_ended(&mut self, now: Instant) {
        (self.status.daemon.state, self.status.daemon.pid) = (DaemonState::Exited, None);
        match self.phase {
            Phase::Created(_) | Phase::Booting(_) | Phase::Running | Phase::Severed { .. } => {
                self.phase = Phase::leaving(now, self.linger);
            }
            // The deadline of the phase stays as it is.
            Phase::Leaving { .. }
            | Phase::Stopping(_)
            | Phase::Terminating { .. }
            | Phase::Killing { .. }
            | Phase::Ended(_) => {}
        }
    }

    /// Handles the end of the back-end.
    pub(super) fn on_backend_ended(&mut self, now: Instant, vmm_is_exiting: bool) {
        if self.loses_a_helper(now, vmm_is_exiting) {
            self.evidence.backend_died = true;
            self.kill_vmm(now);
        }
    }

    /// Handles the end of the server of a share.
    pub(super) fn on_share_ended(&mut self, now: Instant, vmm_is_exiting: bool, how: String) {
        if self.loses_a_helper(now, vmm_is_exiting) {
            self.evidence.share_lost = Some(how);
            self.kill_vmm(now);
        }
    }

    /// Returns whether the VM has lost a process without which it cannot go on. When the VMM ends, its back-end and the
    /// servers of its shares follow, and their end may be noticed first, because the kernel closes the VMM's sockets before
    /// the VMM's process is gone.
    fn loses_a_helper(&mut self, now: Instant, vmm_is_exiting: bool) -> bool {
        let vmm_is_exiting = vmm_is_exiting || self.evidence.shutdown.is_some();
        match (&self.phase, vmm_is_exiting) {
            (Phase::Created(_) | Phase::Booting(_) | Phase::Running, true) => {
                self.phase = Phase::Severed { kill_at: now + VMM_EXIT };
                false
            }
            (Phase::Created(_) | Phase::Booting(_) | Phase::Running | Phase::Severed { .. }, false) => true,
            (Phase::Severed { .. }, true) => false,
            // A VM that is shutting down needs no helper.
            (
                Phase::Leaving { .. }
                | Phase::Stopping(_)
                | Phase::Terminating { .. }
                | Phase::Killing { .. }
                | Phase::Ended(_),
                _,
            ) => false,
        }
    }

    /// Handles a VMM that has stopped its guest by itself: on its way to its own end (after a panic of the guest), or
    /// after an error. Its devices are stopped, too, and vhost-device-vsock does not recover from that, so the VM cannot
    /// go on: a VMM that does not end is killed. A guest that is shown as paused would wait for an operator for ever.
    pub(super) fn on_vmm_stopped(&mut self, now: Instant) {
        match self.phase {
            Phase::Created(_) | Phase::Booting(_) | Phase::Running => {
                self.evidence.vmm_stopped = true;
                self.phase = Phase::Severed { kill_at: now + VMM_EXIT };
            }
            // The VM ends already, and each of these phases has a deadline.
            Phase::Severed { .. }
            | Phase::Leaving { .. }
            | Phase::Stopping(_)
            | Phase::Terminating { .. }
            | Phase::Killing { .. }
            | Phase::Ended(_) => {}
        }
    }

    /// Records an error of the host's disk. The guest gets it as an error of its own disk and goes on.
    pub(super) fn on_disk_error(&mut self, reason: String) {
        // A guest may write on and get the same error many times.
        if self.status.disk_error.as_ref() != Some(&reason) {
            self.status.disk_error = Some(reason);
        }
    }

    pub(super) fn on_vmm_ended(&mut self, unix_ms: u64, last_words: LastWords) {
        self.evidence.console_spoke = self.status.boot_ms.kernel.is_some();
        self.evidence.disk_error.clone_from(&self.status.disk_error);
        let Verdict { exit, daemon, evidence } = weigh_evidence(&self.evidence, &last_words);
        let LastWords { vmm, console, around_panic, .. } = last_words;
        let is_panic = matches!(exit, Exit::GuestPanic { .. }) && !around_panic.is_empty();
        let console = if is_panic { around_panic } else { console };
        let advice = self.evidence.advice.clone();
        let (name, incarnation) = (self.status.name.clone(), self.status.incarnation);
        let record = ExitRecord {
            name,
            incarnation,
            exit,
            daemon,
            ended_at_ms: unix_ms,
            vmm,
            evidence,
            advice,
            console,
        };
        self.status.uptime_ms = unix_ms.saturating_sub(self.status.started_at);
        self.status.daemon.pid = None;
        self.phase = Phase::Ended(Box::new(record.clone()));
        self.effects.push(Effect::Finish(Box::new(record)));
    }
}
