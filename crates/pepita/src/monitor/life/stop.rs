//! The shutdown: a stop has one deadline, a kill overrides a stop, and a VMM that does not end is killed again and
//! again.

use super::phase::{AgentLine, BootClock, Phase, Stopping};
use super::{Effect, Life, ms};
use crate::monitor::evidence::Asked;
use pepita_wire::agent::Stop;
use pepita_wire::record::{DaemonState, VcpuState};
use pepita_wire::{Ask, Signal};
use std::time::{Duration, Instant};

/// The time that a stop waits for an agent that was connected before and cannot be reached now.
pub(super) const COME_BACK: Duration = Duration::from_millis(300);

/// The time from the kill of the daemon until SIGTERM to the VMM: for the rest of the output, the report, and the
/// guest's shutdown.
pub(super) const AFTER_GRACE: Duration = Duration::from_millis(400);

/// The time from SIGTERM to the VMM until SIGKILL.
pub(super) const TERM_TO_KILL: Duration = Duration::from_millis(400);

/// The time from a SIGKILL to the VMM until the next one, while the VMM is not gone.
pub(super) const KILL_AGAIN: Duration = Duration::from_secs(1);

impl Life {
    pub(super) fn on_stop(&mut self, now: Instant, signal: Signal, grace: Duration) {
        self.note_asked(Asked::Stop);
        if self.vcpus == VcpuState::Paused {
            // A paused guest cannot stop its daemon.
            self.effects.push(Effect::Resume);
        }
        let new = Stopping { signal, grace_until: now + grace, term_at: self.term_at(now, grace) };
        let stopping = match self.phase {
            Phase::Created(_) | Phase::Booting(_) | Phase::Running | Phase::Severed { .. } => new,
            // The daemon has ended already, and the time limit of its guest is not extended.
            Phase::Leaving { term_at } => Stopping { term_at: new.term_at.min(term_at), ..new },
            // For a repeated stop, the earlier deadlines hold.
            Phase::Stopping(before) => Stopping {
                signal,
                grace_until: new.grace_until.min(before.grace_until),
                term_at: new.term_at.min(before.term_at),
            },
            // The VM ends at once in these phases.
            Phase::Terminating { .. } | Phase::Killing { .. } | Phase::Ended(_) => return,
        };
        match self.agent {
            AgentLine::Up => self.ask_to_stop(now, signal, stopping.grace_until),
            // The agent may be reachable again, so it is dialled at once.
            AgentLine::Lost { .. } => self.agent = AgentLine::Lost { dial_at: now },
            AgentLine::Expected { .. } => {}
        }
        self.phase = Phase::Stopping(stopping);
        self.on_tick(now);
    }

    /// Returns the time at which SIGTERM is sent to the VMM, for a stop at `now`.
    fn term_at(&self, now: Instant, grace: Duration) -> Instant {
        match (&self.phase, self.agent) {
            // Without a back-end the agent cannot be reached any more.
            (Phase::Severed { .. }, _) => now,
            (_, AgentLine::Up) => now + grace + AFTER_GRACE,
            (_, AgentLine::Lost { .. }) => now + grace.min(COME_BACK),
            // A guest that has not booted yet cannot be asked for anything.
            (_, AgentLine::Expected { .. }) => now,
        }
    }

    /// Moves the end of the daemon's grace to later, as the daemon has asked (semantics 7.14). Never moves it to earlier.
    pub(super) fn extend_grace(&mut self, until: Instant) {
        if let Phase::Stopping(stopping) = &mut self.phase {
            stopping.grace_until = stopping.grace_until.max(until);
            stopping.term_at = stopping.term_at.max(until + AFTER_GRACE);
        }
    }

    /// Asks the agent to stop the daemon, or to power off the guest when no daemon runs.
    pub(super) fn ask_to_stop(&mut self, now: Instant, signal: Signal, grace_until: Instant) {
        let grace_ms = ms(grace_until.saturating_duration_since(now));
        let ask = match self.status.daemon.state {
            // The agent may have started the daemon a moment ago. An agent that has not ends at once.
            DaemonState::Running | DaemonState::Ready | DaemonState::Pending | DaemonState::Held => {
                Ask::Stop(Stop { signal, grace_ms })
            }
            DaemonState::Exited | DaemonState::Unknown => Ask::PowerOff,
        };
        self.effects.push(Effect::Tell(ask));
    }

    pub(super) fn on_kill(&mut self, now: Instant) {
        self.note_asked(Asked::Kill);
        self.kill_vmm(now);
    }

    /// Records the kind of end that a client asks for, unless the daemon has ended by itself before.
    fn note_asked(&mut self, asked: Asked) {
        if self.evidence.report.is_some() {
            return;
        }
        self.evidence.asked = match (self.evidence.asked, asked) {
            (Some(Asked::Kill), Asked::Stop | Asked::Kill) | (None | Some(Asked::Stop), Asked::Kill) => {
                Some(Asked::Kill)
            }
            (None | Some(Asked::Stop), Asked::Stop) => Some(Asked::Stop),
        };
    }

    pub(super) fn kill_vmm(&mut self, now: Instant) {
        self.phase = Phase::Killing { again_at: now + KILL_AGAIN };
        self.effects.push(Effect::KillVmm);
    }

    /// Handles the end of the time of a phase.
    pub(super) fn on_tick(&mut self, now: Instant) {
        match self.phase {
            Phase::Created(BootClock::Runs { deadline }) | Phase::Booting(BootClock::Runs { deadline })
                if now >= deadline =>
            {
                self.evidence.boot_timeout = true;
                self.kill_vmm(now);
            }
            // The VMM did not end, so it has stopped its guest for another reason, or has lost its back-end.
            Phase::Severed { kill_at } if now >= kill_at => {
                self.evidence.backend_died |= !self.evidence.vmm_stopped;
                self.kill_vmm(now);
            }
            Phase::Leaving { term_at } | Phase::Stopping(Stopping { term_at, .. }) if now >= term_at => {
                self.phase = Phase::Terminating { kill_at: now + TERM_TO_KILL };
                self.effects.push(Effect::TermVmm);
            }
            Phase::Terminating { kill_at: at } | Phase::Killing { again_at: at } if now >= at => {
                self.kill_vmm(now);
            }
            // The deadline has not come, or the phase has none.
            Phase::Created(_)
            | Phase::Booting(_)
            | Phase::Running
            | Phase::Severed { .. }
            | Phase::Leaving { .. }
            | Phase::Stopping(_)
            | Phase::Terminating { .. }
            | Phase::Killing { .. }
            | Phase::Ended(_) => {}
        }
        self.dial_when_due(now);
    }
}
