//! The failures of commands of `pepitactl`, and their exit codes.

use crate::exit::ProgramExit;
use pepita_supervisor::control::ClientError;
use std::io;

/// The reason why a command ends early.
#[derive(Debug)]
pub(super) enum Failure {
    /// The command failed. The message is empty when the error was printed already.
    Error { exit: ProgramExit, message: String },
    /// The reader of the output is gone, which is no error.
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

    /// Returns the failure of a command that names a VM which the tree does not have.
    pub(super) fn no_such_vm(name: &str) -> Self {
        Self::new(ProgramExit::Refused, format!("no VM {name:?} in this tree"))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::NoSupervisor { .. } | ClientError::NotASupervisor { .. } => ProgramExit::Unavailable,
            ClientError::Permission(_) => ProgramExit::Permission,
            ClientError::Refused(_) => ProgramExit::Refused,
            ClientError::Gone => ProgramExit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Self::OutputClosed
    }
}
