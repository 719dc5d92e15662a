//! The ends of incarnations of VMs, as the supervisor knows them (semantics 3).

use pepita_wire::{Exit, ExitRecord};
use std::sync::Arc;

/// The end of an incarnation of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The VM was launched and ended; its monitor recorded the exit, the evidence for it and the last lines of the
    /// console.
    Exit(Arc<ExitRecord>),
    /// The launcher did not bring the VM to the point where its daemon runs.
    NotLaunched {
        /// Whether the same launch may succeed later.
        recoverable: bool,
        /// The message of the launcher.
        message: String,
    },
    /// A file of the VM cannot be read, so the supervisor can neither adopt nor launch it. The VM may run on.
    Unreadable {
        /// What the launcher said.
        message: String,
    },
    /// The daemon was not Ready within `start.timeout`.
    StartTimeout,
    /// The health probes failed (`health.retries` in a row).
    Unhealthy,
    /// The daemon sent no `WATCHDOG=1` within `health.watchdog`.
    WatchdogExpired,
    /// The VM's actor failed more often than the group's window allows, and the VM was taken down.
    ActorFailed {
        /// How the actor failed.
        message: String,
    },
}

impl Ending {
    /// Returns the exit that the VM's monitor recorded, if the VM came to have one.
    pub fn exit(&self) -> Option<&Exit> {
        match self {
            Self::Exit(record) => Some(&record.exit),
            Self::NotLaunched { .. }
            | Self::Unreadable { .. }
            | Self::StartTimeout
            | Self::Unhealthy
            | Self::WatchdogExpired
            | Self::ActorFailed { .. } => None,
        }
    }

    /// Returns the exit code of the daemon. The end of a VM that was killed from outside has none, even if its daemon
    /// still exited with a code: such an end is a failure.
    pub fn code(&self) -> Option<i32> {
        self.exit().and_then(|exit| match exit {
            Exit::Exited { code } => Some(*code),
            Exit::Signalled { .. }
            | Exit::NotExecutable { .. }
            | Exit::GuestOom
            | Exit::GuestPanic { .. }
            | Exit::GuestReset
            | Exit::HostOom
            | Exit::VmmCrashed(_)
            | Exit::VmmRefused { .. }
            | Exit::BootTimeout
            | Exit::AgentLost { .. }
            | Exit::TransportLost
            | Exit::StopRequested
            | Exit::Killed
            | Exit::Unknown => None,
        })
    }

    /// Returns whether the next launch would fail in the same way, because the program or an image is missing, or an
    /// argument is refused.
    pub fn is_hopeless(&self) -> bool {
        match self {
            Self::NotLaunched { recoverable, .. } => !recoverable,
            Self::Unreadable { .. } => true,
            Self::Exit(record) => match &record.exit {
                Exit::NotExecutable { .. } | Exit::VmmRefused { .. } => true,
                Exit::Exited { .. }
                | Exit::Signalled { .. }
                | Exit::GuestOom
                | Exit::GuestPanic { .. }
                | Exit::GuestReset
                | Exit::HostOom
                | Exit::VmmCrashed(_)
                | Exit::BootTimeout
                | Exit::AgentLost { .. }
                | Exit::TransportLost
                | Exit::StopRequested
                | Exit::Killed
                | Exit::Unknown => false,
            },
            Self::StartTimeout | Self::Unhealthy | Self::WatchdogExpired | Self::ActorFailed { .. } => false,
        }
    }

    /// Returns whether the VM may run on, unsupervised (semantics 13.2).
    pub fn may_run_on(&self) -> bool {
        match self {
            Self::Unreadable { .. } => true,
            Self::Exit(_)
            | Self::NotLaunched { .. }
            | Self::StartTimeout
            | Self::Unhealthy
            | Self::WatchdogExpired
            | Self::ActorFailed { .. } => false,
        }
    }

    /// Returns the stable word for programs, as it stands in `kind`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Exit(record) => record.exit.kind(),
            Self::NotLaunched { .. } => "not-launched",
            Self::Unreadable { .. } => "unreadable",
            Self::StartTimeout => "start-timeout",
            Self::Unhealthy => "unhealthy",
            Self::WatchdogExpired => "watchdog-expired",
            Self::ActorFailed { .. } => "actor-failed",
        }
    }
}

impl From<ExitRecord> for Ending {
    fn from(record: ExitRecord) -> Self {
        Self::Exit(Arc::new(record))
    }
}

impl From<Exit> for Ending {
    /// Makes an ending of an exit that no monitor recorded.
    fn from(exit: Exit) -> Self {
        ExitRecord { exit, ..ExitRecord::default() }.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_from_outside_is_no_clean_end() {
        let killed =
            ExitRecord { exit: Exit::StopRequested, daemon: Some(Exit::code(0)), ..ExitRecord::default() };
        assert_eq!(Ending::from(killed).code(), None);
        assert_eq!(Ending::from(Exit::code(0)).code(), Some(0));
    }

    #[test]
    fn what_is_missing_will_be_missing_next_time() {
        let missing = Exit::NotExecutable { path: "/d".into(), errno: 2, message: "not found".into() };
        assert!(Ending::from(missing).is_hopeless());
        assert!(!Ending::from(Exit::code(3)).is_hopeless());
        assert!(!Ending::NotLaunched { recoverable: true, message: String::new() }.is_hopeless());
    }
}
