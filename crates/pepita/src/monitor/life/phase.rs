//! What each phase of a VM's life holds, and when it has to be woken.

use pepita_wire::{ExitRecord, Signal};
use std::time::{Duration, Instant};

/// How often the agent is dialled although its note on the console was not seen. Not more often: vhost-device-vsock does
/// not survive a client that goes away (for example with its monitor) before a guest that still boots has answered it.
pub(super) const UNASKED_DIAL: Duration = Duration::from_secs(5);

/// How long the guest may take to power off once its daemon has ended.
pub(super) const LINGER: Duration = Duration::from_secs(5);

/// Where a VM is in its life. The drawing is at the head of [`super`].
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Phase {
    /// The VMM was started and has not accepted its arguments and images yet.
    Created(BootClock),
    /// The VMM has accepted them; the guest agent has not said hello yet.
    Booting(BootClock),
    /// The guest agent has said hello at least once.
    Running,
    /// The vsock back-end is gone. The VMM seems to be ending, too, and then the back-end has only followed it.
    Severed { kill_at: Instant },
    /// The daemon has ended; the guest powers off by itself.
    Leaving { term_at: Instant },
    /// A stop was asked for.
    Stopping(Stopping),
    /// TERM was sent to the VMM.
    Terminating { kill_at: Instant },
    /// KILL was sent to the VMM.
    Killing { again_at: Instant },
    /// The VMM is gone.
    Ended(Box<ExitRecord>),
}

/// A stop that was asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Stopping {
    /// The daemon's signal.
    pub(super) signal: Signal,
    /// When the daemon's grace is over. A repeated stop may bring this forward, never put it off.
    pub(super) grace_until: Instant,
    /// When the VMM is sent TERM.
    pub(super) term_at: Instant,
}

/// How long the guest agent may still take to come up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum BootClock {
    /// The virtual CPUs run.
    Runs { deadline: Instant },
    /// The virtual CPUs stand still, and a guest that stands still does not boot.
    Stands { left: Duration },
}

/// The line to the guest agent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum AgentLine {
    /// The agent has never said hello.
    Expected { dial_at: Instant },
    /// The hellos are exchanged.
    Up,
    /// The agent has said hello before, and has hung up.
    Lost { dial_at: Instant },
}

impl Phase {
    /// Returns the phase of a VM whose daemon has ended at `now`.
    pub(super) fn leaving(now: Instant) -> Self {
        Self::Leaving { term_at: now + LINGER }
    }

    /// Returns when this phase is over unless something happens before.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        match self {
            Self::Created(clock) | Self::Booting(clock) => match clock {
                BootClock::Runs { deadline } => Some(*deadline),
                BootClock::Stands { .. } => None,
            },
            Self::Severed { kill_at: at }
            | Self::Leaving { term_at: at }
            | Self::Stopping(Stopping { term_at: at, .. })
            | Self::Terminating { kill_at: at }
            | Self::Killing { again_at: at } => Some(*at),
            Self::Running | Self::Ended(_) => None,
        }
    }

    /// Returns whether the agent still has something to do or to say in this phase.
    pub(super) fn wants_the_agent(&self) -> bool {
        match self {
            Self::Created(_)
            | Self::Booting(_)
            | Self::Running
            | Self::Leaving { .. }
            | Self::Stopping(_) => true,
            // Without a back-end the agent cannot be reached, and a VMM that is being ended has no more use for it.
            Self::Severed { .. } | Self::Terminating { .. } | Self::Killing { .. } | Self::Ended(_) => false,
        }
    }
}

impl BootClock {
    /// Starts the clock of a guest that has `left` to boot.
    pub(super) fn new(now: Instant, left: Duration) -> Self {
        Self::Runs { deadline: now + left }
    }

    /// Stops the clock.
    pub(super) fn stop(self, now: Instant) -> Self {
        match self {
            Self::Runs { deadline } => Self::Stands { left: deadline.saturating_duration_since(now) },
            Self::Stands { left } => Self::Stands { left },
        }
    }

    /// Lets the clock go on.
    pub(super) fn go_on(self, now: Instant) -> Self {
        match self {
            Self::Runs { deadline } => Self::Runs { deadline },
            Self::Stands { left } => Self::new(now, left),
        }
    }
}

impl AgentLine {
    /// Returns the line of a VM that was started at `now`.
    pub(super) fn expected(now: Instant) -> Self {
        Self::Expected { dial_at: now + UNASKED_DIAL }
    }

    /// Returns the line with the next unasked dial put off, after one at `now`.
    pub(super) fn dialled(self, now: Instant) -> Self {
        let dial_at = now + UNASKED_DIAL;
        match self {
            Self::Expected { .. } => Self::Expected { dial_at },
            Self::Up => Self::Up,
            Self::Lost { .. } => Self::Lost { dial_at },
        }
    }

    /// Returns when the agent is to be dialled unasked.
    pub(super) fn dial_at(self) -> Option<Instant> {
        match self {
            Self::Expected { dial_at } | Self::Lost { dial_at } => Some(dial_at),
            Self::Up => None,
        }
    }

    /// Returns whether the agent can be asked.
    pub(super) fn is_up(self) -> bool {
        match self {
            Self::Up => true,
            Self::Expected { .. } | Self::Lost { .. } => false,
        }
    }
}
