//! The memory and the CPU time of the VMMs, as the kernel of this host counts them: for `pepitactl top`.

use rustix::param::{clock_ticks_per_second, page_size};
use serde_json::{Value, json};
use std::collections::HashMap;
use tokio::time::Instant;

/// The VMMs as they were last seen, by their process ids.
#[derive(Debug, Default)]
pub(super) struct Processes(HashMap<u64, Seen>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    used: Used,
    at: Instant,
}

/// What a process uses, and the time of its start, with which its pid names this process and no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Used {
    cpu_ticks: u64,
    start_ticks: u64,
    rss_pages: u64,
}

impl Processes {
    /// Adds to each VM of a status what its VMM uses: `vmm_rss_kib`, and `vmm_cpu_percent` (of one CPU) since the last call.
    pub(super) fn add(&mut self, status: &mut Value, now: Instant) {
        let mut seen = HashMap::new();
        for group in status["groups"].as_array_mut().into_iter().flatten() {
            for vm in group["vms"].as_array_mut().into_iter().flatten() {
                let Some(pid) = vm["vmm_pid"].as_u64() else { continue };
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                let Some(used) = used(&stat) else { continue };
                vm["vmm_rss_kib"] = json!(used.rss_pages.saturating_mul(page_size() as u64) / 1024);
                let now = Seen { used, at: now };
                if let Some(percent) = self.0.get(&pid).and_then(|before| percent(before, &now)) {
                    vm["vmm_cpu_percent"] = json!(percent);
                }
                seen.insert(pid, now);
            }
        }
        self.0 = seen;
    }
}

/// Reads what a process uses from its `/proc/<pid>/stat` (proc_pid_stat(5)).
fn used(stat: &str) -> Option<Used> {
    // The name of the program may have spaces and parentheses in it. The state stands behind it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let cpu_ticks = field(14)?.checked_add(field(15)?)?;
    Some(Used { cpu_ticks, start_ticks: field(22)?, rss_pages: field(24)? })
}

/// Returns the share of one CPU that a process has used between two looks, in percent.
fn percent(before: &Seen, now: &Seen) -> Option<u64> {
    let ticks = now.used.cpu_ticks.checked_sub(before.used.cpu_ticks)?;
    let elapsed_ms = u64::try_from(now.at.duration_since(before.at).as_millis()).ok()?;
    let is_same = before.used.start_ticks == now.used.start_ticks;
    let ms = ticks.saturating_mul(1000) / clock_ticks_per_second().max(1);
    (is_same && elapsed_ms > 0).then(|| ms.saturating_mul(100) / elapsed_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_line_of_proc_is_read() {
        let stat = "7 (a) b) S 1 1 1 0 -1 4194560 1 0 0 0 12 30 0 0 20 0 1 0 4242 99 77 18446744073709551615";
        assert_eq!(used(stat), Some(Used { cpu_ticks: 42, start_ticks: 4242, rss_pages: 77 }));
        assert_eq!((used(&stat[..30]), used(""), used("7 (a")), (None, None, None));
    }

    #[test]
    fn the_share_of_a_cpu_is_that_between_two_looks_at_one_process() {
        let at = Instant::now();
        let seen = |cpu_ticks, start_ticks, ms| Seen {
            used: Used { cpu_ticks, start_ticks, rss_pages: 0 },
            at: at + Duration::from_millis(ms),
        };
        let second = clock_ticks_per_second();
        assert_eq!(percent(&seen(10, 5, 0), &seen(10 + second, 5, 500)), Some(200));
        assert_eq!(percent(&seen(10, 5, 0), &seen(10, 5, 500)), Some(0));
        assert_eq!(percent(&seen(10, 5, 0), &seen(20, 6, 500)), None, "another process has the pid now");
        assert_eq!(percent(&seen(10, 5, 0), &seen(20, 5, 0)), None);
    }

    #[test]
    fn a_vm_with_a_vmm_that_runs_is_told_with_its_memory() {
        let vm = |pid: Option<u32>| json!({ "name": "a", "vmm_pid": pid });
        let mut status = json!({ "groups": [{ "vms": [vm(Some(std::process::id())), vm(None)] }] });
        let mut processes = Processes::default();
        processes.add(&mut status, Instant::now());
        let vms = status["groups"][0]["vms"].clone();
        assert!(vms[0]["vmm_rss_kib"].as_u64().is_some_and(|kib| kib > 0), "{vms}");
        assert!(vms[0].get("vmm_cpu_percent").is_none() && vms[1].get("vmm_rss_kib").is_none(), "{vms}");
        processes.add(&mut status, Instant::now() + Duration::from_secs(1));
        assert!(status["groups"][0]["vms"][0]["vmm_cpu_percent"].is_u64(), "{status}");
    }
}
