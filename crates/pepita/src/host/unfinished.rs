//! Files and directories that this program is still making. A signal that ends the program removes them first.

use crate::error::{Result, system};
use crate::host::patience::spawn;
use nix::sys::signal::{SigSet, Signal};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

static PATHS: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// The attempts to remove a directory in which another process is still making files.
const TRIES: usize = 100;

/// A file or directory that is being made, or is to be made. Dropping this says that it is finished, or gone.
#[derive(Debug)]
pub struct Unfinished(PathBuf);

impl Unfinished {
    /// Notes a path. This comes before the file is made, so that no moment is missed.
    pub fn new(path: &Path) -> Self {
        paths().insert(path.to_owned());
        Self(path.to_owned())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        paths().remove(&self.0);
    }
}

fn paths() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    PATHS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets the signals that end a program remove what is unfinished before they do. To be called before any other thread is
/// started, because a thread inherits which signals are blocked.
///
/// # Errors
/// When the signals cannot be blocked.
pub fn remove_on_signals() -> Result<()> {
    let signals: SigSet =
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT].into_iter().collect();
    signals.thread_block().map_err(|e| system("signals", e))?;
    let waiting = spawn(move || {
        if let Ok(signal) = signals.wait() {
            // As long as the paths are locked, nothing new is begun.
            let paths = paths();
            for path in paths.iter() {
                remove(path);
            }
            std::process::exit(128 + signal as i32);
        }
    });
    waiting.map_err(|e| system("a thread", e))
}

fn remove(path: &Path) {
    for _ in 0..TRIES {
        let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        match removed {
            Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
            Ok(()) | Err(_) => return,
        }
    }
}
