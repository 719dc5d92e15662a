//! What runs, and what it holds: counted from `/proc` and from the folders of the host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a process is to its VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Daemon,
    Vmm,
    Monitor,
    Backend,
}

/// A process of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) role: Role,
    /// The name of the VM in the configuration.
    pub(crate) vm: String,
    parent: i32,
    /// When the process was started, in ticks of the kernel: a pid that was used again has another start.
    started: u64,
}

/// Returns the processes of the VMs of a run directory.
pub(crate) fn processes(run_dir: &Path) -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| process(run_dir, pid)).collect()
}

/// Returns the process, if it belongs to a VM of this run directory and has not ended.
fn process(run_dir: &Path, pid: i32) -> Option<Process> {
    let Stat { comm, state, parent, started } = stat(pid)?;
    let role = match comm.as_str() {
        "ticker" => Role::Daemon,
        "daemonctl" => Role::Vmm,
        "pepita" => Role::Monitor,
        comm if comm.starts_with("qemu-system") => Role::Vmm,
        comm if comm.starts_with("vhost-device") => Role::Backend,
        _ => return None,
    };
    let dir = match role {
        Role::Daemon => dir_of_daemon(pid)?,
        Role::Vmm | Role::Monitor | Role::Backend => std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?,
    };
    let id = dir.strip_prefix(run_dir).ok()?.to_str()?;
    let vm = id.strip_prefix("duende-vm-")?.to_owned();
    (state != 'Z' && state != 'X').then_some(Process { pid, role, vm, parent, started })
}

/// Returns the run directory of the VM of a daemon, as its environment names it.
fn dir_of_daemon(pid: i32) -> Option<PathBuf> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let dir = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"PEPITA_VM_DIR="))?;
    Some(PathBuf::from(String::from_utf8(dir.to_vec()).ok()?))
}

/// What the kernel says of a process.
struct Stat {
    comm: String,
    state: char,
    parent: i32,
    started: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    Some(Stat {
        comm: head.split_once('(')?.1.to_owned(),
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// Returns the VMs that have two daemons or two VMMs that run at the same time.
pub(crate) fn doubles(run_dir: &Path) -> Vec<(Process, Process)> {
    let mut seen: BTreeMap<(String, Role), Process> = BTreeMap::new();
    let mut doubles = Vec::new();
    for process in processes(run_dir) {
        let counts = match process.role {
            Role::Daemon | Role::Vmm => true,
            // A monitor that takes over waits for the lock of the one before.
            Role::Monitor | Role::Backend => false,
        };
        if counts && let Some(other) = seen.insert((process.vm.clone(), process.role), process.clone()) {
            doubles.push((other, process));
        }
    }
    // The list is not of one moment: the first may have ended before the second began.
    let runs = |known: &Process| process(run_dir, known.pid).as_ref() == Some(known);
    // An agent that starts its daemon is two processes of one name until the child is the daemon.
    let related =
        |first: &Process, second: &Process| first.pid == second.parent || second.pid == first.parent;
    doubles.retain(|(first, second)| !related(first, second) && runs(first) && runs(second));
    doubles
}

/// The number of ends that the launcher keeps of a VM.
const KEPT_ENDS: usize = 5;

/// What is held while all VMs are ready and nothing is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sample {
    /// The descriptors of the supervisor.
    pub(crate) supervisor_descriptors: usize,
    /// The memory of the supervisor that belongs to it alone, in KiB.
    pub(crate) supervisor_memory_kb: u64,
    pub(crate) supervisor_threads: usize,
    /// The most descriptors that a process of a VM has.
    pub(crate) vm_descriptors: usize,
    /// The most memory that a monitor, an agent or a back-end has, in KiB.
    pub(crate) vm_memory_kb: u64,
    /// The processes of all VMs.
    pub(crate) processes: usize,
    /// The files of the host's folder, and their bytes.
    pub(crate) files: usize,
    pub(crate) bytes: u64,
}

/// The number of samples of which the fewest threads count: a thread for calls that block ends 10 s after its last call
/// (tokio), so that after busy times there are more of them than are needed.
const FOR_THREADS: usize = 4;

impl Sample {
    /// Returns what has grown between the first of the samples and the last, in words.
    pub(crate) fn growth(samples: &[Self]) -> Vec<String> {
        let ([first, ..], [.., last]) = (samples, samples) else { return Vec::new() };
        let recent = &samples[samples.len().saturating_sub(FOR_THREADS)..];
        let fewest = recent.iter().map(|sample| sample.supervisor_threads).min();
        let last = Self { supervisor_threads: fewest.unwrap_or(last.supervisor_threads), ..last.clone() };
        last.grown_since(first)
    }

    /// Takes a sample.
    pub(crate) fn take(host: &Path, run_dir: &Path, supervisor: i32) -> Self {
        let processes = processes(run_dir);
        let small = processes.iter().filter(|process| match process.role {
            Role::Monitor | Role::Backend => true,
            // The memory of a VMM is that of its guest.
            Role::Daemon | Role::Vmm => false,
        });
        let (mut files, mut bytes) = (0, 0);
        count_files(host, &mut files, &mut bytes);
        Self {
            supervisor_descriptors: entries(supervisor, "fd"),
            supervisor_memory_kb: memory_kb(supervisor),
            supervisor_threads: entries(supervisor, "task"),
            vm_descriptors: processes
                .iter()
                .map(|process| entries(process.pid, "fd"))
                .max()
                .unwrap_or_default(),
            vm_memory_kb: small.map(|process| memory_kb(process.pid)).max().unwrap_or_default(),
            processes: processes.len(),
            files,
            bytes,
        }
    }

    /// Returns what has grown since another sample beyond what varies by itself.
    fn grown_since(&self, first: &Self) -> Vec<String> {
        let mut grown = Vec::new();
        let mut check = |what: &str, now: u64, before: u64, most: u64| {
            if now > most {
                grown.push(format!("{what}: {now}, was {before}, may be {most}"));
            }
        };
        let few = |before: usize| before as u64 + 8;
        let much = |before: u64| before * 3 / 2 + 16 * 1024;
        check(
            "descriptors of the supervisor",
            self.supervisor_descriptors as u64,
            first.supervisor_descriptors as u64,
            few(first.supervisor_descriptors),
        );
        check(
            "threads of the supervisor",
            self.supervisor_threads as u64,
            first.supervisor_threads as u64,
            few(first.supervisor_threads),
        );
        check(
            "descriptors of a process of a VM",
            self.vm_descriptors as u64,
            first.vm_descriptors as u64,
            few(first.vm_descriptors),
        );
        check(
            "memory of the supervisor in KiB",
            self.supervisor_memory_kb,
            first.supervisor_memory_kb,
            much(first.supervisor_memory_kb),
        );
        check(
            "memory of a monitor or back-end in KiB",
            self.vm_memory_kb,
            first.vm_memory_kb,
            much(first.vm_memory_kb),
        );
        check("processes", self.processes as u64, first.processes as u64, first.processes as u64);
        // Of each VM the last ends are kept: their files come with the ends, and no others.
        let ends = (crate::VMS * KEPT_ENDS) as u64;
        check("files", self.files as u64, first.files as u64, first.files as u64 + ends);
        check("bytes in files", self.bytes, first.bytes, first.bytes + (64 << 20));
        grown
    }
}

fn entries(pid: i32, what: &str) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/{what}")).map_or(0, |entries| entries.count())
}

fn memory_kb(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

/// Counts the files below a folder. A file may go while it is counted.
fn count_files(dir: &Path, files: &mut usize, bytes: &mut u64) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            count_files(&entry.path(), files, bytes);
        } else {
            *files += 1;
            *bytes += metadata.len();
        }
    }
}
