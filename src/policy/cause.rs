//! Why an incarnation of a VM ended, in one word for each thing that users tell apart.

use pepita_wire::{Exit, ExitRecord};
use std::fmt;

/// Why an incarnation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The daemon exited.
    Exit {
        /// With this code.
        code: i32,
    },
    /// The daemon died of a signal.
    Signal {
        /// This one.
        number: i32,
    },
    /// The VM is gone and the guest said nothing.
    VmExit {
        /// What the launcher made of it.
        exit: Exit,
        /// The strongest evidence, for people.
        detail: String,
    },
    /// The guest's kernel panicked.
    GuestPanic,
    /// The guest ran out of memory.
    Oom,
    /// It did not come to a running daemon.
    LaunchFailed {
        /// The same call may succeed later.
        recoverable: bool,
        /// What the launcher said.
        message: String,
    },
    /// It was not Ready in time.
    StartTimeout,
    /// Its probes failed.
    Health,
    /// Its daemon was silent for longer than its watchdog allows.
    Watchdog,
    /// The guest agent could no longer be reached.
    LinkLost,
    /// The actor that owned it failed, too often to be taken over again.
    ActorFailed,
    /// Nobody saw how it ended.
    Unknown,
    /// We stopped it ourselves.
    Stopped,
}

impl Cause {
    /// What a launcher's exit record says.
    pub fn of_record(record: &ExitRecord) -> Self {
        let detail = || record.evidence.first().cloned().unwrap_or_default();
        match &record.exit {
            Exit::Exited { code } => Self::Exit { code: *code },
            Exit::Signalled { signal, .. } => Self::Signal { number: *signal },
            // A program that is not there will not be there next time.
            exit @ Exit::NotExecutable { .. } => {
                Self::LaunchFailed { recoverable: false, message: exit.to_string() }
            }
            Exit::GuestPanic { .. } => Self::GuestPanic,
            Exit::GuestOom => Self::Oom,
            Exit::BootTimeout => Self::StartTimeout,
            Exit::AgentLost { .. } => Self::LinkLost,
            Exit::VmmRefused { .. } => Self::LaunchFailed { recoverable: false, message: detail() },
            Exit::Unknown => Self::Unknown,
            exit @ (Exit::HostOom
            | Exit::GuestReset
            | Exit::VmmCrashed(_)
            | Exit::StopRequested
            | Exit::Killed
            | Exit::TransportLost) => Self::VmExit { exit: exit.clone(), detail: detail() },
        }
    }

    /// The word of the documentation, for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Exit { .. } => "exit",
            Self::Signal { .. } => "signal",
            Self::VmExit { .. } => "vm_exit",
            Self::GuestPanic => "guest_panic",
            Self::Oom => "oom",
            Self::LaunchFailed { .. } => "launch_failed",
            Self::StartTimeout => "start_timeout",
            Self::Health => "health",
            Self::Watchdog => "watchdog",
            Self::LinkLost => "link_lost",
            Self::ActorFailed => "actor_failed",
            Self::Unknown => "unknown",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit { code } => write!(f, "exit {code}"),
            Self::Signal { number } => match crate::spec::Signal::new(*number) {
                Some(signal) => write!(f, "{signal}"),
                None => write!(f, "signal {number}"),
            },
            Self::VmExit { exit, detail } if detail.is_empty() => write!(f, "{exit}"),
            Self::VmExit { exit, detail } => write!(f, "{exit} ({detail})"),
            Self::GuestPanic => f.write_str("guest kernel panic"),
            Self::Oom => f.write_str("out of memory in the guest"),
            Self::LaunchFailed { message, .. } => write!(f, "launch failed: {message}"),
            Self::StartTimeout => f.write_str("not ready in time"),
            Self::Health => f.write_str("unhealthy"),
            Self::Watchdog => f.write_str("watchdog: the daemon was silent"),
            Self::LinkLost => f.write_str("the guest agent could not be reached"),
            Self::ActorFailed => f.write_str("its actor failed"),
            Self::Unknown => f.write_str("unknown: nobody saw it end"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    fn record(exit: Exit) -> ExitRecord {
        ExitRecord { exit, ..Default::default() }
    }

    #[test]
    fn an_exit_code_is_kept_and_a_kill_from_outside_is_no_clean_end() {
        assert_eq!(Cause::of_record(&record(Exit::code(3))), Cause::Exit { code: 3 });
        let stopped = ExitRecord { daemon: Some(Exit::code(0)), ..record(Exit::StopRequested) };
        assert!(matches!(Cause::of_record(&stopped), Cause::VmExit { exit: Exit::StopRequested, .. }));
        assert_eq!(Cause::of_record(&record(Exit::Unknown)), Cause::Unknown);
    }
}
