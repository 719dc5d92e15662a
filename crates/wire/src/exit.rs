//! The end of a microVM, or of a process in its guest: one enum from the agent's report to the printed line.
//!
//! The agent, the monitor, the launcher and the supervisor all use [`Exit`]. There are three JSON forms: the tagged
//! form (`{"kind":"exited","code":3}`), the agent's report in generation 1 of the conversation ([`generation_1`]) and
//! the exit record of contract 1 ([`ExitRecord`]). This module reads and writes all three.

pub mod generation_1;
mod record;

pub use record::ExitRecord;

use crate::signal::Signal;
use crate::text::shown;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The way in which a microVM, or a process in its guest, ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, strum::IntoStaticStr)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Exit {
    /// The daemon exited.
    Exited {
        /// The exit code of the daemon.
        code: i32,
    },
    /// The daemon died of a signal.
    Signalled {
        /// The number of the signal.
        signal: i32,
        /// Whether the kernel wrote a core file.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        core: bool,
    },
    /// The daemon's program could not be executed.
    NotExecutable {
        /// The path of the program, as the request named it.
        #[serde(default)]
        path: String,
        /// The operating system's error number, for example 2 (ENOENT) or 13 (EACCES).
        #[serde(default)]
        errno: i32,
        /// The error message.
        #[serde(default)]
        message: String,
    },
    /// The guest's OOM killer ended the daemon.
    GuestOom,
    /// The guest's kernel panicked.
    GuestPanic {
        /// The console's line about the panic; empty when the console did not show one.
        #[serde(default)]
        line: String,
    },
    /// The guest rebooted or powered off without a report of its agent.
    GuestReset,
    /// The host's OOM killer ended the VMM.
    HostOom,
    /// The VMM's process ended with an error or by a signal.
    VmmCrashed(ProcessExit),
    /// The VMM refused its arguments or its images.
    VmmRefused {
        /// The last lines that the VMM wrote on its standard error.
        #[serde(default)]
        message: String,
    },
    /// The agent did not answer before the deadline of the boot.
    BootTimeout,
    /// The agent stopped answering, or could not continue.
    AgentLost {
        /// The agent's own message about the failure; empty when there is none.
        #[serde(default)]
        message: String,
    },
    /// The vsock back-end ended before the VMM.
    TransportLost,
    /// The server of a share (virtiofsd) ended before the VMM.
    ShareLost {
        /// The share and how its server ended.
        #[serde(default)]
        message: String,
    },
    /// A client asked for a stop, and the VM stopped.
    StopRequested,
    /// A client asked for an end at once (`destroy --force`, `signal KILL`).
    Killed,
    /// No process observed the end.
    #[default]
    #[serde(other)]
    Unknown,
}

/// The end of a process of the host: a code, a signal, or neither when its parent could not observe the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessExit {
    /// The exit code, if the process exited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The number of the signal, if a signal ended the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

impl Exit {
    /// Returns [`Exit::Exited`] with this code.
    pub fn code(code: i32) -> Self {
        Self::Exited { code }
    }

    /// Returns [`Exit::Signalled`] with this signal, without a core file.
    pub fn signal(signal: i32) -> Self {
        Self::Signalled { signal, core: false }
    }

    /// Returns the stable word for programs, which is the value of `kind` in JSON.
    pub fn kind(&self) -> &'static str {
        self.into()
    }

    /// Returns this end with texts that are fit to be shown ([`shown`]).
    pub fn shown(self) -> Self {
        match self {
            Self::NotExecutable { path, errno, message } => {
                Self::NotExecutable { path: shown(&path), errno, message: shown(&message) }
            }
            Self::GuestPanic { line } => Self::GuestPanic { line: shown(&line) },
            Self::VmmRefused { message } => Self::VmmRefused { message: shown(&message) },
            Self::AgentLost { message } => Self::AgentLost { message: shown(&message) },
            Self::ShareLost { message } => Self::ShareLost { message: shown(&message) },
            Self::Exited { .. }
            | Self::Signalled { .. }
            | Self::GuestOom
            | Self::GuestReset
            | Self::HostOom
            | Self::VmmCrashed(_)
            | Self::BootTimeout
            | Self::TransportLost
            | Self::StopRequested
            | Self::Killed
            | Self::Unknown => self,
        }
    }

    /// Returns whether this is an end of the daemon itself, which only the agent can report.
    pub fn is_of_daemon(&self) -> bool {
        match self {
            Self::Exited { .. } | Self::Signalled { .. } | Self::NotExecutable { .. } | Self::GuestOom => {
                true
            }
            Self::GuestPanic { .. }
            | Self::GuestReset
            | Self::HostOom
            | Self::VmmCrashed(_)
            | Self::VmmRefused { .. }
            | Self::BootTimeout
            | Self::AgentLost { .. }
            | Self::TransportLost
            | Self::ShareLost { .. }
            | Self::StopRequested
            | Self::Killed
            | Self::Unknown => false,
        }
    }
}

fn write_signal(f: &mut fmt::Formatter<'_>, number: i32) -> fmt::Result {
    match Signal::new(number) {
        Some(signal) => write!(f, "{signal}"),
        None => write!(f, "signal {number}"),
    }
}

impl fmt::Display for ProcessExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit {code}"),
            (None, Some(signal)) => write_signal(f, signal),
            (None, None) => f.write_str("unknown"),
        }
    }
}

impl fmt::Display for Exit {
    /// Writes one short phrase for people, such as `exit 3` or `VMM crashed (SIGKILL)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { code } => write!(f, "exit {code}"),
            Self::Signalled { signal, core } => {
                write_signal(f, *signal)?;
                if *core { f.write_str(" (core dumped)") } else { Ok(()) }
            }
            Self::NotExecutable { path, message, .. } => write!(f, "cannot execute {path}: {message}"),
            Self::GuestOom => f.write_str("out of memory in the guest"),
            Self::GuestPanic { line } if line.is_empty() => f.write_str("guest kernel panic"),
            Self::GuestPanic { line } => write!(f, "guest kernel panic ({line})"),
            Self::GuestReset => f.write_str("guest reset"),
            Self::HostOom => f.write_str("out of memory on the host"),
            Self::VmmCrashed(ProcessExit { code: None, signal: None }) => f.write_str("VMM crashed"),
            Self::VmmCrashed(exit) => write!(f, "VMM crashed ({exit})"),
            Self::VmmRefused { message } if message.is_empty() => f.write_str("VMM refused to start"),
            Self::VmmRefused { message } => write!(f, "VMM refused to start ({message})"),
            Self::BootTimeout => f.write_str("boot timeout"),
            Self::AgentLost { message } if message.is_empty() => f.write_str("guest agent lost"),
            Self::AgentLost { message } => write!(f, "guest agent lost ({message})"),
            Self::TransportLost => f.write_str("vsock back-end lost"),
            Self::ShareLost { message } if message.is_empty() => f.write_str("share lost"),
            Self::ShareLost { message } => write!(f, "share lost ({message})"),
            Self::StopRequested => f.write_str("stopped on request"),
            Self::Killed => f.write_str("killed on request"),
            Self::Unknown => f.write_str("unknown end"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns every variant, with contents that a faulty conversion would lose.
    pub(super) fn all() -> Vec<Exit> {
        vec![
            Exit::code(3),
            Exit::Signalled { signal: 11, core: true },
            Exit::NotExecutable { path: "/d".into(), errno: 2, message: "not found".into() },
            Exit::GuestOom,
            Exit::GuestPanic { line: "Kernel panic - not syncing".into() },
            Exit::GuestReset,
            Exit::HostOom,
            Exit::VmmCrashed(ProcessExit { code: None, signal: Some(9) }),
            Exit::VmmRefused { message: "bad image".into() },
            Exit::BootTimeout,
            Exit::AgentLost { message: "no vsock".into() },
            Exit::TransportLost,
            Exit::ShareLost { message: "share /srv: virtiofsd died".into() },
            Exit::StopRequested,
            Exit::Killed,
            Exit::Unknown,
        ]
    }

    #[test]
    fn each_kind_is_the_word_in_json_and_reads_back() {
        for exit in all() {
            let json = serde_json::to_value(&exit).expect("an exit becomes JSON");
            assert_eq!(json["kind"], exit.kind());
            assert_eq!(serde_json::from_value::<Exit>(json).expect("reads back"), exit);
        }
    }

    #[test]
    fn a_kind_of_a_newer_program_is_unknown_and_not_an_error() {
        let read = |text| serde_json::from_str::<Exit>(text).expect("readable");
        assert_eq!(read(r#"{"kind":"exited","code":3,"later":1}"#), Exit::code(3));
        assert_eq!(read(r#"{"kind":"abducted","by":"aliens"}"#), Exit::Unknown);
    }
}
