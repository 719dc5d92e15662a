//! The identity of a process: its pid, its start time and the host's boot. A pid alone does not identify a process,
//! because the kernel reuses pids.

use crate::host::wait::wait_readable;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The time limit for a killed process to end.
pub const END_DEADLINE: Duration = Duration::from_secs(5);

/// The identity of a process, which differs from that of every other process with the same pid. No field has a default:
/// a process that is not identified for certain is never signalled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The process id (pid).
    pub pid: u32,
    /// The start time of the process, in clock ticks since the host's boot (field 22 of `/proc/<pid>/stat`).
    #[serde(rename = "start")]
    pub start_ticks: u64,
    /// The id of the host's boot in which the process was started.
    pub boot_id: String,
}

impl ProcessId {
    /// Returns the process that has this pid now.
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, start_ticks: start_of(pid)?, boot_id: boot_id() })
    }

    /// Returns the identity of a child that was not reaped yet. Its entry in `/proc` exists even if the child has
    /// ended.
    pub fn of_child(pid: u32) -> Self {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        Self { pid, start_ticks: start_in(&stat).unwrap_or(0), boot_id: boot_id() }
    }

    /// Returns a pidfd, if the process still runs.
    pub fn open(&self) -> Option<OwnedFd> {
        if self.boot_id != boot_id() {
            return None;
        }
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // The start time is read after the pidfd was opened, so that the comparison is about the process that the pidfd
        // holds. Only the pidfd tells whether the whole process is gone: when the first of several threads has ended,
        // the files of the process are still open.
        let same = start_of(self.pid) == Some(self.start_ticks);
        (same && !wait_readable(&handle, Duration::ZERO)).then_some(handle)
    }

    /// Sends a signal, if the process still runs.
    pub fn signal(&self, signal: Signal) {
        if let Some(handle) = self.open() {
            // The process may end at this moment.
            let _ = pidfd_send_signal(handle, signal);
        }
    }

    /// Returns whether the process is exiting (flag PF_EXITING). The kernel closes the files of a process before its
    /// pidfd becomes readable.
    pub fn is_exiting(&self) -> bool {
        self.field(6).and_then(|flags| flags.parse::<u64>().ok()).is_none_or(|flags| flags & 0x4 != 0)
    }

    /// Returns whether the process was stopped (SIGSTOP).
    pub fn is_stopped(&self) -> bool {
        self.field(0).is_some_and(|state| state == "T")
    }

    /// Kills the process and waits until the process is gone, for [`END_DEADLINE`] at most.
    pub fn end(&self) {
        if let Some(handle) = self.open() {
            let _ = pidfd_send_signal(&handle, Signal::KILL);
            wait_readable(&handle, END_DEADLINE);
        }
    }

    /// Returns a field of `/proc/<pid>/stat`, counted from the state of the process.
    fn field(&self, at: usize) -> Option<String> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(at).map(str::to_owned)
    }
}

fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    start_in(&stat)
}

/// Returns the start time in a line of `/proc/<pid>/stat`. The program's name may hold blanks and parentheses, so the
/// fields are counted after the last parenthesis.
fn start_in(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Returns the id of the host's boot.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recycled_pid_is_another_process() {
        let me = ProcessId::of(std::process::id()).expect("we run");
        assert!(me.open().is_some());
        assert!(ProcessId { start_ticks: me.start_ticks + 1, ..me.clone() }.open().is_none());
        assert!(ProcessId { boot_id: "another".into(), ..me }.open().is_none());
    }

    #[test]
    fn a_process_that_runs_neither_exits_nor_stands_still() {
        let me = ProcessId::of(std::process::id()).expect("we run");
        assert!(!me.is_exiting() && !me.is_stopped());
        assert!(ProcessId { pid: u32::MAX, ..me }.is_exiting());
    }

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let stat = "7 (a) b) S 1 1 1 0 -1 4194560 1 0 0 0 1 1 0 0 20 0 1 0 4242 1 1";
        assert_eq!(start_in(stat), Some(4242));
    }

    proptest::proptest! {
        #[test]
        fn no_line_of_proc_breaks_it(stat in "[0-9]{0,8} ?\\(?[ -~]{0,30}\\)? ?[SZX]?( ?[0-9]{1,20}){0,30}|\\PC*") {
            start_in(&stat);
        }
    }
}
