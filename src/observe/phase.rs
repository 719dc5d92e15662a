//! The phases of a VM, as its group sees them and hosts are told (semantics 2).

use crate::policy::{Ending, Failure};
use std::time::Instant;
use strum::IntoStaticStr;

/// The phase of a VM, as its group sees it.
#[derive(Debug, Clone, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum VmPhase {
    /// The VM is down, because the operator or a stop of the group wanted it down.
    Stopped,
    /// The VM is down until its turn comes, or until the groups are Ready that its group comes after.
    Waiting,
    /// The VM is asleep until a client connects to one of its ports.
    Idle {
        /// Whether the VM is there, and only its virtual CPUs stand still.
        is_paused: bool,
    },
    /// The VM was launched; the daemon does not run yet.
    Starting,
    /// The daemon runs, but is not Ready.
    Running,
    /// The daemon is Ready (semantics 1.6).
    Ready,
    /// The health probes fail.
    Unhealthy,
    /// The virtual CPUs are stopped.
    Paused,
    /// The VM is being stopped.
    Stopping,
    /// The VM may run, and cannot be reached: its monitor does not answer, or the launcher cannot be asked.
    Unknown,
    /// The VM is down until its restart.
    Backoff {
        /// The moment at which the delay is over.
        until: Instant,
        /// The number of the attempt that the restart will be.
        attempt: u32,
        /// How the VM ended.
        ending: Ending,
    },
    /// The VM ended cleanly and is not to be restarted.
    Completed,
    /// The VM was given up, for the reason inside.
    Failed(Failure),
}

impl VmPhase {
    /// Returns the stable word for programs.
    pub fn word(&self) -> &'static str {
        self.into()
    }

    /// Returns whether there is a daemon that can receive requests.
    pub fn has_daemon(&self) -> bool {
        match self {
            Self::Running | Self::Ready | Self::Unhealthy | Self::Paused => true,
            Self::Idle { is_paused } => *is_paused,
            Self::Stopped
            | Self::Waiting
            | Self::Starting
            | Self::Stopping
            | Self::Unknown
            | Self::Backoff { .. }
            | Self::Completed
            | Self::Failed(_) => false,
        }
    }

    /// Returns whether the VM is on its way up, and has no daemon yet.
    pub fn is_coming_up(&self) -> bool {
        match self {
            Self::Waiting | Self::Starting | Self::Backoff { .. } => true,
            Self::Stopped
            | Self::Idle { .. }
            | Self::Running
            | Self::Ready
            | Self::Unhealthy
            | Self::Paused
            | Self::Stopping
            | Self::Completed
            | Self::Unknown
            | Self::Failed(_) => false,
        }
    }

    /// Returns whether there is an incarnation of which a part may run.
    pub fn is_live(&self) -> bool {
        match self {
            Self::Starting
            | Self::Running
            | Self::Ready
            | Self::Unhealthy
            | Self::Paused
            | Self::Stopping
            | Self::Unknown => true,
            Self::Idle { is_paused } => *is_paused,
            Self::Stopped | Self::Waiting | Self::Backoff { .. } | Self::Completed | Self::Failed(_) => false,
        }
    }
}
