//! The failures of commands of `pepitactl`, and their exit codes.

use crate::exit::ProgramExit;
use crate::output;
use pepita_supervisor::control::ClientError;
use std::io;

/// The reason why a command ends early.
#[derive(Debug)]
pub(super) enum Failure {
    /// The command failed. The message is empty when the error was printed already.
    Error { exit: ProgramExit, message: String },
    /// The reader of the output is gone, or a signal has ended the output, which is no error.
    OutputClosed,
}

impl Failure {
    /// Returns a failure with a message for people.
    pub(super) fn new(exit: ProgramExit, message: impl Into<String>) -> Self {
        Self::Error { exit, message: message.into() }
    }

    /// Returns the failure of a command that followed the supervisor to its end.
    pub(super) fn supervisor_ended() -> Self {
        Self::new(ProgramExit::Failed, "the supervisor has ended")
    }

    /// Returns the failure of a command that followed something until it was removed from the configuration.
    pub(super) fn removed(names: &[&str]) -> Self {
        let was = if names.len() == 1 { "was" } else { "were" };
        Self::new(ProgramExit::Failed, format!("{} {was} removed from the configuration", names.join(", ")))
    }

    /// Returns the failure of a command that names a VM which the tree does not have.
    pub(super) fn no_such_vm(name: &str) -> Self {
        Self::new(ProgramExit::Refused, format!("no VM {name:?} in this tree"))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::NoSupervisor { .. }
            | ClientError::NotASupervisor { .. }
            | ClientError::Silent { .. } => ProgramExit::Unavailable,
            ClientError::Permission(_) => ProgramExit::Permission,
            ClientError::Refused(_) => ProgramExit::Refused,
            ClientError::Gone => ProgramExit::Failed,
        };
        let hint = match &error {
            ClientError::Silent { pid: Some(pid), .. } if is_stopped(*pid) => {
                format!("; the process is stopped, and `kill -CONT {pid}` continues it")
            }
            ClientError::Silent { .. }
            | ClientError::NoSupervisor { .. }
            | ClientError::NotASupervisor { .. }
            | ClientError::Permission(_)
            | ClientError::Refused(_)
            | ClientError::Gone => String::new(),
        };
        Self::new(exit, format!("{error}{hint}"))
    }
}

/// Returns whether a process is stopped by a signal, or by a debugger: proc_pid_stat(5).
fn is_stopped(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the program, in parentheses, may hold anything.
    let state = stat.rsplit_once(") ").and_then(|(_, fields)| fields.chars().next());
    matches!(state, Some('T' | 't'))
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match output::unwritable(&error) {
            None => Self::OutputClosed,
            // A script must not take half an output for the whole.
            Some(why) => Self::new(ProgramExit::Output, why),
        }
    }
}
