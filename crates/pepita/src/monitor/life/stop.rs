//! The way down: a stop has one deadline, a kill overtakes it, and what does not end is killed until it does.

use super::phase::{AgentLine, BootClock, Phase, Stopping};
use super::{Effect, Life, ms};
use crate::monitor::evidence::Asked;
use pepita_wire::agent::Stop;
use pepita_wire::record::{DaemonState, VcpuState};
use pepita_wire::{Ask, Signal};
use std::time::{Duration, Instant};

/// How long a stop waits for an agent that was there before and cannot be reached now.
pub(super) const COME_BACK: Duration = Duration::from_millis(300);

/// From the daemon's KILL until the VMM's TERM: draining, the report, the guest's way down.
pub(super) const AFTER_GRACE: Duration = Duration::from_millis(400);

/// From the VMM's TERM until its KILL.
pub(super) const TERM_TO_KILL: Duration = Duration::from_millis(400);

/// From a KILL until the next one, should the VMM still be there.
pub(super) const KILL_AGAIN: Duration = Duration::from_secs(1);

impl Life {
    pub(super) fn on_stop(&mut self, now: Instant, signal: Signal, grace: Duration) {
        self.note_asked(Asked::Stop);
        if self.vcpus == VcpuState::Paused {
            // A guest that stands still cannot stop its daemon.
            self.effects.push(Effect::Resume);
        }
        let new = Stopping { signal, grace_until: now + grace, term_at: self.term_at(now, grace) };
        let stopping = match self.phase {
            Phase::Created(_) | Phase::Booting(_) | Phase::Running | Phase::Severed { .. } => new,
            // The daemon has ended already: what was allowed to its guest is not extended.
            Phase::Leaving { term_at } => Stopping { term_at: new.term_at.min(term_at), ..new },
            // Asked again, the earlier deadlines hold.
            Phase::Stopping(before) => Stopping {
                signal,
                grace_until: new.grace_until.min(before.grace_until),
                term_at: new.term_at.min(before.term_at),
            },
            // The end is a matter of moments.
            Phase::Terminating { .. } | Phase::Killing { .. } | Phase::Ended(_) => return,
        };
        match self.agent {
            AgentLine::Up => self.ask_to_stop(now, signal, stopping.grace_until),
            // The agent may be back in a moment, or not at all.
            AgentLine::Lost { .. } => self.agent = AgentLine::Lost { dial_at: now },
            AgentLine::Expected { .. } => {}
        }
        self.phase = Phase::Stopping(stopping);
        self.on_tick(now);
    }

    /// Returns when the VMM is to be sent TERM, for a stop at `now`.
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

    /// Has the agent stop the daemon, or the guest when no daemon runs.
    pub(super) fn ask_to_stop(&mut self, now: Instant, signal: Signal, grace_until: Instant) {
        let grace_ms = ms(grace_until.saturating_duration_since(now));
        let ask = match self.status.daemon.state {
            DaemonState::Running | DaemonState::Ready => Ask::Stop(Stop { signal, grace_ms }),
            DaemonState::Pending | DaemonState::Held | DaemonState::Exited | DaemonState::Unknown => {
                Ask::PowerOff
            }
        };
        self.effects.push(Effect::Tell(ask));
    }

    pub(super) fn on_kill(&mut self, now: Instant) {
        self.note_asked(Asked::Kill);
        self.kill_vmm(now);
    }

    /// Notes what was asked for, unless the daemon had ended by itself before.
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

    /// Goes on when the time of the phase is over.
    pub(super) fn on_tick(&mut self, now: Instant) {
        match self.phase {
            Phase::Created(BootClock::Runs { deadline }) | Phase::Booting(BootClock::Runs { deadline })
                if now >= deadline =>
            {
                self.evidence.boot_timeout = true;
                self.kill_vmm(now);
            }
            // The VMM was not ending after all: it has lost its back-end.
            Phase::Severed { kill_at } if now >= kill_at => {
                self.evidence.backend_died = true;
                self.kill_vmm(now);
            }
            Phase::Leaving { term_at } | Phase::Stopping(Stopping { term_at, .. }) if now >= term_at => {
                self.phase = Phase::Terminating { kill_at: now + TERM_TO_KILL };
                self.effects.push(Effect::TermVmm);
            }
            Phase::Terminating { kill_at: at } | Phase::Killing { again_at: at } if now >= at => {
                self.kill_vmm(now);
            }
            // Not due, or without a deadline.
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
