//! The exit codes of the programs, after sysexits(3).

use crate::output;
use clap::error::ErrorKind;
use std::io::{self, Write};
use std::process::ExitCode;

/// The outcome of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramExit {
    /// The program has completed its task.
    Ok,
    /// The supervisor refused the request.
    Refused,
    /// The arguments are wrong.
    Usage,
    /// The launcher is missing, or the supervisor does not run or does not answer.
    Unavailable,
    /// The tree failed, the supervisor ended during the command, or what the command waits for has failed.
    Failed,
    /// The start is blocked by another supervisor, by its socket, or by VMs that it has left.
    Conflict,
    /// The supervisor has done what was asked, and could not save that.
    NotSaved,
    /// The output cannot be written, for example because a disk is full.
    Output,
    /// The command that was to be run in a VM could not be run (docker).
    NotRun,
    /// The wait took longer than allowed.
    NotReady,
    /// The user lacks the permission to connect to the supervisor, or the control socket cannot be made.
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
            Self::NotSaved => 74,
            Self::Output => 74,
            Self::NotReady => 75,
            Self::Permission => 77,
            Self::Config => 78,
            Self::NotRun => 125,
        }
    }

    /// Prints clap's message about the arguments (an error or the requested help), and returns the exit for it.
    pub fn of_arguments(program: &str, error: &clap::Error) -> Self {
        let printed = error.print();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                Self::of_output(program, printed.and_then(|()| io::stdout().flush()))
            }
            // When standard error takes nothing, there is no other place to say so.
            _ => Self::Usage,
        }
    }

    /// Returns the exit of a program whose result was to be printed. Tells on standard error why that was not possible.
    pub fn of_output(program: &str, printed: io::Result<()>) -> Self {
        match printed.map_err(|e| output::unwritable(&e)) {
            Ok(()) | Err(None) => Self::Ok,
            Err(Some(why)) => {
                output::print_error(format_args!("{program}: {why}"));
                Self::Output
            }
        }
    }
}

impl From<ProgramExit> for ExitCode {
    fn from(exit: ProgramExit) -> Self {
        exit.code().into()
    }
}
