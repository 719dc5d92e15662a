//! Finds the processes of a VM without its files: by their environment, their current directory and their parents.
//!
//! Strays are processes that are left over because the monitor of the VM was killed before it had recorded or ended
//! them. A VM whose run directory was removed while it runs is found in the same way.

use crate::host::patience::{patiently, read};
use crate::host::process_id::ProcessId;
use crate::host::wait::wait_readable;
use pepita_wire::environment::VM_DIR;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The environment variable in which the processes of a VM carry what its record says: the incarnation, the CID and the
/// labels, as JSON.
pub const RECORD: &str = "PEPITA_VM_RECORD";

/// The first argument of a monitor.
const MONITOR: &[u8] = b"monitor";

/// The maximum number of searches. A stray may start another process while the strays are being ended, so one search is
/// not enough.
const ROUNDS: usize = 100;

/// The time limit for a monitor to end by itself once the processes of its VM are gone: it reaps them, and ends those
/// that hide from this search.
const MONITOR_END: Duration = Duration::from_secs(3);

/// The ending of the target of `/proc/<pid>/cwd` when the directory was removed.
const DELETED: &[u8] = b" (deleted)";

/// A process of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The identity of the process.
    pub process: ProcessId,
    /// Whether the process is the monitor of the VM.
    pub is_monitor: bool,
    /// The content of the variable [`RECORD`], if the process has it.
    pub record: Option<String>,
}

impl Member {
    /// Returns whether the process is a monitor of this user that goes on. Another user could make a process that looks
    /// like a monitor.
    pub fn watches(&self) -> bool {
        let ours = || {
            let owner = std::fs::metadata(format!("/proc/{}", self.process.pid)).map(|meta| meta.uid());
            owner.is_ok_and(|uid| uid == rustix::process::geteuid().as_raw())
        };
        self.is_monitor && ours() && self.process.open().is_some() && !self.process.is_exiting()
    }
}

/// Returns the processes of the VM with this run directory that run, without the calling process. The directory itself
/// may be gone.
pub fn members(dir: &Path) -> Vec<Member> {
    let dir = resolved(dir);
    members_where(|found| found == dir).remove(&dir).unwrap_or_default()
}

/// Returns the processes of all VMs whose run directories lie, or lay, in this directory, by the run directory.
pub fn members_in(run_dir: &Path) -> BTreeMap<PathBuf, Vec<Member>> {
    let run_dir = resolved(run_dir);
    members_where(|found| found.parent() == Some(&run_dir))
}

/// Returns the processes of the VM with this run directory as [`members`] does, once a monitor without any other process
/// of the VM had the time to end: its VM has ended.
pub fn settled_members(dir: &Path) -> Vec<Member> {
    let found = members(dir);
    if found.is_empty() || found.iter().any(|member| !member.is_monitor) {
        return found;
    }
    for monitor in found.iter().filter_map(|member| member.process.open()) {
        wait_readable(&monitor, MONITOR_END);
    }
    members(dir)
}

/// Ends the processes of the VM with this run directory, including processes that a stray starts meanwhile. The monitor
/// is left to end by itself for a moment, and is killed then.
pub fn end_members(dir: &Path) {
    for _ in 0..ROUNDS {
        let (monitors, strays): (Vec<Member>, Vec<Member>) =
            members(dir).into_iter().partition(|member| member.is_monitor);
        if monitors.is_empty() && strays.is_empty() {
            return;
        }
        strays.iter().for_each(|stray| stray.process.end());
        for monitor in monitors {
            if let Some(handle) = monitor.process.open()
                && !wait_readable(&handle, MONITOR_END)
            {
                monitor.process.end();
            }
        }
    }
}

/// Ends the processes of the VM with this run directory, as its monitor does, which is the calling process.
pub fn end_strays(dir: &Path) {
    for _ in 0..ROUNDS {
        let strays: Vec<Member> = members(dir).into_iter().filter(|member| !member.is_monitor).collect();
        if strays.is_empty() {
            return;
        }
        strays.iter().for_each(|stray| stray.process.end());
    }
}

/// Returns a path as the kernel shows it, without links, also when the path or its parents are gone.
pub fn resolved(path: &Path) -> PathBuf {
    let mut rest = Vec::new();
    for ancestor in path.ancestors() {
        if let Ok(found) = ancestor.canonicalize() {
            return rest.into_iter().rev().fold(found, |path, name| path.join(name));
        }
        rest.extend(ancestor.file_name());
    }
    path.to_owned()
}

/// Returns the processes whose run directory `is_wanted`, by that directory.
fn members_where(is_wanted: impl Fn(&Path) -> bool) -> BTreeMap<PathBuf, Vec<Member>> {
    let own = std::process::id();
    let entries = patiently(|| std::fs::read_dir("/proc")).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut found: BTreeMap<PathBuf, Vec<Member>> = BTreeMap::new();
    let mut parents: BTreeMap<u32, PathBuf> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for pid in pids.filter(|pid| *pid != own) {
        let environment = read(format!("/proc/{pid}/environ"));
        let mark = variable(&environment, VM_DIR).map(PathBuf::from).filter(|dir| is_wanted(dir));
        let (dir, is_monitor) = match mark {
            Some(dir) => (dir, false),
            None => match current_dir(pid).filter(|dir| is_wanted(dir)) {
                Some(dir) if is_monitor(pid) => (dir, true),
                // During execve(2) the environment and the arguments of a process read as empty. Such a process is
                // recognised by its current directory, which is the run directory. (A process that has arguments and no
                // environment may be anyone's.)
                Some(dir) if environment.is_empty() && arguments(pid).is_empty() => (dir, false),
                Some(_) | None => continue,
            },
        };
        let Some(process) = ProcessId::of(pid) else { continue };
        if !is_monitor && let Some(parent) = process.parent() {
            parents.insert(parent, dir.clone());
        }
        let record = variable(&environment, RECORD).and_then(OsStr::to_str).map(str::to_owned);
        seen.insert(pid);
        found.entry(dir).or_default().push(Member { process, is_monitor, record });
    }
    // The directory of a monitor may have been moved; its VM names the former path.
    for (pid, dir) in parents.into_iter().filter(|(pid, _)| *pid != own && !seen.contains(pid)) {
        if is_monitor(pid)
            && let Some(process) = ProcessId::of(pid)
        {
            found.entry(dir).or_default().push(Member { process, is_monitor: true, record: None });
        }
    }
    found
}

/// Returns the value of a variable in the text of `/proc/<pid>/environ`.
fn variable<'a>(environment: &'a [u8], name: &str) -> Option<&'a OsStr> {
    let values = environment.split(|byte| *byte == 0);
    let mut values = values.filter_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    values.next().map(OsStr::from_bytes)
}

/// Returns the current directory of a process, also when that directory was removed.
fn current_dir(pid: u32) -> Option<PathBuf> {
    let link = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    let path = link.as_os_str().as_bytes();
    Some(PathBuf::from(OsStr::from_bytes(path.strip_suffix(DELETED).unwrap_or(path))))
}

fn is_monitor(pid: u32) -> bool {
    arguments(pid).split(|byte| *byte == 0).nth(1) == Some(MONITOR)
}

/// Returns the arguments of a process, each with a zero byte at its end.
fn arguments(pid: u32) -> Vec<u8> {
    read(format!("/proc/{pid}/cmdline"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_path_that_is_gone_is_resolved_as_far_as_it_exists() {
        let dir = tempfile::tempdir().expect("a directory");
        let real = dir.path().canonicalize().expect("it exists");
        std::os::unix::fs::symlink(&real, dir.path().join("link")).expect("a link");
        assert_eq!(resolved(&dir.path().join("link/gone/too")), real.join("gone/too"));
    }

    #[test]
    fn a_process_is_found_by_its_mark_after_its_directory_is_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let vm = dir.path().canonicalize().expect("it exists").join("a");
        std::fs::create_dir(&vm).expect("made");
        let mut command = Command::new("sleep");
        command.arg("60").current_dir(&vm).env(VM_DIR, &vm).env(RECORD, "{}");
        let mut child = command.spawn().expect("a process");
        std::fs::remove_dir(&vm).expect("removed");
        let found = members(&vm);
        let pids: Vec<u32> = found.iter().map(|member| member.process.pid).collect();
        assert_eq!(pids, [child.id()]);
        assert!(!found[0].is_monitor);
        assert_eq!(members_in(dir.path()).keys().collect::<Vec<_>>(), [&vm]);
        end_members(&vm);
        assert!(child.wait().is_ok_and(|status| !status.success()));
        assert_eq!(members(&vm), []);
    }

    #[test]
    fn a_variable_is_told_from_another_one_with_the_same_beginning() {
        let environment = b"PEPITA_VM_DIRECTORY=/x\0PEPITA_VM_DIR=/run/a\0";
        assert_eq!(variable(environment, VM_DIR), Some(OsStr::new("/run/a")));
        assert_eq!(variable(b"", VM_DIR), None);
    }

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
        let found: Vec<u32> = members(dir.path()).iter().map(|member| member.process.pid).collect();
        assert_eq!(found, [ours.id()]);
        end_strays(dir.path());
        assert!(other.try_wait().expect("a child").is_none(), "it runs on");
        for child in [&mut ours, &mut other] {
            let _ = child.kill();
            child.wait().expect("an end");
        }
    }
}
