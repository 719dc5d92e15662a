//! Which process is meant. A pid alone says nothing: it may be another's by now.

use crate::host::wait::wait_readable;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// A process, told apart from all others that had or will have its pid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its pid.
    pub pid: u32,
    /// Field 22 of `/proc/<pid>/stat`: its start in clock ticks since boot.
    pub start: u64,
    /// Of the host's boot that it was started in.
    pub boot_id: String,
}

impl ProcessId {
    /// The process that has this pid now.
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, start: start_of(pid)?, boot_id: boot_id() })
    }

    /// A child that was not reaped yet: it is there even if it has ended.
    pub fn of_child(pid: u32) -> Self {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        Self { pid, start: start_in(&stat).unwrap_or(0), boot_id: boot_id() }
    }

    /// A handle on it, if it still runs.
    pub fn open(&self) -> Option<OwnedFd> {
        if self.boot_id != boot_id() {
            return None;
        }
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Looked at after the handle was taken, so that it is this process that the handle holds. Only the handle tells
        // whether all of it is gone: of a process with threads the first may have ended, and its files still be open.
        let same = start_of(self.pid) == Some(self.start);
        (same && !wait_readable(&handle, Duration::ZERO)).then_some(handle)
    }

    /// Sends it a signal, if it still runs.
    pub fn signal(&self, signal: Signal) {
        if let Some(handle) = self.open() {
            // It may end at this very moment.
            let _ = pidfd_send_signal(handle, signal);
        }
    }
}

impl ProcessId {
    /// It is on its way out: its files are closed before anybody who waits for it is told. (Flag PF_EXITING.)
    pub fn is_exiting(&self) -> bool {
        self.field(6).and_then(|flags| flags.parse::<u64>().ok()).is_none_or(|flags| flags & 0x4 != 0)
    }

    /// Somebody has stopped it (SIGSTOP).
    pub fn is_stopped(&self) -> bool {
        self.field(0).is_some_and(|state| state == "T")
    }

    /// Ends it, whatever it does, and waits until it is gone, though not for ever.
    pub fn end(&self) {
        if let Some(handle) = self.open() {
            let _ = pidfd_send_signal(&handle, Signal::KILL);
            wait_readable(&handle, Duration::from_secs(5));
        }
    }

    /// A field of `/proc/<pid>/stat`, counted from the process' state.
    fn field(&self, at: usize) -> Option<String> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(at).map(str::to_owned)
    }
}

fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    start_in(&stat)
}

/// The program's name may hold blanks and parentheses: what counts comes after the last one.
fn start_in(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The host's boot.
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
        assert!(ProcessId { start: me.start + 1, ..me.clone() }.open().is_none());
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
