//! Locks that show whether a process is alive and that grant exclusive claims: flock(2) on a file. The kernel releases
//! a lock when its holder dies.

use crate::error::{Result, io};
use crate::host::patience::patiently;
use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A lock that is held as long as its file is open, in this process or in a process that has inherited the descriptor.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// The choice whether to wait for a lock that another process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Wait until the lock is free.
    Yes,
    /// Do not wait.
    No,
}

impl Lock {
    /// Takes the lock of a file, and creates the file when it is absent. Returns `None` when another process holds the
    /// lock.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn take(path: &Path, wait: Wait) -> Result<Option<Self>> {
        loop {
            let open = File::options().create(true).truncate(false).read(true).write(true).open(path);
            let file = open.map_err(|e| io(path, e))?;
            let locked = match wait {
                Wait::Yes => file.lock().map_err(TryLockError::Error),
                Wait::No => file.try_lock(),
            };
            match locked {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(TryLockError::Error(e)) => return Err(io(path, e)),
            }
            // Between opening and locking, another process may have removed the file and created a new one. A lock on
            // the removed file excludes no other process, so the new file has to be locked.
            let lock = Self { file };
            if lock.is_at(path) {
                return Ok(Some(lock));
            }
        }
    }

    /// Returns whether the file whose lock is held is the one at this path, and not one that was removed.
    pub fn is_at(&self, path: &Path) -> bool {
        let same = |now: std::fs::Metadata| self.file.metadata().is_ok_and(|ours| now.ino() == ours.ino());
        path.metadata().is_ok_and(same)
    }

    /// Returns whether a process holds the lock of a file. Does not create the file.
    pub fn is_held(path: &Path) -> bool {
        let open = || File::options().read(true).write(true).open(path);
        let Ok(file) = patiently(open) else { return false };
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
    }

    /// Returns the file whose lock is held.
    pub fn file(&self) -> &File {
        &self.file
    }
}
