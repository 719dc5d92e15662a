//! The records about the launcher's calls: the version of the launcher, and the error of a call.

use serde::{Deserialize, Serialize};

/// The output of `pepita --version --json`. A program without this output is not this `pepita`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// The name of the program: always `pepita-launcher`.
    pub name: String,
    /// The version of the launcher.
    pub version: String,
    /// The version of the calls, exit codes and records: see [`crate::CLI_VERSION`].
    pub contract: u32,
    /// The number of additions to that version: see [`crate::CLI_ADDITIONS`].
    #[serde(default)]
    pub additions: u32,
    /// Whether the launcher has a launch server ([`crate::serve`]).
    #[serde(default)]
    pub serves: bool,
    /// The VMMs, and whether each can be used on this host.
    #[serde(default)]
    pub vmms: Vec<VmmAvailability>,
    /// The directory of run directories that the call was to use; absent when the user may not use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_dir: Option<String>,
}

/// Whether a VMM can be used on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VmmAvailability {
    /// The kind of VMM: `qemu` or `process`.
    pub name: String,
    /// Whether the VMM can be used.
    pub usable: bool,
    /// The version of the VMM, or the reason why it cannot be used.
    pub detail: String,
}

/// The last line on standard error of a call with `--json` that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallError {
    /// The reason, for programs; [`CallErrorKind::exit_code`] is the number that goes with it.
    pub kind: CallErrorKind,
    /// The name of the VM that the call was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The reason and what to do about it, for people.
    pub message: String,
}

/// The reason why a call failed. A word of a newer launcher reads as [`CallErrorKind::Internal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display, strum::EnumIter)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum CallErrorKind {
    /// An option, a name or a number is wrong.
    Usage,
    /// There is no VM of that name.
    NoSuchVm,
    /// The VMM or another program is missing.
    VmmMissing,
    /// Another VM has the name.
    NameTaken,
    /// Another VM, or another program, has the CID.
    CidTaken,
    /// An image is missing, or the file is not an image.
    BadImage,
    /// The stored files of the VM cannot be read; the VM was left as it is.
    Unreadable,
    /// Reading or writing failed.
    Io,
    /// The same call may succeed later.
    TryAgain,
    /// The user lacks a permission.
    Permission,
    /// The call took too long.
    Timeout,
    /// The call has met a bug in pepita.
    #[serde(other)]
    Internal,
}

impl CallErrorKind {
    /// Returns the exit code of a call that fails for this reason, after sysexits(3).
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 64,
            Self::NoSuchVm => 4,
            Self::VmmMissing => 69,
            Self::NameTaken | Self::CidTaken => 73,
            Self::Unreadable => 65,
            Self::BadImage => 66,
            Self::Io => 74,
            Self::TryAgain => 75,
            Self::Permission => 77,
            Self::Timeout => 124,
            Self::Internal => 70,
        }
    }

    /// Returns whether the same call may succeed later without a change by a person.
    pub fn is_recoverable(self) -> bool {
        match self {
            Self::CidTaken | Self::Io | Self::TryAgain | Self::Timeout | Self::Internal => true,
            Self::Usage
            | Self::NoSuchVm
            | Self::VmmMissing
            | Self::NameTaken
            | Self::BadImage
            | Self::Unreadable
            | Self::Permission => false,
        }
    }
}
