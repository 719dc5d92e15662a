//! The errors of an adapter.

use crate::config::ConfigErrors;
use crate::executor::ExecutorError;
use crate::group::Refused;
use crate::spec::InvalidName;
use crate::tree::{ChangeError, StartError};
use std::path::PathBuf;
use std::time::Duration;

/// Why a call of an adapter failed.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// No image is configured.
    #[error(
        "no {0} image is configured: use PepitaAdapter::with_images(kernel, rootfs), or from_config with a [platform.pepita] section; `pepita image build` makes root file systems"
    )]
    NoImages(&'static str),
    /// The configuration file cannot be read or has mistakes.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The name of the daemon cannot be made the name of a VM.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The daemon has arguments but no command.
    #[error("daemon {0:?} has arguments but names no command")]
    ArgsWithoutCommand(String),
    /// A daemon of that name exists already.
    #[error("daemon {0:?} exists already; destroy it first")]
    Taken(String),
    /// The supervision could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The supervision refused the change.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The VM is not in a state for the call.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The launcher failed or refused the call.
    #[error(transparent)]
    Launcher(#[from] ExecutorError),
    /// The daemon did not run; with the reason, as text for people.
    #[error("the daemon did not start: {0}")]
    Spawn(String),
    /// The daemon did not run in time.
    #[error("the daemon did not run within {0:?}")]
    Timeout(Duration),
    /// No daemon of that name is known here.
    #[error("no daemon {0:?} is supervised here")]
    NotFound(String),
    /// The id is not the id of an adapter's VM.
    #[error("{0:?} is no VM of an adapter: the ids of adapters begin with duende-vm-")]
    Foreign(String),
    /// The directory of the adapters' state is not safely this user's own.
    #[error("{}: {fault}; name a directory of yours with PepitaAdapter::with_places", .dir.display())]
    Unsafe {
        /// The directory that was refused.
        dir: PathBuf,
        /// Why it is not safe.
        fault: &'static str,
    },
    /// Every slot for an adapter is in use, or holds a list that cannot be read.
    #[error("all {places} places in {} are in use by other adapters", .dir.display())]
    Crowded {
        /// The directory of the slots.
        dir: PathBuf,
        /// The number of slots.
        places: usize,
    },
    /// The list of the adapter's daemons cannot be stored.
    #[error("{}: {source}", .file.display())]
    Store {
        /// The file of the list.
        file: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The supervision has ended.
    #[error("the supervision has ended")]
    Ended,
}
