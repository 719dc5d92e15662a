//! Locks that show whether a process is alive and that grant exclusive claims: flock(2) on a file. The kernel releases
//! a lock when its holder dies.

use crate::error::{Result, io};
use crate::host::patience::patiently;
use crate::rundir::layout;
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
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

/// The result of an attempt to take the lock of a VM's run directory.
#[derive(Debug)]
pub enum VmLock {
    /// The lock is held by this process now.
    Taken(Lock),
    /// Another process holds the lock.
    Held,
    /// There is no run directory, or another process removes it at this moment.
    Absent,
}

impl Lock {
    /// Takes the lock of a VM's run directory, and creates its file when it is absent. Does not wait.
    ///
    /// # Errors
    /// When the file cannot be created in a directory that is there.
    pub fn take_of_vm(dir: &Path) -> Result<VmLock> {
        let path = dir.join(layout::LOCK);
        match Self::try_take(&path, Wait::No) {
            Ok(Some(lock)) => Ok(VmLock::Taken(lock)),
            Ok(None) => Ok(VmLock::Held),
            // The file is created when it is absent, so it is the directory that is missing. A look at the directory
            // would tell nothing: the next launch may have made it again.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Ok(VmLock::Absent)
            }
            Err(e) => Err(io(&path, e)),
        }
    }

    /// Takes the lock of a file, and creates the file when it is absent. Returns `None` when another process holds the
    /// lock.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn take(path: &Path, wait: Wait) -> Result<Option<Self>> {
        Self::try_take(path, wait).map_err(|e| io(path, e))
    }

    fn try_take(path: &Path, wait: Wait) -> std::io::Result<Option<Self>> {
        loop {
            let file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
            let locked = match wait {
                Wait::Yes => file.lock().map_err(TryLockError::Error),
                Wait::No => file.try_lock(),
            };
            match locked {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Interrupted => continue,
                Err(TryLockError::Error(e)) => return Err(e),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_directory_that_is_missing_is_told_apart_from_one_that_is_held() {
        let place = tempfile::tempdir().expect("a directory");
        let dir = place.path().join("x");
        assert!(matches!(Lock::take_of_vm(&dir), Ok(VmLock::Absent)));
        std::fs::write(&dir, "a file").expect("written");
        assert!(matches!(Lock::take_of_vm(&dir), Ok(VmLock::Absent)));
        std::fs::remove_file(&dir).expect("removed");
        std::fs::create_dir(&dir).expect("created");
        let taken = Lock::take_of_vm(&dir);
        assert!(matches!(taken, Ok(VmLock::Taken(_))));
        assert!(matches!(Lock::take_of_vm(&dir), Ok(VmLock::Held)));
        drop(taken);
        assert!(matches!(Lock::take_of_vm(&dir), Ok(VmLock::Taken(_))));
    }
}
