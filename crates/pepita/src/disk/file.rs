//! The file of a disk: its creation, its lock, its growth.

use super::tool::{self, Patience, about};
use crate::error::{Result, io};
use crate::rundir::files::Beside;
use crate::vm_config::Disk;
use pepita_wire::record::CallErrorKind;
use rustix::fs::FileType;
use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The number of attempts to take a lock, and the pause between two: the time of a look at the lock.
const LOOKS: usize = 3;
const LOOK: Duration = Duration::from_millis(10);

/// How a disk is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The disk is only read.
    Read,
    /// The disk is written, too.
    Write,
}

/// A disk whose lock is held as long as `file` is open, in this process or in one that has inherited it.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) file: File,
    path: PathBuf,
}

impl Held {
    /// Takes the lock of a disk. Returns `None` when another process holds it.
    ///
    /// # Errors
    /// When the file cannot be opened, or is no disk.
    pub(super) fn take(path: &Path, mode: Mode) -> Result<Option<Self>> {
        loop {
            let write = mode == Mode::Write;
            let file = File::options().read(true).write(write).open(path).map_err(|e| io(path, e))?;
            let kind = FileType::from_raw_mode(file.metadata().map_err(|e| io(path, e))?.mode());
            if !matches!(kind, FileType::RegularFile | FileType::BlockDevice) {
                let why = format!("{}: no file and no block device", path.display());
                return Err(crate::error::call_error(CallErrorKind::Usage, why));
            }
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(TryLockError::Error(e)) => return Err(io(path, e)),
            }
            // Between opening and locking, the disk may have been removed, and a new one made.
            let is_it = |now: std::fs::Metadata| file.metadata().is_ok_and(|ours| ours.ino() == now.ino());
            if path.metadata().is_ok_and(is_it) {
                return Ok(Some(Self { file, path: path.to_owned() }));
            }
        }
    }

    /// Takes the lock of a disk as [`Held::take`] does. A look at the lock ([`Held::is_taken`]), which takes microseconds,
    /// is waited out; no event tells its end.
    pub(super) fn take_patiently(path: &Path, mode: Mode) -> Result<Option<Self>> {
        for _ in 0..LOOKS {
            match Self::take(path, mode)? {
                Some(held) => return Ok(Some(held)),
                None => std::thread::sleep(LOOK),
            }
        }
        Self::take(path, mode)
    }

    /// Returns whether a process holds the lock of a disk.
    pub(super) fn is_taken(path: &Path) -> bool {
        let Ok(file) = File::open(path) else { return false };
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
    }

    /// Returns the length of the disk, in bytes.
    pub(super) fn bytes(&self) -> Result<u64> {
        use std::io::{Seek, SeekFrom};
        // The metadata of a block device have no length.
        (&self.file).seek(SeekFrom::End(0)).map_err(|e| io(&self.path, e))
    }
}

/// Makes a disk of this size, unless its file is there. A file without a byte counts as absent. The file system is
/// complete when the file gets its name, so that a launch that is killed leaves no half of a disk.
pub(super) fn make_if_absent(disk: &Disk, size_mb: u64, patience: Patience<'_>) -> Result<()> {
    let Disk { name, file: path, read_only, .. } = disk;
    let is_absent = match path.metadata() {
        Ok(meta) => meta.is_file() && meta.len() == 0,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => true,
        Err(e) => {
            return Err(about(name, io(path, e).kind, format!("{}: cannot be looked at", path.display())));
        }
    };
    if !is_absent {
        return Ok(());
    }
    if *read_only {
        let why =
            format!("{} is not there, and a new disk that can only be read is of no use", path.display());
        return Err(about(name, CallErrorKind::BadImage, why));
    }
    if disk.dir.is_some()
        && let Some(dir) = path.parent()
    {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| io(dir, e))?;
    }
    let (beside, file) = Beside::create(path)?;
    file.set_len(size_mb << 20).map_err(|e| io(path, e))?;
    tool::format(name, beside.path(), patience)?;
    file.sync_all().map_err(|e| io(path, e))?;
    // Another launch may have made the disk meanwhile: unlike a rename, a link replaces nothing.
    if path.metadata().is_ok_and(|meta| meta.is_file() && meta.len() == 0) {
        return beside.commit(&file);
    }
    match std::fs::hard_link(beside.path(), path) {
        Ok(()) => {
            // The name holds after a power cut, where the file system can synchronise a directory.
            let _ = path.parent().and_then(|dir| File::open(dir).and_then(|dir| dir.sync_all()).ok());
            Ok(())
        }
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(io(path, e)),
    }
}

/// Lets a disk grow, file and file system.
pub(super) fn grow(name: &str, held: &Held, size_mb: u64, patience: Patience<'_>) -> Result<()> {
    let bytes = size_mb << 20;
    if held.bytes()? < bytes {
        held.file.set_len(bytes).map_err(|e| io(&held.path, e))?;
    }
    tool::resize(name, &held.path, patience)?;
    held.file.sync_all().map_err(|e| io(&held.path, e))
}
