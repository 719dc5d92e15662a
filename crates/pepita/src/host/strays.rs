//! The processes of a VM that a monitor has left behind when it was killed at a bad moment.

use crate::host::process_id::ProcessId;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// In the environment of every process of a VM: its run directory. What a monitor that was killed at a bad moment has
/// left behind is known by it.
pub const MARK: &str = "PEPITA_VM_DIR";

/// Ends the processes of the VM with this run directory, also those that one of them starts meanwhile.
pub fn end_strays(dir: &Path) {
    for _ in 0..100 {
        let strays = strays(dir);
        if strays.is_empty() {
            return;
        }
        strays.iter().for_each(ProcessId::end);
    }
}

/// The processes of the VM with this run directory that still run, known by the mark in their environment. Its monitor is
/// none of them.
pub fn strays(dir: &Path) -> Vec<ProcessId> {
    let Ok(dir) = dir.canonicalize() else { return Vec::new() };
    let mark = [MARK.as_bytes(), b"=", dir.as_os_str().as_bytes()].concat();
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let marked = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        // In the middle of its exec a process has no environment; it is where we have started it.
        let in_exec = || std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == dir);
        match environment.is_empty() {
            true => in_exec(),
            false => environment.split(|byte| *byte == 0).any(|variable| variable == mark),
        }
    };
    pids.filter(|pid| *pid != std::process::id()).filter(marked).filter_map(ProcessId::of).collect()
}
