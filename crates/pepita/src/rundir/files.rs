//! The files of a run directory: complete or absent, never half written. What another process wrote is data, never a
//! reason to panic; a file that cannot be read is not taken for absent.

use crate::error::{Result, io};
use crate::host::process_id::ProcessId;
use crate::rundir::layout;
use pepita_wire::{ExitRecord, StatusRecord, Stored};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file `state.json`: where the VM is, and its processes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The monitor that wrote the file.
    pub monitor: Option<ProcessId>,
    /// The process of the VMM.
    pub vmm: Option<ProcessId>,
    /// The vsock back-end.
    pub backend: Option<ProcessId>,
    /// The daemon, when the VM is a plain process.
    pub daemon: Option<ProcessId>,
    /// The cgroup that holds the VM's limits.
    pub cgroup: Option<PathBuf>,
    /// The offset in the whole console output at which the oldest file of the log begins, in bytes.
    pub log_base: u64,
    /// The status as the monitor told it last.
    pub status: StatusRecord,
}

/// Whether a file has to survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// The file is on the disk when the call returns.
    Yes,
    /// A power cut that loses the file ends the VM as well.
    No,
}

/// Replaces a file, with mode 0600, by writing beside it and renaming.
///
/// # Errors
/// When the new file cannot be written; the former one is still there then.
pub fn replace(path: &Path, bytes: &[u8], sync: Sync) -> Result<()> {
    // The name has the pid in it: two processes may make the same file, in the cache for example.
    let beside = path.with_extension(format!("tmp-{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
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

/// Replaces a file by a record, as JSON.
///
/// # Errors
/// As [`replace`].
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
