//! How the programs end, in the numbers of sysexits(3).

use clap::error::ErrorKind;
use std::process::ExitCode;

/// How a program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// As it should.
    Ok,
    /// The supervisor refused.
    Refused,
    /// The program was called wrongly.
    Usage,
    /// The launcher, or the supervisor that was asked, is not there.
    Unavailable,
    /// The tree failed, or the supervisor went away.
    Failed,
    /// Something is in the way: another supervisor, its socket, VMs that it left.
    InTheWay,
    /// It took too long.
    NotYet,
    /// It may not be asked by us.
    Permission,
    /// The configuration has mistakes.
    Config,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Refused => 1,
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::Failed => 70,
            Self::InTheWay => 73,
            Self::NotYet => 75,
            Self::Permission => 77,
            Self::Config => 78,
        }
    }

    /// Of arguments that could not be understood, after saying why; or of a question for help, after answering it.
    pub fn of_arguments(error: &clap::Error) -> Self {
        // Nobody may be reading.
        let _ = error.print();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Self::Ok,
            _ => Self::Usage,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}
