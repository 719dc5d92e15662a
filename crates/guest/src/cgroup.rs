//! The daemon's cgroup in a guest: sets its memory limit, and counts the processes that the OOM killer ended in it.

/// The daemon's cgroup. It exists when the kernel has cgroup v2.
const CGROUP: &str = "/sys/fs/cgroup/daemon";

/// Creates the daemon's cgroup. Its memory limit is the guest's memory minus a reserve for the kernel and the agent
/// (1/16, at least 8 MiB, at most 64 MiB), so that a daemon that uses too much memory is killed and the agent can still
/// report that.
pub(crate) fn prepare() {
    let total_kb = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_kb(&text));
    let _ = std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
    if std::fs::create_dir(CGROUP).is_ok()
        && let Some(total_kb) = total_kb
    {
        let reserve_kb = (total_kb / 16).clamp(8 * 1024, 64 * 1024);
        let limit = total_kb.saturating_sub(reserve_kb) * 1024;
        let _ = std::fs::write(format!("{CGROUP}/memory.max"), limit.to_string());
        let _ = std::fs::write(format!("{CGROUP}/memory.oom.group"), "1");
    }
}

/// Runs `spawn` while the agent is in the daemon's cgroup, so that the child starts in that cgroup and all of its
/// memory is charged there. Without such a cgroup, only runs `spawn`.
pub(crate) fn spawn_inside<T>(spawn: impl FnOnce() -> T) -> T {
    let inside = std::fs::write(format!("{CGROUP}/cgroup.procs"), "0").is_ok();
    let result = spawn();
    if inside {
        let _ = std::fs::write("/sys/fs/cgroup/cgroup.procs", "0");
    }
    result
}

/// Returns how many processes of the daemon's cgroup the kernel's OOM killer has ended.
pub(crate) fn oom_kills() -> u64 {
    let events = std::fs::read_to_string(format!("{CGROUP}/memory.events")).unwrap_or_default();
    events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0)
}

/// Reads the guest's memory in KiB from the text of `/proc/meminfo`.
fn total_kb(meminfo: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    value.trim().strip_suffix(" kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_memory_is_read_from_meminfo() {
        assert_eq!(total_kb("MemTotal:         110592 kB\nMemFree:  1 kB\n"), Some(110_592));
        assert_eq!(total_kb("MemFree: 1 kB\n"), None);
    }
}
