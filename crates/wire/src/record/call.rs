//! What calls say of the launcher itself: its version, and why one of them failed.

use serde::{Deserialize, Serialize};

/// What `pepita --version --json` prints. A program that does not print this is not this `pepita`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// Always `pepita-launcher`.
    pub name: String,
    /// The launcher's version.
    pub version: String,
    /// See [`crate::CLI_VERSION`].
    pub contract: u32,
    /// Which VMMs can be used here.
    #[serde(default)]
    pub vmms: Vec<VmmAvailability>,
}

/// Whether a VMM can be used, or why not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VmmAvailability {
    /// `qemu` or `process`.
    pub name: String,
    /// It can be used.
    pub usable: bool,
    /// Its version, or why it cannot be used.
    pub detail: String,
}

/// What a failed call prints on stderr with `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallError {
    /// For programs; see [`CallErrorKind::exit_code`] for the numbers that go with it.
    pub kind: CallErrorKind,
    /// The VM it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What happened and what to do, for people.
    pub message: String,
}

/// The stable part of a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CallErrorKind {
    /// A bad option, name or number.
    Usage,
    /// No VM of that name.
    NoSuchVm,
    /// The VMM or another program is missing, or refused.
    VmmMissing,
    /// The name is taken.
    NameTaken,
    /// The CID is taken.
    CidTaken,
    /// An image is missing or no image.
    BadImage,
    /// The stored files of the VM cannot be read; the VM was left as it is.
    Unreadable,
    /// Reading or writing failed.
    Io,
    /// Try again.
    TryAgain,
    /// Not allowed.
    Permission,
    /// It took too long.
    Timeout,
    /// A mistake in pepita.
    #[serde(other)]
    Internal,
}

impl CallErrorKind {
    /// The exit code of a management call, after sysexits.h.
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

    /// Whether the same call may succeed later without anybody changing anything.
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
