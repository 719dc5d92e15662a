//! The exit codes of the programs, after sysexits(3).

use clap::error::ErrorKind;
use std::process::ExitCode;

/// How a program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramExit {
    /// The program did what it was called for.
    Ok,
    /// The supervisor refused the request.
    Refused,
    /// The arguments are wrong.
    Usage,
    /// The launcher, or the supervisor that was asked, is not there.
    Unavailable,
    /// The tree failed, or the supervisor went away.
    Failed,
    /// Something is in the way: another supervisor, its socket, VMs that it left.
    Conflict,
    /// The wait took longer than allowed.
    NotReady,
    /// This user may not ask the supervisor.
    Permission,
    /// The configuration has mistakes.
    Config,
}

impl ProgramExit {
    /// Returns the exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Refused => 1,
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::Failed => 70,
            Self::Conflict => 73,
            Self::NotReady => 75,
            Self::Permission => 77,
            Self::Config => 78,
        }
    }

    /// Prints what clap has to say about the arguments, a mistake or the help that was asked for, and returns the exit for
    /// it.
    pub fn of_arguments(error: &clap::Error) -> Self {
        // The reader may be gone.
        let _ = error.print();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Self::Ok,
            _ => Self::Usage,
        }
    }
}

impl From<ProgramExit> for ExitCode {
    fn from(exit: ProgramExit) -> Self {
        exit.code().into()
    }
}
