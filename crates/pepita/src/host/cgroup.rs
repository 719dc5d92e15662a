//! Limits on a VM's memory and CPU time: a cgroup (v2) of its own, where there is a tree that lets us make one. Where
//! there is none they are not enforced, and the status says so.

use crate::vm_config::{Accel, VmConfig, VmmKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Names a cgroup that was given into our hands (delegated), to make those of VMs in.
const ENVIRONMENT: &str = "PEPITA_CGROUP";

/// What QEMU and the vsock back-end need beside the guest's memory, in MiB.
const OVERHEAD_MB: u64 = 128;

/// CPU time is dealt out in such periods, in microseconds.
const PERIOD_US: u64 = 100_000;

/// For the processes of a cgroup to go.
const EMPTY_DEADLINE: Duration = Duration::from_secs(1);

/// The limits of one VM.
#[derive(Debug, Default)]
pub struct Limits {
    cgroup: Option<PathBuf>,
}

impl Limits {
    /// Those of a VM about to be started. `dir` is its run directory.
    pub fn prepare(plan: &VmConfig, dir: &Path) -> Self {
        if plan.vmm == VmmKind::Process {
            return Self::default();
        }
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let given = std::env::var_os(ENVIRONMENT).filter(|v| !v.is_empty()).map(PathBuf::from);
        let found = places(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
        let mut places = given.into_iter().chain(found);
        Self { cgroup: places.find_map(|place| make(&place.join(name(plan, dir)), &values(plan))) }
    }

    /// Those of a VM whose monitor died.
    pub fn adopt(cgroup: Option<PathBuf>) -> Self {
        Self { cgroup }
    }

    /// Holds a process to them; when that fails, there are none.
    pub fn hold(&mut self, pid: u32) {
        if let Some(cgroup) = &self.cgroup
            && std::fs::write(cgroup.join("cgroup.procs"), pid.to_string()).is_err()
        {
            self.remove();
        }
    }

    /// In the words of the status record.
    pub fn as_str(&self) -> &'static str {
        if self.cgroup.is_some() { "cgroup2" } else { "none" }
    }

    /// The cgroup, if there is one.
    pub fn cgroup(&self) -> Option<PathBuf> {
        self.cgroup.clone()
    }

    /// How often the host's OOM killer has struck within them.
    pub fn oom_kills(&self) -> u64 {
        let events = |cgroup: &PathBuf| std::fs::read_to_string(cgroup.join("memory.events"));
        let text = self.cgroup.as_ref().and_then(|cgroup| events(cgroup).ok()).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0)
    }

    /// Takes them away, and ends what is still held to them.
    pub fn remove(&mut self) {
        let Some(cgroup) = self.cgroup.take() else { return };
        let _ = std::fs::write(cgroup.join("cgroup.kill"), "1");
        await_empty(&cgroup);
        let _ = std::fs::remove_dir(&cgroup);
    }
}

/// Where cgroups of VMs may go: beside the one we are in, which is ours to fill where it was delegated, else at the top.
fn places(own: &str, mounts: &str) -> Vec<PathBuf> {
    let mount = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after.starts_with("cgroup2 ").then(|| before.split(' ').nth(4).map(PathBuf::from)).flatten()
    });
    let Some(mount) = mount else { return Vec::new() };
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"));
    // No process may be in a cgroup that hands out memory to others, so ours is no place for them, but its parent is.
    let beside =
        path.filter(|path| !path.is_empty()).and_then(|path| mount.join(path).parent().map(Path::to_owned));
    let mut places: Vec<PathBuf> = beside.into_iter().chain([mount]).collect();
    places.dedup();
    places
}

/// The same VM name in two run directories is two VMs.
fn name(plan: &VmConfig, dir: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    dir.hash(&mut hasher);
    format!("pepita-{:016x}-{}", hasher.finish(), plan.name)
}

fn values(plan: &VmConfig) -> [(&'static str, String); 3] {
    let emulator = if plan.accel == Accel::Tcg { crate::qemu::TRANSLATED_MB } else { 0 };
    let bytes = (plan.memory_mb + OVERHEAD_MB + emulator) << 20;
    // Half a CPU for what is not the guest's: QEMU's main loop and the back-end.
    let quota = u64::from(plan.cpus) * PERIOD_US + PERIOD_US / 2;
    [
        ("memory.max", bytes.to_string()),
        ("cpu.max", format!("{quota} {PERIOD_US}")),
        // The VMM and its back-end are of no use without each other.
        ("memory.oom.group", "1".to_owned()),
    ]
}

/// Makes a cgroup with all of the values, or none at all.
fn make(cgroup: &Path, values: &[(&'static str, String)]) -> Option<PathBuf> {
    let parent = cgroup.parent()?;
    // Left behind by a VM that nobody could clean up after.
    let _ = std::fs::remove_dir(cgroup);
    std::fs::create_dir(cgroup).ok()?;
    for (file, controller) in [("memory.max", "+memory"), ("cpu.max", "+cpu")] {
        // One at a time: where one of them cannot be had, the other would not be given either.
        if !cgroup.join(file).exists() {
            let _ = std::fs::write(parent.join("cgroup.subtree_control"), controller);
        }
    }
    // Only into files that are there: elsewhere than in a cgroup, a write would make them.
    let set = |(file, value): &(&str, String)| {
        let file = File::options().write(true).open(cgroup.join(file));
        file.and_then(|mut file| std::io::Write::write_all(&mut file, value.as_bytes())).is_ok()
    };
    if values.iter().all(set) {
        return Some(cgroup.to_owned());
    }
    let _ = std::fs::remove_dir(cgroup);
    None
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
        // A change of this file is told as an exceptional condition.
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

    #[test]
    fn an_emulated_guest_gets_its_memory_and_what_qemu_needs() {
        let values = values(&crate::vm_config::tests::plan());
        assert_eq!(
            values[0],
            ("memory.max", ((128 + OVERHEAD_MB + crate::qemu::TRANSLATED_MB) << 20).to_string())
        );
        assert_eq!(values[1], ("cpu.max", "250000 100000".to_owned()));
    }

    #[test]
    fn a_directory_that_is_no_cgroup_holds_no_limits() {
        let dir = tempfile::tempdir().expect("a directory");
        let cgroup = dir.path().join("pepita-x");
        assert_eq!(make(&cgroup, &values(&crate::vm_config::tests::plan())), None);
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

    /// Where the machine has a v2 tree that we may write to, with memory in it: the whole way. Elsewhere: `none`.
    #[test]
    fn what_the_status_says_of_limits_is_what_the_kernel_holds() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut limits = Limits::prepare(&crate::vm_config::tests::plan(), dir.path());
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
