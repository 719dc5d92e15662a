//! The data of each phase of a VM's life, and the deadline of each phase.

use crate::vm_config::VmRequest;
use pepita_wire::{ExitRecord, Signal};
use std::time::{Duration, Instant};

/// The interval of dials without a note of the agent on the console, counted from the guest's first word there. The
/// interval is long, and nothing is dialled before that word, because vhost-device-vsock does not survive a client that
/// comes while the guest starts its vsock driver (its worker ends, and no dial is answered any more), nor a client that
/// goes away (for example with its monitor) before the guest has answered. An image says nothing on its console before its
/// drivers are started, unless its kernel is chatty.
pub(super) const UNASKED_DIAL: Duration = Duration::from_secs(5);

/// The time limit for the guest to power off after the end of its daemon.
pub(super) const LINGER: Duration = Duration::from_secs(5);

/// The same for a guest with disks, which writes to them what is in its memory.
const DISK_LINGER: Duration = Duration::from_secs(60);

/// Returns the time limit for a guest to power off after the end of its daemon.
pub(super) fn linger(request: &VmRequest) -> Duration {
    if request.disks.is_empty() { LINGER } else { DISK_LINGER }
}

/// The phase of a VM's life. The drawing is at the head of [`super`].
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Phase {
    /// The VMM was started and has not accepted its arguments and images yet.
    Created(BootClock),
    /// The VMM has accepted its arguments and images; the guest agent has not said hello yet.
    Booting(BootClock),
    /// The guest agent has said hello at least once.
    Running,
    /// The vsock back-end is gone, or the VMM has stopped its guest, and the VMM seems to be ending. If the VMM ends, the
    /// back-end has only followed it.
    Severed { kill_at: Instant },
    /// The daemon has ended; the guest powers off by itself.
    Leaving { term_at: Instant },
    /// A client has asked for a stop.
    Stopping(Stopping),
    /// SIGTERM was sent to the VMM.
    Terminating { kill_at: Instant },
    /// SIGKILL was sent to the VMM.
    Killing { again_at: Instant },
    /// The VMM is gone.
    Ended(Box<ExitRecord>),
}

/// The data of a stop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Stopping {
    /// The signal for the daemon.
    pub(super) signal: Signal,
    /// The end of the daemon's grace. A repeated stop may bring this time forward, but never postpone it.
    pub(super) grace_until: Instant,
    /// The time at which SIGTERM is sent to the VMM.
    pub(super) term_at: Instant,
}

/// The clock that limits the time of the guest agent's first hello.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum BootClock {
    /// The virtual CPUs run, and the agent has to say hello before the deadline.
    Runs { deadline: Instant },
    /// The virtual CPUs are paused, and a paused guest does not boot. `left` is the time that remains.
    Stands { left: Duration },
}

/// The state of the line to the guest agent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum AgentLine {
    /// The agent has never said hello. `dial_at` is `None` before the guest's first word on the console.
    Expected { dial_at: Option<Instant> },
    /// The hellos are exchanged, and the connection is open.
    Up,
    /// The agent has said hello before, and the connection has ended.
    Lost { dial_at: Instant },
}

impl Phase {
    /// Returns the phase of a VM whose daemon has ended at `now`.
    pub(super) fn leaving(now: Instant, linger: Duration) -> Self {
        Self::Leaving { term_at: now + linger }
    }

    /// Returns the time at which this phase is over unless an event ends it before.
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

    /// Returns whether the monitor needs the agent in this phase.
    pub(super) fn wants_the_agent(&self) -> bool {
        match self {
            Self::Created(_)
            | Self::Booting(_)
            | Self::Running
            | Self::Leaving { .. }
            | Self::Stopping(_) => true,
            // Without a back-end the agent cannot be reached, and a VMM that is being ended needs no agent.
            Self::Severed { .. } | Self::Terminating { .. } | Self::Killing { .. } | Self::Ended(_) => false,
        }
    }
}

impl BootClock {
    /// Starts the clock of a guest for whose boot the time `left` remains.
    pub(super) fn new(now: Instant, left: Duration) -> Self {
        Self::Runs { deadline: now + left }
    }

    /// Stops the clock, for a pause.
    pub(super) fn stop(self, now: Instant) -> Self {
        match self {
            Self::Runs { deadline } => Self::Stands { left: deadline.saturating_duration_since(now) },
            Self::Stands { left } => Self::Stands { left },
        }
    }

    /// Continues the clock after a pause.
    pub(super) fn go_on(self, now: Instant) -> Self {
        match self {
            Self::Runs { deadline } => Self::Runs { deadline },
            Self::Stands { left } => Self::new(now, left),
        }
    }
}

impl AgentLine {
    /// Returns the line after the guest's first word on the console at `now`.
    pub(super) fn console_spoke(self, now: Instant) -> Self {
        match self {
            Self::Expected { dial_at: None } => Self::Expected { dial_at: Some(now + UNASKED_DIAL) },
            Self::Expected { dial_at: Some(_) } | Self::Up | Self::Lost { .. } => self,
        }
    }

    /// Returns the line with the next dial postponed, after a dial at `now`.
    pub(super) fn dialled(self, now: Instant) -> Self {
        let dial_at = now + UNASKED_DIAL;
        match self {
            Self::Expected { .. } => Self::Expected { dial_at: Some(dial_at) },
            Self::Up => Self::Up,
            Self::Lost { .. } => Self::Lost { dial_at },
        }
    }

    /// Returns the time of the next dial without a note of the agent.
    pub(super) fn dial_at(self) -> Option<Instant> {
        match self {
            Self::Expected { dial_at } => dial_at,
            Self::Lost { dial_at } => Some(dial_at),
            Self::Up => None,
        }
    }

    /// Returns whether the agent can answer requests.
    pub(super) fn is_up(self) -> bool {
        match self {
            Self::Up => true,
            Self::Expected { .. } | Self::Lost { .. } => false,
        }
    }
}
