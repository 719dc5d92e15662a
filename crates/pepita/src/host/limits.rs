//! The limits to which the kernel holds the processes of a VM: those of their cgroup, and those of the VMM itself.

use crate::host::process_id::ProcessId;
use pepita_wire::record::HostLimits;
use std::path::Path;

/// Reads the limits of a VM with this cgroup and this VMM, as far as it has them.
pub fn limits_of(cgroup: Option<&Path>, vmm: Option<&ProcessId>) -> HostLimits {
    let of_cgroup = |file: &str| {
        cgroup.and_then(|cgroup| std::fs::read_to_string(cgroup.join(file)).ok()).unwrap_or_default()
    };
    let own = vmm.map(|vmm| std::fs::read_to_string(format!("/proc/{}/limits", vmm.pid)).unwrap_or_default());
    // What was read is that of this process if it still runs: its pid was given to no other one.
    let own = own.filter(|_| vmm.is_some_and(|vmm| vmm.open().is_some())).unwrap_or_default();
    HostLimits {
        memory_kib: number(&of_cgroup("memory.max")).map(|bytes| bytes / 1024),
        cpu_percent: cpu_percent(&of_cgroup("cpu.max")),
        processes: number(&of_cgroup("pids.max")),
        io_weight: of_cgroup("io.weight").lines().find_map(|line| number(line.strip_prefix("default ")?)),
        open_files: soft(&own, "Max open files"),
        file_size_kib: soft(&own, "Max file size").map(|bytes| bytes / 1024),
        log_kib: None,
    }
}

/// Returns the number in a file of a cgroup; `None` for `max`, which is no limit.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Returns the share of a CPU in the text `QUOTA PERIOD` of `cpu.max`.
fn cpu_percent(text: &str) -> Option<u64> {
    let (quota, period) = text.trim().split_once(' ')?;
    number(quota)?.checked_mul(100)?.checked_div(number(period)?)
}

/// Returns the soft limit of this name in the text of proc_pid_limits(5).
fn soft(limits: &str, name: &str) -> Option<u64> {
    number(limits.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_a_cgroup_are_those_in_its_files() {
        let cgroup = tempfile::tempdir().expect("a directory");
        let write = |file, text| std::fs::write(cgroup.path().join(file), text).expect("written");
        write("memory.max", "369098752\n");
        write("cpu.max", "150000 100000\n");
        write("pids.max", "max\n");
        write("io.weight", "default 100\n8:16 200\n");
        let limits = limits_of(Some(cgroup.path()), None);
        let expected = HostLimits {
            memory_kib: Some(352 << 10),
            cpu_percent: Some(150),
            io_weight: Some(100),
            ..HostLimits::default()
        };
        assert_eq!(limits, expected);
        write("cpu.max", "max 100000\n");
        write("pids.max", "513\n");
        let limits = limits_of(Some(cgroup.path()), None);
        assert_eq!((limits.cpu_percent, limits.processes), (None, Some(513)));
        for text in ["", "1", "1 0", "99999999999999999999 1"] {
            assert_eq!(cpu_percent(text), None, "{text}");
        }
    }

    #[test]
    fn the_limits_of_a_process_are_those_that_the_kernel_tells() {
        let me = ProcessId::of(std::process::id()).expect("this process runs");
        let open_files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        assert_eq!(limits_of(None, Some(&me)), HostLimits { open_files, ..HostLimits::default() });
        let text = "Limit   Soft Limit  Hard Limit  Units\nMax file size   1048576   unlimited   bytes\n";
        assert_eq!((soft(text, "Max file size"), soft(text, "Max open files")), (Some(1 << 20), None));
        let ended = ProcessId { start_ticks: me.start_ticks + 1, ..me };
        assert_eq!(limits_of(None, Some(&ended)), HostLimits::default());
    }
}
