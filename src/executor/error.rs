//! The errors of a call of the launcher.

use super::process::NotFound;
use pepita_wire::record::CallErrorKind;
use std::path::PathBuf;

/// The reason why a call of the launcher failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecutorError {
    /// The launcher refused the call.
    #[error("{message}")]
    Refused {
        /// The reason, for programs.
        kind: CallErrorKind,
        /// The reason, for people.
        message: String,
    },
    /// The program did not print the promised output: it is another program of that name.
    #[error("{program}: this is not the launcher: {what}", program = .program.display())]
    NotPepita {
        /// The program that was called.
        program: PathBuf,
        /// The fault in its output.
        what: String,
    },
    /// The launcher speaks another version of the command line.
    #[error("{program}: this launcher has version {theirs} of the command line, and version {ours} is needed; install the launcher that belongs to this supervisor", program = .program.display(), ours = needed())]
    Contract {
        /// The program that was called.
        program: PathBuf,
        /// The version that the program has, with its additions: `1.0`.
        theirs: String,
    },
    /// The launcher could not be run.
    #[error("{program}: {what}", program = .program.display())]
    Call {
        /// The program that was called.
        program: PathBuf,
        /// The failure, in the launcher's words.
        what: String,
    },
    /// The launcher was run and gave no answer: it did not end in time, or was killed. What it has done is not known.
    #[error("{program}: {what}", program = .program.display())]
    Unanswered {
        /// The program that was called.
        program: PathBuf,
        /// The failure, in the launcher's words.
        what: String,
    },
    /// The launcher was not found.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// The executor actor failed before the call was made.
    #[error("the executor failed before the call was made")]
    Gone,
    /// The asker cancelled the call before it was made.
    #[error("cancelled before the call was made")]
    Cancelled,
}

impl ExecutorError {
    /// Returns whether the same call may succeed later. A name that is taken is such a case: the former incarnation is
    /// about to disappear.
    pub fn is_recoverable(&self) -> bool {
        match self {
            Self::Refused { kind, .. } => kind.is_recoverable() || *kind == CallErrorKind::NameTaken,
            Self::Call { .. } | Self::Unanswered { .. } | Self::Gone | Self::Cancelled => true,
            Self::NotPepita { .. } | Self::Contract { .. } | Self::NotFound(_) => false,
        }
    }

    /// Returns whether a launch that failed in this way may have left a VM, now or in a moment. A launcher that refuses
    /// has left nothing, except that the name belongs to a VM that was there before, and that the monitor of the launch may
    /// have ended before it could answer (an internal error): the VM that it had started runs then.
    pub fn may_have_launched(&self) -> bool {
        match self {
            Self::Unanswered { .. } | Self::NotPepita { .. } => true,
            Self::Refused { kind, .. } => *kind == CallErrorKind::Internal,
            Self::Contract { .. } | Self::Call { .. } | Self::NotFound(_) | Self::Gone | Self::Cancelled => {
                false
            }
        }
    }

    /// Returns the launcher's reason, if the launcher refused.
    pub fn kind(&self) -> Option<CallErrorKind> {
        match self {
            Self::Refused { kind, .. } => Some(*kind),
            Self::NotPepita { .. }
            | Self::Contract { .. }
            | Self::Call { .. }
            | Self::Unanswered { .. }
            | Self::NotFound(_)
            | Self::Gone
            | Self::Cancelled => None,
        }
    }
}

/// Returns the version of the launcher's command line that this library calls, with its additions.
fn needed() -> String {
    format!("{}.{}", pepita_wire::CLI_VERSION, pepita_wire::CLI_ADDITIONS)
}
