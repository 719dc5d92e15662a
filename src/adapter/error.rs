//! Why an adapter could not do what it was asked, and what to do about it.

use crate::config::ConfigErrors;
use crate::executor::ExecutorError;
use crate::group::Refused;
use crate::spec::InvalidName;
use crate::tree::{ChangeError, StartError};
use std::path::PathBuf;
use std::time::Duration;

/// Why an adapter could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// No image is configured.
    #[error(
        "no {0} image is configured: use PepitaAdapter::with_images(kernel, rootfs), or from_config with a [platform.pepita] section; `pepita image build` makes root file systems"
    )]
    NoImages(&'static str),
    /// The configuration file.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The daemon's name.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// There are arguments for a program that is not named.
    #[error("daemon {0:?} has arguments but names no command")]
    ArgsWithoutCommand(String),
    /// A daemon of that name is there already.
    #[error("daemon {0:?} is there already; destroy it first")]
    Taken(String),
    /// The supervision could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The supervision refused.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The VM is not in a state for it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The launcher refused.
    #[error(transparent)]
    Launcher(#[from] ExecutorError),
    /// The daemon did not come to run.
    #[error("the daemon did not come to run: {0}")]
    Spawn(String),
    /// It took too long.
    #[error("the daemon did not run within {0:?}")]
    Timeout(Duration),
    /// No daemon of that name is known here.
    #[error("no daemon {0:?} is supervised here")]
    NotFound(String),
    /// That is no VM of an adapter.
    #[error("{0:?} is no VM of an adapter: theirs are called duende-vm-<name>")]
    Foreign(String),
    /// Every place for an adapter is in use.
    #[error("all {places} places in {} are in use by other adapters", .dir.display())]
    Crowded {
        /// Where they are.
        dir: PathBuf,
        /// How many.
        places: usize,
    },
    /// The adapter's own record cannot be kept.
    #[error("{}: {source}", .file.display())]
    Store {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The supervision has ended.
    #[error("the supervision has ended")]
    Ended,
}
