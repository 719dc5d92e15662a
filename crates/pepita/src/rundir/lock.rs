//! Locks that answer "is it alive" and "who may": flock(2) on a file, released by the kernel when its holder dies.

use crate::error::{Result, io};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A lock that is held as long as this lives, in this process or in one that got it as a descriptor.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Whether to wait for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Until it is free.
    Yes,
    /// Not at all.
    No,
}

impl Lock {
    /// Takes the lock of a file, which is made if need be; `None` when another holds it.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn take(path: &Path, wait: Wait) -> Result<Option<Self>> {
        loop {
            let open = File::options().create(true).truncate(false).read(true).write(true).open(path);
            let file = open.map_err(|e| io(path, e))?;
            let operation = match wait {
                Wait::Yes => FlockOperation::LockExclusive,
                Wait::No => FlockOperation::NonBlockingLockExclusive,
            };
            match flock(&file, operation) {
                Ok(()) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(e) => return Err(io(path, e)),
            }
            // Between opening and locking the file may have been removed and made again: then this is nobody's lock.
            let same = |now: std::fs::Metadata| file.metadata().is_ok_and(|ours| now.ino() == ours.ino());
            if path.metadata().is_ok_and(same) {
                return Ok(Some(Self { file }));
            }
        }
    }

    /// Whether somebody holds it. Does not make the file.
    pub fn is_held(path: &Path) -> bool {
        let Ok(file) = File::options().read(true).write(true).open(path) else { return false };
        flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    }

    /// The file behind it.
    pub fn file(&self) -> &File {
        &self.file
    }
}
