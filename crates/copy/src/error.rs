//! The failures of a copy, and what a copy has left out.

use pepita_wire::text::shown;
use std::io;
use std::path::PathBuf;

/// The number of entries that are named of those that a copy has left out.
const NAMED: usize = 10;

/// The reason why a copy has failed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A file or directory of ours cannot be read or written.
    #[error("{}: {error}", shown(&path.to_string_lossy()))]
    Path {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// The place to copy to does not fit what is copied.
    #[error("{}: {why}", shown(&path.to_string_lossy()))]
    Place {
        /// The place.
        path: PathBuf,
        /// The reason.
        why: &'static str,
    },
    /// The stream between sender and receiver has failed.
    #[error("the stream: {0}")]
    Stream(io::Error),
    /// The stream has ended before the archive.
    #[error("the archive is cut short")]
    CutShort,
    /// The stream is no tar archive, or of a kind that is not read.
    #[error("the archive cannot be read: {0}")]
    Archive(&'static str),
    /// A name in the archive would lead out of the target, or is no name.
    #[error("the archive has the entry {name:?}: {why}")]
    Name {
        /// The name, fit to be shown.
        name: String,
        /// The reason.
        why: &'static str,
    },
    /// The archive is larger than allowed.
    #[error("the archive has more than {limit} {what}")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

impl CopyError {
    /// Returns whether the other side of the stream has gone first, so that its error tells more than this one.
    pub fn is_of_other_side(&self) -> bool {
        match self {
            Self::CutShort => true,
            Self::Stream(error) => error.kind() == io::ErrorKind::BrokenPipe,
            Self::Path { .. }
            | Self::Place { .. }
            | Self::Archive(_)
            | Self::Name { .. }
            | Self::TooMuch { .. } => false,
        }
    }
}

/// What a copy that went to its end has left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The first of them, each with the reason.
    named: Vec<String>,
    left_out: usize,
}

impl Report {
    /// Returns whether everything was copied.
    pub fn is_whole(&self) -> bool {
        self.left_out == 0
    }

    pub(crate) fn leave_out(&mut self, path: &[u8], why: impl std::fmt::Display) {
        self.left_out += 1;
        if self.named.len() < NAMED {
            self.named.push(format!("{}: {why}", shown(&String::from_utf8_lossy(path))));
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let more = self.left_out.saturating_sub(self.named.len());
        write!(f, "left out: {}", self.named.join("; "))?;
        if more > 0 { write!(f, "; and {more} more") } else { Ok(()) }
    }
}
