//! The end: the daemon's, the back-end's, the VMM's.

use super::phase::Phase;
use super::{Effect, LastWords, Life};
use crate::monitor::evidence::judge;
use crate::vmm::VmmEnd;
use pepita_wire::record::DaemonState;
use pepita_wire::{Exit, ExitRecord};
use std::time::{Duration, Instant};

/// A VMM that seems to be ending has to be gone after this long; else its back-end went before it.
pub(super) const VMM_EXIT: Duration = Duration::from_millis(500);

impl Life {
    /// The agent has written on the console how its daemon ended. That is believed until vsock says it, too.
    pub(super) fn on_exit_noted(&mut self, now: Instant, exit: Exit) {
        if self.evidence.report.is_none() {
            self.evidence.report = Some(exit);
            self.evidence.by_console = true;
            self.on_daemon_ended(now);
        }
    }

    /// The agent has told over vsock how its daemon ended. The first such report holds.
    pub(super) fn on_exit_reported(&mut self, now: Instant, exit: Exit) {
        if self.evidence.report.is_none() || self.evidence.by_console {
            self.evidence.report = Some(exit);
            self.evidence.by_console = false;
            self.on_daemon_ended(now);
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
        let LastWords { end, vmm_words, panic_line, console } = last_words;
        (self.evidence.vmm, self.evidence.vmm_words, self.evidence.panic_line) = (end, vmm_words, panic_line);
        let (exit, evidence) = judge(&self.evidence);
        let record = ExitRecord {
            name: self.status.name.clone(),
            incarnation: self.status.incarnation,
            daemon: if exit.is_of_daemon() { None } else { self.evidence.report.clone() },
            exit,
            ended_at_ms: unix_ms,
            vmm: match end {
                VmmEnd::Seen(exit) => Some(exit),
                VmmEnd::Runs | VmmEnd::Unseen => None,
            },
            evidence,
            console,
        };
        self.status.uptime_ms = unix_ms.saturating_sub(self.status.started_at);
        self.status.daemon.pid = None;
        self.phase = Phase::Ended(Box::new(record.clone()));
        self.effects.push(Effect::Finish(Box::new(record)));
    }
}
