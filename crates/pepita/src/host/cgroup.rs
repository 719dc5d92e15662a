//! Limits on a VM's memory, CPU time and processes: a cgroup (v2) for each VM, on hosts where the launcher may create cgroups. On
//! other hosts a VM has no limits, and its status says so.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The environment variable that names a cgroup delegated to the launcher. The cgroups of VMs are created in that
/// cgroup.
pub const ENVIRONMENT: &str = "PEPITA_CGROUP";

/// The period to which a limit on CPU time applies (`cpu.max`), in microseconds.
const PERIOD_US: u64 = 100_000;

/// The time limit for the processes of a cgroup to end.
const EMPTY_DEADLINE: Duration = Duration::from_secs(1);

/// The resources that a VM may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// The VM's name.
    pub name: String,
    /// The limit on the memory of all processes of the VM, in MiB.
    pub memory_mb: u64,
    /// The number of virtual CPUs.
    pub cpus: u32,
}

/// The limits of one VM, if there are any.
#[derive(Debug, Default)]
pub struct Limits {
    cgroup: Option<PathBuf>,
}

impl Limits {
    /// Makes the cgroup of a VM that is about to be started. `dir` is the VM's run directory.
    pub fn prepare(demand: &Demand, dir: &Path) -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let given = std::env::var_os(ENVIRONMENT).filter(|v| !v.is_empty()).map(PathBuf::from);
        let found = places(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
        let mut places = given.into_iter().chain(found);
        let name = name(&demand.name, dir);
        Self {
            cgroup: places.find_map(|place| {
                make(&place.join(&name), &values(demand), demand.cpus.saturating_add(PROCESSES))
            }),
        }
    }

    /// Returns the limits of a VM whose former monitor made the cgroup.
    pub fn adopt(cgroup: Option<PathBuf>) -> Self {
        Self { cgroup }
    }

    /// Moves a process into the cgroup. When the move fails, the cgroup is removed and the VM has no limits.
    pub fn hold(&mut self, pid: u32) {
        if let Some(cgroup) = &self.cgroup
            && std::fs::write(cgroup.join("cgroup.procs"), pid.to_string()).is_err()
        {
            self.remove();
        }
    }

    /// Returns the word for the field `limits` of the status record.
    pub fn as_str(&self) -> &'static str {
        if self.cgroup.is_some() { "cgroup2" } else { "none" }
    }

    /// Returns the cgroup, if there is one.
    pub fn cgroup(&self) -> Option<PathBuf> {
        self.cgroup.clone()
    }

    /// Returns how many processes of the cgroup the host's OOM killer has ended.
    pub fn oom_kills(&self) -> u64 {
        let events = |cgroup: &PathBuf| std::fs::read_to_string(cgroup.join("memory.events"));
        let text = self.cgroup.as_ref().and_then(|cgroup| events(cgroup).ok()).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0)
    }

    /// Ends the processes that are still in the cgroup, and removes it.
    pub fn remove(&mut self) {
        let Some(cgroup) = self.cgroup.take() else { return };
        let _ = std::fs::write(cgroup.join("cgroup.kill"), "1");
        await_empty(&cgroup);
        let _ = std::fs::remove_dir(&cgroup);
    }
}

/// Returns the directories in which the cgroups of VMs may be created, the preferred one first: the parent of this
/// process' cgroup, which works when that parent was delegated to the user, and the root of the cgroup hierarchy.
fn places(own: &str, mounts: &str) -> Vec<PathBuf> {
    let mount = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after.starts_with("cgroup2 ").then(|| before.split(' ').nth(4).map(PathBuf::from)).flatten()
    });
    let Some(mount) = mount else { return Vec::new() };
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"));
    // A cgroup with controllers enabled for its children must not hold processes (cgroups(7)). The cgroup of this
    // process holds this process, so its parent is used.
    let beside =
        path.filter(|path| !path.is_empty()).and_then(|path| mount.join(path).parent().map(Path::to_owned));
    let mut places: Vec<PathBuf> = beside.into_iter().chain([mount]).collect();
    places.dedup();
    places
}

/// Returns the name of a VM's cgroup. The name includes a hash of the run directory, because VMs of the same name in
/// two run directories are different VMs.
fn name(vm: &str, dir: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    dir.hash(&mut hasher);
    format!("pepita-{:016x}-{vm}", hasher.finish())
}

fn values(demand: &Demand) -> [(&'static str, String); 3] {
    let bytes = demand.memory_mb << 20;
    // Half a CPU is added for QEMU's main loop and the back-end, which run beside the virtual CPUs.
    let quota = u64::from(demand.cpus) * PERIOD_US + PERIOD_US / 2;
    [
        ("memory.max", bytes.to_string()),
        ("cpu.max", format!("{quota} {PERIOD_US}")),
        // The VMM and its back-end are of no use without each other, so the OOM killer takes both.
        ("memory.oom.group", "1".to_owned()),
    ]
}

/// The controllers that a VM has where the host lets it have them. The one of disks weighs VMs that wait for the same disk
/// against each other; the weight is the usual one.
const WHERE_THERE: [(&str, &str); 2] = [("pids.max", "+pids"), ("io.stat", "+io")];

/// The processes and threads of a VM beside its virtual CPUs: QEMU has some of its own and up to 64 for its disks, each
/// server of a share as many, and the back-end a few.
const PROCESSES: u32 = 512;

/// Creates a cgroup and writes `values` into its files, and the limit on processes where there is one. Returns `None`, and leaves no cgroup, when one of them fails.
fn make(cgroup: &Path, values: &[(&'static str, String)], processes: u32) -> Option<PathBuf> {
    // A monitor that was killed may have left its cgroup behind.
    let _ = std::fs::remove_dir(cgroup);
    std::fs::create_dir(cgroup).ok()?;
    for (file, controller) in [("memory.max", "+memory"), ("cpu.max", "+cpu")] {
        // The controllers are enabled in separate writes: when a write names several controllers and one of them is not
        // available, the kernel enables none.
        enable(cgroup, file, controller);
    }
    // The files are opened and never created: in a directory that is no cgroup, opening fails.
    let set = |(file, value): &(&str, String)| {
        let file = File::options().write(true).open(cgroup.join(file));
        file.and_then(|mut file| std::io::Write::write_all(&mut file, value.as_bytes())).is_ok()
    };
    if values.iter().all(set) {
        for (file, controller) in WHERE_THERE {
            enable(cgroup, file, controller);
        }
        let _ = set(&("pids.max", processes.to_string()));
        return Some(cgroup.to_owned());
    }
    let _ = std::fs::remove_dir(cgroup);
    None
}

/// Enables a controller for a cgroup that does not have this file of it.
fn enable(cgroup: &Path, file: &str, controller: &str) {
    if let Some(parent) = cgroup.parent()
        && !cgroup.join(file).exists()
    {
        let _ = std::fs::write(parent.join("cgroup.subtree_control"), controller);
    }
}

fn await_empty(cgroup: &Path) {
    let Ok(mut events) = File::open(cgroup.join("cgroup.events")) else { return };
    let deadline = std::time::Instant::now() + EMPTY_DEADLINE;
    loop {
        let mut text = String::new();
        let read = events.rewind().and_then(|()| events.read_to_string(&mut text));
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        if read.is_err() || text.contains("populated 0") || left.is_zero() {
            return;
        }
        // The kernel reports a change of this file as an exceptional condition (POLLPRI).
        let limit = Timespec::try_from(left).ok();
        let _ = poll(&mut [PollFd::new(&events, PollFlags::PRI)], limit.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "25 20 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";

    #[test]
    fn a_vm_s_cgroup_goes_beside_ours_or_to_the_top() {
        let own = "0::/user.slice/user@1000.service/app.slice/x.scope\n";
        let expected = ["/sys/fs/cgroup/user.slice/user@1000.service/app.slice", "/sys/fs/cgroup"];
        assert_eq!(places(own, V2), expected.map(PathBuf::from));
        assert_eq!(places("0::/\n", V2), [PathBuf::from("/sys/fs/cgroup")]);
        let v1 = "33 32 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
        assert_eq!(places("4:memory:/\n", v1), Vec::<PathBuf>::new());
    }

    fn demand() -> Demand {
        Demand { name: "a".into(), memory_mb: 384, cpus: 2 }
    }

    #[test]
    fn a_vm_gets_its_memory_and_half_a_cpu_more_than_it_has() {
        let values = values(&demand());
        assert_eq!(values[0], ("memory.max", (384 << 20).to_string()));
        assert_eq!(values[1], ("cpu.max", "250000 100000".to_owned()));
    }

    #[test]
    fn a_directory_that_is_no_cgroup_holds_no_limits() {
        let dir = tempfile::tempdir().expect("a directory");
        let cgroup = dir.path().join("pepita-x");
        assert_eq!(make(&cgroup, &values(&demand()), 1), None);
        assert!(!cgroup.exists());
        assert_eq!(Limits::default().as_str(), "none");
    }

    #[test]
    fn an_oom_kill_within_the_cgroup_is_seen() {
        let dir = tempfile::tempdir().expect("a directory");
        let limits = Limits::adopt(Some(dir.path().to_owned()));
        assert_eq!((limits.oom_kills(), limits.as_str()), (0, "cgroup2"));
        std::fs::write(dir.path().join("memory.events"), "low 0\noom 1\noom_kill 2\noom_group_kill 1\n")
            .expect("written");
        assert_eq!(limits.oom_kills(), 2);
    }

    /// Checks the limits in the kernel on a machine with a writable cgroup v2 hierarchy that has the memory controller.
    /// On any other machine, checks that the status says `none`.
    #[test]
    fn what_the_status_says_of_limits_is_what_the_kernel_holds() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut limits = Limits::prepare(&demand(), dir.path());
        match limits.cgroup() {
            None => assert_eq!(limits.as_str(), "none"),
            Some(cgroup) => {
                let max = std::fs::read_to_string(cgroup.join("memory.max")).expect("a limit");
                assert!(max.trim().parse::<u64>().is_ok_and(|bytes| bytes > 128 << 20), "{max}");
                let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("a process");
                limits.hold(child.id());
                assert_eq!(limits.as_str(), "cgroup2");
                limits.remove();
                assert!(!cgroup.exists() && child.wait().is_ok_and(|status| !status.success()));
            }
        }
    }
}
