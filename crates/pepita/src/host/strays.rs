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
        // During execve(2) the environment and the arguments of a process read as empty. Such a process is recognised by
        // its current directory, which is the run directory. (A process that has arguments and no environment may be
        // anyone's.)
        let in_exec = || {
            let arguments = std::fs::read(format!("/proc/{pid}/cmdline"));
            arguments.is_ok_and(|arguments| arguments.is_empty())
                && std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == dir)
        };
        match environment.is_empty() {
            true => in_exec(),
            false => environment.split(|byte| *byte == 0).any(|variable| variable == mark),
        }
    };
    pids.filter(|pid| *pid != std::process::id()).filter(marked).filter_map(ProcessId::of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_that_is_only_in_the_run_directory_is_not_the_vm_s() {
        let dir = tempfile::tempdir().expect("a directory");
        let sleep = || {
            let mut command = Command::new("/bin/sleep");
            command.arg("600").current_dir(dir.path()).env_clear();
            command
        };
        let path = dir.path().canonicalize().expect("a directory");
        let mut ours = sleep().env(VM_DIR, &path).spawn().expect("a process");
        let mut other = sleep().spawn().expect("a process");
        // Both are through their execve(2) when their arguments can be read.
        let is_through =
            |pid: u32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
        while !is_through(ours.id()) || !is_through(other.id()) {
            std::thread::yield_now();
        }
        assert_eq!(strays(dir.path()), [ProcessId::of(ours.id()).expect("it runs")]);
        end_strays(dir.path());
        assert!(other.try_wait().expect("a child").is_none(), "it runs on");
        for child in [&mut ours, &mut other] {
            let _ = child.kill();
            child.wait().expect("an end");
        }
    }
}
