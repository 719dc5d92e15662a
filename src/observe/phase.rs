//! Where a VM is, as its group sees it.

use crate::policy::Ending;
use std::fmt;
use std::time::Instant;

/// Where a VM is, as its group sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmPhase {
    /// Down, because the operator or the group's stop wanted it so, or not started yet.
    Stopped,
    /// For its turn, or for another group.
    Waiting,
    /// Launched, its daemon does not run yet.
    Starting,
    /// Its daemon runs, but is not Ready.
    Running,
    /// Ready.
    Ready,
    /// Its probes fail.
    Unhealthy,
    /// Its virtual CPUs stand still.
    Paused,
    /// On its way down.
    Stopping,
    /// Down, to be started again.
    Backoff {
        /// Then.
        until: Instant,
        /// Which attempt that will be.
        attempt: u32,
        /// Why it is down.
        ending: Ending,
    },
    /// Ended cleanly, not to be restarted.
    Completed,
    /// Given up.
    Failed {
        /// Why.
        reason: String,
    },
}

impl VmPhase {
    /// The word of the documentation.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Ready => "ready",
            Self::Unhealthy => "unhealthy",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Backoff { .. } => "backoff",
            Self::Completed => "completed",
            Self::Failed { .. } => "failed",
        }
    }

    /// There is a daemon to talk to.
    pub fn has_daemon(&self) -> bool {
        match self {
            Self::Running | Self::Ready | Self::Unhealthy | Self::Paused => true,
            Self::Stopped
            | Self::Waiting
            | Self::Starting
            | Self::Stopping
            | Self::Backoff { .. }
            | Self::Completed
            | Self::Failed { .. } => false,
        }
    }

    /// There is an incarnation: something of it may run.
    pub fn is_live(&self) -> bool {
        match self {
            Self::Starting
            | Self::Running
            | Self::Ready
            | Self::Unhealthy
            | Self::Paused
            | Self::Stopping => true,
            Self::Stopped | Self::Waiting | Self::Backoff { .. } | Self::Completed | Self::Failed { .. } => {
                false
            }
        }
    }
}

impl fmt::Display for VmPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { reason } => write!(f, "failed ({reason})"),
            Self::Backoff { attempt, ending, .. } => write!(f, "backoff (attempt {attempt}, after {ending})"),
            phase => f.write_str(phase.word()),
        }
    }
}
