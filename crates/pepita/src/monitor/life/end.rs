//! The end: the daemon's, the back-end's, the VMM's.

use super::phase::Phase;
use super::{Effect, Life};
use crate::monitor::evidence::{LastWords, Report, Verdict, Way, weigh_evidence};
use pepita_wire::record::DaemonState;
use pepita_wire::{Exit, ExitRecord};
use std::time::{Duration, Instant};

/// A VMM that seems to be ending has to be gone after this long; else its back-end went before it.
pub(super) const VMM_EXIT: Duration = Duration::from_millis(500);

impl Life {
    /// Takes in the agent's report of the daemon's end. The first report over vsock holds; a note on the console is believed
    /// until then.
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
                self.phase = Phase::leaving(now);
            }
            // The deadline that was set holds.
            Phase::Leaving { .. }
            | Phase::Stopping(_)
            | Phase::Terminating { .. }
            | Phase::Killing { .. }
            | Phase::Ended(_) => {}
        }
    }

    /// A VMM that ends takes its back-end along, and the back-end's end may be seen first: its socket is closed before its
    /// process is gone.
    pub(super) fn on_backend_ended(&mut self, now: Instant, vmm_is_exiting: bool) {
        let vmm_is_exiting = vmm_is_exiting || self.evidence.shutdown.is_some();
        match (&self.phase, vmm_is_exiting) {
            (Phase::Created(_) | Phase::Booting(_) | Phase::Running, true) => {
                self.phase = Phase::Severed { kill_at: now + VMM_EXIT };
            }
            (Phase::Created(_) | Phase::Booting(_) | Phase::Running | Phase::Severed { .. }, false) => {
                self.evidence.backend_died = true;
                self.kill_vmm(now);
            }
            (Phase::Severed { .. }, true) => {}
            // On its way down, a VM goes down without a back-end.
            (
                Phase::Leaving { .. }
                | Phase::Stopping(_)
                | Phase::Terminating { .. }
                | Phase::Killing { .. }
                | Phase::Ended(_),
                _,
            ) => {}
        }
    }

    pub(super) fn on_vmm_ended(&mut self, unix_ms: u64, last_words: LastWords) {
        let Verdict { exit, daemon, evidence } = weigh_evidence(&self.evidence, &last_words);
        let LastWords { vmm, console, .. } = last_words;
        let (name, incarnation) = (self.status.name.clone(), self.status.incarnation);
        let record =
            ExitRecord { name, incarnation, exit, daemon, ended_at_ms: unix_ms, vmm, evidence, console };
        self.status.uptime_ms = unix_ms.saturating_sub(self.status.started_at);
        self.status.daemon.pid = None;
        self.phase = Phase::Ended(Box::new(record.clone()));
        self.effects.push(Effect::Finish(Box::new(record)));
    }
}
