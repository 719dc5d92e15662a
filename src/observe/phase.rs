//! Where a VM is, as its group sees it and hosts are told (semantics 2).

use crate::policy::{Ending, Failure};
use std::time::Instant;
use strum::IntoStaticStr;

/// Where a VM is, as its group sees it.
#[derive(Debug, Clone, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum VmPhase {
    /// Down, because the operator or the group's stop wanted it so.
    Stopped,
    /// Down until its turn comes, or until the groups are Ready that its group comes after.
    Waiting,
    /// Launched; the daemon does not run yet.
    Starting,
    /// The daemon runs, but is not Ready.
    Running,
    /// The daemon is Ready (semantics 1.6).
    Ready,
    /// The health probes fail.
    Unhealthy,
    /// The virtual CPUs are stopped.
    Paused,
    /// On its way down.
    Stopping,
    /// Down until its restart.
    Backoff {
        /// When the delay is over.
        until: Instant,
        /// Which attempt the restart will be.
        attempt: u32,
        /// How the VM ended.
        ending: Ending,
    },
    /// Ended cleanly, not to be restarted.
    Completed,
    /// The VM was given up, and why.
    Failed(Failure),
}

impl VmPhase {
    /// Returns the stable word for programs.
    pub fn word(&self) -> &'static str {
        self.into()
    }

    /// Returns whether there is a daemon to talk to.
    pub fn has_daemon(&self) -> bool {
        match self {
            Self::Running | Self::Ready | Self::Unhealthy | Self::Paused => true,
            Self::Stopped
            | Self::Waiting
            | Self::Starting
            | Self::Stopping
            | Self::Backoff { .. }
            | Self::Completed
            | Self::Failed(_) => false,
        }
    }

    /// Returns whether there is an incarnation of which something may run.
    pub fn is_live(&self) -> bool {
        match self {
            Self::Starting
            | Self::Running
            | Self::Ready
            | Self::Unhealthy
            | Self::Paused
            | Self::Stopping => true,
            Self::Stopped | Self::Waiting | Self::Backoff { .. } | Self::Completed | Self::Failed(_) => false,
        }
    }
}
