//! The memory and the CPU time of a process (proc(5)).

use crate::host::process_id::ProcessId;
use pepita_wire::record::ProcessUsage;

/// Returns what a process uses; `None` when it has ended. `role` is what it is for its VM.
pub fn usage_of(process: &ProcessId, role: &str) -> Option<ProcessUsage> {
    let text =
        |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", process.pid)).unwrap_or_default();
    let (stat, status, rollup) = (text("stat"), text("status"), text("smaps_rollup"));
    // What was read is that of this process if it still runs: its pid was given to no other one.
    process.open()?;
    let ticks = cpu_ticks(&stat)?;
    Some(ProcessUsage {
        role: role.to_owned(),
        pid: process.pid,
        rss_kib: kib(&status, "VmRSS:").unwrap_or(0),
        pss_kib: kib(&rollup, "Pss:"),
        cpu_ms: ticks.saturating_mul(1000) / rustix::param::clock_ticks_per_second().max(1),
    })
}

/// Returns the time in user and in kernel mode in a line of `/proc/<pid>/stat`, in clock ticks.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, kernel): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    user.checked_add(kernel)
}

/// Returns the number in the line `Key:  123 kB`.
fn kib(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key))?.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_proc_are_read() {
        let stat = "7 (a) b) S 1 1 1 0 -1 4194560 1 0 0 0 12 30 0 0 20 0 1 0 4242 1 1";
        assert_eq!((cpu_ticks(stat), cpu_ticks("7 (a"), cpu_ticks("")), (Some(42), None, None));
        assert_eq!(kib("VmHWM:\t  9 kB\nVmRSS:\t  5120 kB\n", "VmRSS:"), Some(5120));
        assert_eq!((kib("VmRSS: 5\n", "VmRSS:"), kib("", "VmRSS:")), (None, None));
    }

    #[test]
    fn a_process_that_runs_has_a_usage_and_one_that_has_ended_has_none() {
        let me = ProcessId::of(std::process::id()).expect("we run");
        let usage = usage_of(&me, "vmm").expect("we run");
        assert!(
            usage.rss_kib > 0 && usage.pss_kib.is_none_or(|pss| pss <= usage.rss_kib + 4096),
            "{usage:?}"
        );
        assert_eq!(usage_of(&ProcessId { start_ticks: me.start_ticks + 1, ..me }, "vmm"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_line_of_proc_breaks_it(stat in "[0-9]{0,8} ?\\(?[ -~]{0,30}\\)? ?[SZX]?( ?[0-9]{1,20}){0,30}|\\PC*") {
            cpu_ticks(&stat);
            kib(&stat, "Pss:");
        }
    }
}
