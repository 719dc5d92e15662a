//! Finds and ends strays: processes of a VM that are left over because the VM's monitor was killed before it had
//! recorded or ended them.

use crate::host::process_id::ProcessId;
use pepita_wire::environment::VM_DIR;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The maximum number of searches. A stray may start another process while the strays are being ended, so one search is
/// not enough.
const ROUNDS: usize = 100;

/// Ends the processes of the VM with this run directory, including processes that a stray starts meanwhile.
pub fn end_strays(dir: &Path) {
    for _ in 0..ROUNDS {
        let strays = strays(dir);
        if strays.is_empty() {
            return;
        }
        strays.iter().for_each(ProcessId::end);
    }
}

/// Returns the processes of the VM with this run directory that still run, without the calling process (the monitor).
pub fn strays(dir: &Path) -> Vec<ProcessId> {
    let Ok(dir) = dir.canonicalize() else { return Vec::new() };
    let mark = [VM_DIR.as_bytes(), b"=", dir.as_os_str().as_bytes()].concat();
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let marked = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        // During execve(2) the environment of a process reads as empty. Such a process is recognised by its current
        // directory, which is the run directory.
        let in_exec = || std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == dir);
        match environment.is_empty() {
            true => in_exec(),
            false => environment.split(|byte| *byte == 0).any(|variable| variable == mark),
        }
    };
    pids.filter(|pid| *pid != std::process::id()).filter(marked).filter_map(ProcessId::of).collect()
}
