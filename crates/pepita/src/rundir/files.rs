//! The files of a run directory. A file is complete or absent, never half written. A file with unexpected contents
//! never makes a reader panic, and a file that cannot be read is never taken for absent.

use crate::error::{Result, io};
use crate::host::process_id::ProcessId;
use crate::host::random;
use crate::host::unfinished::Unfinished;
use crate::rundir::layout;
use pepita_wire::{ExitRecord, StatusRecord, Stored};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The contents of the file `state.json`: the status of the VM, and its processes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The monitor that wrote the file.
    pub monitor: Option<ProcessId>,
    /// The process of the VMM.
    pub vmm: Option<ProcessId>,
    /// The vsock back-end.
    pub backend: Option<ProcessId>,
    /// The servers of the shares, by their directories in the guest.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub shares: BTreeMap<String, ProcessId>,
    /// The process of the daemon, when the VM is a plain process.
    pub daemon: Option<ProcessId>,
    /// The cgroup that holds the VM's limits.
    pub cgroup: Option<PathBuf>,
    /// The offset in the whole console output at which the oldest file of the log begins, in bytes.
    pub log_base: u64,
    /// The status that the monitor published last.
    pub status: StatusRecord,
}

/// The choice whether a file has to survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// The file is synchronised to the disk before the call returns.
    Yes,
    /// The file is not synchronised: a power cut that loses the file ends the VM as well.
    No,
}

/// Replaces a file, with mode 0600: writes a temporary file beside it and renames that file.
///
/// # Errors
/// When the new file cannot be written. The former file is unchanged then.
pub fn replace(path: &Path, bytes: &[u8], sync: Sync) -> Result<()> {
    replace_with(path, bytes, sync, 0o600)
}

/// Replaces a file of the cache, as [`replace`] does, with a mode with which the users of jails can read it as soon as it is
/// there: another VM may be about to open the former one. Only its owner can enter the cache itself.
///
/// # Errors
/// When the new file cannot be written. The former file is unchanged then.
pub fn replace_cached(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_with(path, bytes, Sync::No, 0o644)
}

fn replace_with(path: &Path, bytes: &[u8], sync: Sync, mode: u32) -> Result<()> {
    // The temporary name contains the pid, because two processes may write the same file, for example in the cache.
    let beside = path.with_extension(format!("tmp-{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = File::options().write(true).create(true).truncate(true).mode(mode).open(&beside)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        if sync == Sync::Yes {
            file.sync_all()?;
        }
        std::fs::rename(&beside, path)
    };
    write().map_err(|e| {
        let _ = std::fs::remove_file(&beside);
        io(path, e)
    })
}

/// Brings a file to the disk, if the file system can do that. A power cut may lose a file that was only written.
pub fn bring_to_disk(path: &Path) {
    let _ = File::open(path).and_then(|file| file.sync_all());
}

/// Gives a file another name, in which a link is not followed.
///
/// # Errors
/// When there is no such file, or it cannot get the name.
pub fn move_to(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(|e| io(from, e))
}

/// A file that is being written beside another one, and takes its place when it is complete. Dropping it before removes
/// it, and the former file stays.
#[derive(Debug)]
pub struct Beside {
    target: PathBuf,
    path: PathBuf,
    _unfinished: Unfinished,
}

impl Beside {
    /// Makes the file, with mode 0600 whatever the umask is. Its name is random, and nothing of that name may be there
    /// before.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(target: &Path) -> Result<(Self, File)> {
        let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = target.with_file_name(format!(".{name}.{}", &random::secret()?[..16]));
        let unfinished = Unfinished::new(&path);
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|e| io(target, e))?;
        file.set_permissions(Permissions::from_mode(0o600)).map_err(|e| io(target, e))?;
        Ok((Self { target: target.to_owned(), path, _unfinished: unfinished }, file))
    }

    /// Returns the path of the file that is being written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Synchronises the file to the disk and renames it.
    ///
    /// # Errors
    /// When that fails. The former file is unchanged then.
    pub fn commit(self, file: &File) -> Result<()> {
        let renamed = file.sync_all().and_then(|()| std::fs::rename(&self.path, &self.target));
        renamed.map_err(|e| io(&self.target, e))?;
        let dir = self.target.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // The rename holds after a power cut, where the file system can synchronise a directory.
        let _ = File::open(dir).and_then(|dir| dir.sync_all());
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // After the rename there is none of that name.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Replaces a file by a record, as JSON.
///
/// # Errors
/// The errors of [`replace`].
pub fn write(path: &Path, record: &impl Serialize, sync: Sync) -> Result<()> {
    replace(path, pepita_wire::record::pretty(record).as_bytes(), sync)
}

/// Reads a record.
pub fn read<T: DeserializeOwned>(path: &Path) -> Stored<T> {
    Stored::of_json(path, std::fs::read(path))
}

/// Reads the state in a run directory.
pub fn state(dir: &Path) -> Stored<State> {
    read(&dir.join(layout::STATE))
}

/// Reads the exit record in a run directory.
pub fn exit(dir: &Path) -> Stored<ExitRecord> {
    read(&dir.join(layout::EXIT))
}
