//! What a VM uses of its host, and how its ports are used.

use serde::{Deserialize, Serialize};

/// The memory and the CPU time that the processes of a VM use on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostUsage {
    /// The resident memory of all processes together, in KiB; memory that two of them share counts twice.
    pub rss_kib: u64,
    /// The proportional set size of all processes together, in KiB: memory that is shared counts in parts. Absent when one
    /// of the processes may not be asked by this user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pss_kib: Option<u64>,
    /// The CPU time that the processes have used since they were started, in milliseconds.
    pub cpu_ms: u64,
    /// Each process.
    pub processes: Vec<ProcessUsage>,
}

/// The memory and the CPU time of one process of a VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessUsage {
    /// What the process is for the VM: `vmm`, `backend` (of vsock), `monitor`, or `daemon` of a plain process.
    pub role: String,
    /// Its process id.
    pub pid: u32,
    /// Its resident memory, in KiB.
    pub rss_kib: u64,
    /// Its proportional set size, in KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pss_kib: Option<u64>,
    /// The CPU time that it has used since its start, in milliseconds.
    pub cpu_ms: u64,
}

/// The limits to which the kernel of the host holds the processes of a VM, as the kernel tells them. One that is absent is
/// not enforced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostLimits {
    /// The memory of all processes of the VM together, in KiB (`memory.max` of a cgroup).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_kib: Option<u64>,
    /// The CPU time of all of them, in percent of one CPU (`cpu.max`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<u64>,
    /// The number of all processes and threads (`pids.max`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
    /// The weight of the VM among those that wait for the same disk, between 1 and 10,000 (`io.weight`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<u64>,
    /// The open files of the VMM (`RLIMIT_NOFILE`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
    /// The largest file that the VMM can write, in KiB (`RLIMIT_FSIZE`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_size_kib: Option<u64>,
    /// The space of the console log, in KiB, to which the monitor holds the VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_kib: Option<u64>,
}

/// The use of a published port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortUse {
    /// The port, as [`crate::Publish`] is written.
    pub port: String,
    /// The number of connections between clients and the daemon; absent when it is not known.
    pub open: Option<u32>,
    /// The number of clients that wait in the kernel's queue until the daemon serves them; absent when it is not known.
    pub waiting: Option<u32>,
}

impl HostUsage {
    /// Returns the sum over some processes; `None` without any.
    pub fn of(processes: Vec<ProcessUsage>) -> Option<Self> {
        if processes.is_empty() {
            return None;
        }
        Some(Self {
            rss_kib: processes.iter().map(|process| process.rss_kib).fold(0, u64::saturating_add),
            pss_kib: processes
                .iter()
                .map(|process| process.pss_kib)
                .try_fold(0, |sum: u64, pss| sum.checked_add(pss?)),
            cpu_ms: processes.iter().map(|process| process.cpu_ms).fold(0, u64::saturating_add),
            processes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usage_of_a_vm_is_the_sum_of_its_processes_as_far_as_it_is_known() {
        let process =
            |rss_kib, pss_kib, cpu_ms| ProcessUsage { rss_kib, pss_kib, cpu_ms, ..ProcessUsage::default() };
        assert_eq!(HostUsage::of(Vec::new()), None);
        let sums = |processes: Vec<ProcessUsage>| {
            HostUsage::of(processes).map(|sum| (sum.rss_kib, sum.pss_kib, sum.cpu_ms))
        };
        assert_eq!(sums(vec![process(5, Some(3), 10), process(2, Some(1), 7)]), Some((7, Some(4), 17)));
        assert_eq!(
            sums(vec![process(5, Some(3), 10), process(u64::MAX, None, 7)]),
            Some((u64::MAX, None, 17))
        );
    }
}
