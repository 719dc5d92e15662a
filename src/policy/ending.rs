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
        /// Whether the same launch may succeed later by itself.
        recoverable: bool,
        /// Whether the launcher refused the request as such: only another configuration cures that.
        refused: bool,
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
            | Exit::ShareLost { .. }
            | Exit::StopRequested
            | Exit::Killed
            | Exit::Unknown => None,
        })
    }

    /// Returns whether the daemon was not started, because the launcher or a spare did not come to that.
    pub fn was_not_launched(&self) -> bool {
        match self {
            Self::NotLaunched { .. } => true,
            Self::Exit(_)
            | Self::Unreadable { .. }
            | Self::StartTimeout
            | Self::Unhealthy
            | Self::WatchdogExpired
            | Self::ActorFailed { .. } => false,
        }
    }

    /// Returns what cures this end, as far as the end itself tells.
    pub fn cure(&self) -> Cure {
        match self {
            Self::NotLaunched { recoverable: true, .. } => Cure::Time,
            Self::NotLaunched { refused: true, .. } => Cure::Configuration,
            Self::NotLaunched { .. } => Cure::Repair,
            Self::Unreadable { .. } => Cure::Repair,
            Self::Exit(record) => match &record.exit {
                Exit::NotExecutable { errno, .. } => cure_of_exec(*errno),
                Exit::VmmRefused { .. } => Cure::Repair,
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
                | Exit::ShareLost { .. }
                | Exit::StopRequested
                | Exit::Killed
                | Exit::Unknown => Cure::Time,
            },
            Self::StartTimeout | Self::Unhealthy | Self::WatchdogExpired | Self::ActorFailed { .. } => {
                Cure::Time
            }
        }
    }

    /// Returns whether this end proves that the daemon of the VM has run.
    pub fn shows_that_the_daemon_ran(&self) -> bool {
        self.exit().is_some_and(|exit| match exit {
            Exit::Exited { .. } | Exit::Signalled { .. } | Exit::GuestOom => true,
            Exit::NotExecutable { .. }
            | Exit::GuestPanic { .. }
            | Exit::GuestReset
            | Exit::HostOom
            | Exit::VmmCrashed(_)
            | Exit::VmmRefused { .. }
            | Exit::BootTimeout
            | Exit::AgentLost { .. }
            | Exit::TransportLost
            | Exit::ShareLost { .. }
            | Exit::StopRequested
            | Exit::Killed
            | Exit::Unknown => false,
        })
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

/// What cures an end, so that the next launch succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cure {
    /// The next launch may succeed as it is.
    Time,
    /// A file, a program or a permission is missing or wrong, and may be put in order while the supervisor runs: an
    /// image that is being rebuilt, a program that is being upgraded.
    Repair,
    /// The request itself is wrong: every launch with this configuration fails.
    Configuration,
}

/// Returns what cures a daemon that could not be executed, by the error of execve(2) or fork(2). The numbers are those
/// of Linux on x86_64, as guests report them.
fn cure_of_exec(errno: i32) -> Cure {
    match errno {
        // EINTR, EIO, EAGAIN, ENOMEM, EBUSY, ENFILE, EMFILE, ETXTBSY, ESTALE: a shortage, a disk or network that fails
        // for a moment, or a program that is being written.
        4 | 5 | 11 | 12 | 16 | 23 | 24 | 26 | 116 => Cure::Time,
        // E2BIG, ENAMETOOLONG: the command or the environment is too long.
        7 | 36 => Cure::Configuration,
        _ => Cure::Repair,
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
    fn each_end_has_its_cure() {
        let exec =
            |errno| Ending::from(Exit::NotExecutable { path: "/d".into(), errno, message: String::new() });
        let (enoent, eacces, enoexec, etxtbsy, enomem, e2big) = (2, 13, 8, 26, 12, 7);
        let launch =
            |recoverable, refused| Ending::NotLaunched { recoverable, refused, message: String::new() };
        let cases = [
            (exec(enoent), Cure::Repair),
            (exec(eacces), Cure::Repair),
            (exec(enoexec), Cure::Repair),
            (exec(etxtbsy), Cure::Time),
            (exec(enomem), Cure::Time),
            (exec(e2big), Cure::Configuration),
            (Exit::VmmRefused { message: String::new() }.into(), Cure::Repair),
            (Exit::code(3).into(), Cure::Time),
            (launch(true, false), Cure::Time),
            (launch(false, false), Cure::Repair),
            (launch(false, true), Cure::Configuration),
        ];
        for (ending, cure) in cases {
            assert_eq!(ending.cure(), cure, "{ending}");
        }
    }
}
