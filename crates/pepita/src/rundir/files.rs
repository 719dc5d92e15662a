//! Files that are whole or absent: written beside, then renamed.

use crate::error::{Result, io};
use crate::host::process_id::ProcessId;
use crate::rundir::layout;
use pepita_wire::{ExitRecord, StatusRecord};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// `state.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The monitor that wrote this.
    pub monitor: Option<ProcessId>,
    /// The VMM.
    pub vmm: Option<ProcessId>,
    /// The vsock back-end.
    pub backend: Option<ProcessId>,
    /// The daemon, when the VM is a plain process.
    pub daemon: Option<ProcessId>,
    /// The cgroup that holds its limits.
    pub cgroup: Option<PathBuf>,
    /// Where in all console output the oldest file of the log begins.
    pub log_base: u64,
    /// The status as it was last told.
    pub status: StatusRecord,
}

/// Whether a record has to survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// It has.
    Yes,
    /// What would lose it ends the VM as well.
    No,
}

/// Replaces a file, mode 0600.
///
/// # Errors
/// When it cannot be written; the former one is still there then.
pub fn replace(path: &Path, bytes: &[u8], sync: Sync) -> Result<()> {
    // Each process its own: two may make the same file, in the cache for example.
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

/// Replaces a file by a record.
///
/// # Errors
/// As [`replace`].
pub fn write(path: &Path, record: &impl Serialize, sync: Sync) -> Result<()> {
    replace(path, pepita_wire::record::pretty(record).as_bytes(), sync)
}

/// Reads a record; `None` when it is absent or cannot be read. What another process wrote is data, never a reason to fail.
pub fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// The exit record in a run directory.
pub fn exit_in(dir: &Path) -> Option<ExitRecord> {
    read(&dir.join(layout::EXIT))
}
