//! Finds the remains of VMs on a host: processes, run directories, claims on CIDs, sockets, open files.

use pepita_launcher::host::wait::wait_readable;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// The time limit for processes to end by themselves. A monitor waits for its clients for a second.
const FAREWELL: Duration = Duration::from_secs(5);

/// The entries of a directory of run directories that stay.
const KEPT: [&str; 4] = [".cache", ".cids", ".ends", ".network"];

/// A process of a host: its current directory, its arguments or its environment name the run directory.
pub(crate) struct Found {
    pub(crate) pid: u32,
    pub(crate) parent: Option<u32>,
    pub(crate) what: String,
    handle: OwnedFd,
}

/// Returns the processes of a host, by current directory, arguments and environment.
pub(crate) fn processes_in(dir: &Path) -> Vec<Found> {
    let needle = dir.as_os_str().as_encoded_bytes();
    let has = |bytes: &[u8]| {
        bytes
            .windows(needle.len() + 1)
            .any(|w| &w[..needle.len()] == needle && matches!(w[needle.len()], 0 | b'/'))
    };
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let found = pids.filter(|pid| *pid != std::process::id()).filter_map(|pid| {
        let handle = pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()?;
        let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        let words = read("cmdline");
        let marked = read("environ")
            .split(|b| *b == 0)
            .any(|v| v.starts_with(b"PEPITA_VM_DIR=") && has(&[v, b"\0"].concat()));
        (cwd.starts_with(dir) || has(&words) || marked).then(|| {
            let stat = String::from_utf8_lossy(&read("stat")).into_owned();
            let stat: Vec<&str> =
                stat.rsplit(')').next().unwrap_or_default().split(' ').skip(1).take(2).collect();
            let parent = stat.get(1).and_then(|parent| parent.parse().ok());
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            let what = format!("{pid} {stat:?} {}: {words}", cwd.display());
            Found { pid, parent, what, handle }
        })
    });
    found.collect()
}

/// Ends all processes of a host. Returns the processes that do not end by themselves.
pub(super) fn end_processes(dir: &Path) -> Vec<String> {
    let deadline = Instant::now() + FAREWELL;
    let mut left = Vec::new();
    for process in processes_in(dir) {
        let time = deadline.saturating_duration_since(Instant::now());
        if !wait_readable(&process.handle, time) {
            left.push(process.what);
        }
    }
    // Processes that were started meanwhile are ended, too.
    for process in processes_in(dir) {
        let _ = pidfd_send_signal(&process.handle, Signal::KILL);
        wait_readable(&process.handle, FAREWELL);
    }
    left
}

/// Ends all processes of a host. Returns everything that was left.
pub(super) fn clear(dir: &Path) -> Vec<String> {
    let mut left = end_processes(dir);
    left.extend(entries(dir).into_iter().filter(|name| !KEPT.contains(&name.as_str())));
    left.extend(entries(&dir.join(".cids")).into_iter().map(|cid| format!("CID {cid}")));
    left.extend(sockets(dir));
    left
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Returns the bound Unix sockets, whether or not their files are still there.
fn sockets(dir: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let inside = format!("{}/", dir.display());
    table
        .lines()
        .filter_map(|line| line.split(' ').next_back())
        .filter(|p| p.starts_with(&inside))
        .map(str::to_owned)
        .collect()
}

/// The counts that have to be the same before and after a test.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    processes: usize,
    directories: usize,
    cids: usize,
    sockets: usize,
    open_files: usize,
}

impl Counts {
    /// Takes the counts. Waits for processes that are ending.
    pub(crate) fn of(dir: &Path) -> Self {
        for process in processes_in(dir) {
            wait_readable(&process.handle, FAREWELL);
        }
        Self {
            processes: processes_in(dir).len(),
            directories: entries(dir)
                .iter()
                .filter(|name| *name == ".cache" || !KEPT.contains(&name.as_str()))
                .count(),
            cids: entries(&dir.join(".cids")).len(),
            sockets: sockets(dir).len(),
            open_files: entries(Path::new("/proc/self/fd")).len(),
        }
    }
}
