//! The processes of a VM that a monitor has left behind when it was killed at a bad moment.

use crate::host::process_id::ProcessId;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The variable in the environment of every process of a VM that names the VM's run directory. Strays are known by it.
pub const MARK: &str = "PEPITA_VM_DIR";

/// How often the processes are looked for, at most: a stray may start another one while it is being ended.
const ROUNDS: usize = 100;

/// Ends the processes of the VM with this run directory, also those that one of them starts meanwhile.
pub fn end_strays(dir: &Path) {
    for _ in 0..ROUNDS {
        let strays = strays(dir);
        if strays.is_empty() {
            return;
        }
        strays.iter().for_each(ProcessId::end);
    }
}

/// Returns the processes of the VM with this run directory that still run. Its monitor is not among them.
pub fn strays(dir: &Path) -> Vec<ProcessId> {
    let Ok(dir) = dir.canonicalize() else { return Vec::new() };
    let mark = [MARK.as_bytes(), b"=", dir.as_os_str().as_bytes()].concat();
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let marked = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        // In the middle of its exec a process has no environment, but its current directory is the run directory.
        let in_exec = || std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == dir);
        match environment.is_empty() {
            true => in_exec(),
            false => environment.split(|byte| *byte == 0).any(|variable| variable == mark),
        }
    };
    pids.filter(|pid| *pid != std::process::id()).filter(marked).filter_map(ProcessId::of).collect()
}
