//! The cgroups of a guest's programs: bounds memory, processes and share of the CPUs, so that neither a leak nor a fork bomb
//! takes the agent with it, and counts the processes that the OOM killer ended.
//!
//! The agent stays in the root cgroup, which has no limit. With the controller of the CPUs the programs of a cgroup have
//! together the share of one process of the root cgroup, however many they are.

/// The mount point of cgroup v2.
const TOP: &str = "/sys/fs/cgroup";

/// A cgroup of programs. It exists when the kernel has cgroup v2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cgroup {
    /// The daemon.
    Daemon,
    /// The commands of hosts. The memory that one of them eats costs the daemon no process.
    Commands,
}

impl Cgroup {
    fn folder(self) -> String {
        let name = match self {
            Self::Daemon => "daemon",
            Self::Commands => "commands",
        };
        format!("{TOP}/{name}")
    }

    /// Returns the file to which a process writes its id to be in this cgroup.
    pub(crate) fn processes(self) -> String {
        format!("{}/cgroup.procs", self.folder())
    }
}

/// Creates the cgroups. The limit of memory is the guest's memory minus a reserve for the kernel and the agent (1/16, at
/// least 8 MiB, at most 64 MiB), so that a daemon that uses too much memory is killed and the agent can still report that.
/// Of the processes and threads that the kernel allows, the daemon may have five eighths, and commands a quarter: fifty
/// programs of a few threads find room in a guest of 128 MiB. The rest is for the kernel and the agent.
pub(crate) fn prepare() {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let memory = memory_limit(&read("/proc/meminfo"));
    let processes = process_limit(&read("/proc/sys/kernel/threads-max"), &read("/proc/sys/kernel/pid_max"));
    let share = |cgroup| match cgroup {
        Cgroup::Daemon => processes.map(|most| most / 8 * 5),
        Cgroup::Commands => processes.map(|most| most / 4),
    };
    for controller in ["+memory", "+pids", "+cpu"] {
        // One after the other: a kernel may lack one of them.
        let _ = std::fs::write(format!("{TOP}/cgroup.subtree_control"), controller);
    }
    for cgroup in [Cgroup::Daemon, Cgroup::Commands] {
        let folder = cgroup.folder();
        if std::fs::create_dir(&folder).is_err() {
            continue;
        }
        let set = |file: &str, value: Option<u64>| {
            value.map(|value| std::fs::write(format!("{folder}/{file}"), value.to_string()))
        };
        set("memory.max", memory);
        set("pids.max", share(cgroup));
        match cgroup {
            Cgroup::Daemon => set("memory.oom.group", Some(1)),
            Cgroup::Commands => None,
        };
    }
}

/// Returns how many processes of the daemon's cgroup the kernel's OOM killer has ended.
pub(crate) fn oom_kills() -> u64 {
    let events = std::fs::read_to_string(format!("{}/memory.events", Cgroup::Daemon.folder()));
    let events = events.unwrap_or_default();
    events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0)
}

/// What the daemon and its children use, where the kernel counts it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Their memory in KiB, with their share of the page cache.
    pub(crate) memory_kib: Option<u64>,
    /// Their CPU time in milliseconds.
    pub(crate) cpu_ms: Option<u64>,
}

/// Returns what the programs in the daemon's cgroup use.
pub(crate) fn daemon_usage() -> Usage {
    let read = |file: &str| {
        std::fs::read_to_string(format!("{}/{file}", Cgroup::Daemon.folder())).unwrap_or_default()
    };
    let memory = read("memory.current").trim().parse::<u64>().ok();
    Usage { memory_kib: memory.map(|bytes| bytes / 1024), cpu_ms: cpu_ms(&read("cpu.stat")) }
}

/// Reads the CPU time from the text of `cpu.stat`, which every cgroup has.
fn cpu_ms(stat: &str) -> Option<u64> {
    stat.lines()
        .find_map(|line| line.strip_prefix("usage_usec ")?.parse::<u64>().ok())
        .map(|usec| usec / 1000)
}

/// Computes the limit of memory in bytes from the text of `/proc/meminfo`.
fn memory_limit(meminfo: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total_kb: u64 = value.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    let reserve_kb = (total_kb / 16).clamp(8 * 1024, 64 * 1024);
    Some(total_kb.saturating_sub(reserve_kb) * 1024)
}

/// Computes the number of processes and threads that a guest can have from the kernel's limits.
fn process_limit(threads_max: &str, pid_max: &str) -> Option<u64> {
    let limits = [threads_max, pid_max].into_iter().filter_map(|text| text.trim().parse::<u64>().ok());
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_follow_from_what_the_guest_has() {
        assert_eq!(
            memory_limit("MemTotal:         110592 kB\nMemFree:  1 kB\n"),
            Some((110_592 - 8192) * 1024)
        );
        assert_eq!(memory_limit("MemTotal: 4194304 kB"), Some((4_194_304 - 65_536) * 1024));
        assert_eq!(memory_limit("MemFree: 1 kB\n"), None);
        assert_eq!(process_limit("800\n", "32768\n"), Some(800));
        assert_eq!(process_limit("", "32768\n"), Some(32_768));
        assert_eq!(process_limit("", ""), None);
    }
}
