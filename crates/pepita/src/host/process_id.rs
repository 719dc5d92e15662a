//! The identity of a process: its pid, its start time and the host's boot. A pid alone does not identify a process,
//! because the kernel reuses pids.

use crate::host::patience::{patiently, read_text};
use crate::host::wait::wait_readable;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The time limit for a killed process to end.
pub const END_DEADLINE: Duration = Duration::from_secs(5);

/// The maximum number of parents that are followed from a process to its ancestor.
const GENERATIONS: usize = 64;

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
        let stat = read_text(format!("/proc/{pid}/stat"));
        Self { pid, start_ticks: start_in(&stat).unwrap_or(0), boot_id: boot_id() }
    }

    /// Returns a pidfd, if the process still runs.
    pub fn open(&self) -> Option<OwnedFd> {
        if self.boot_id != boot_id() {
            return None;
        }
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let handle = patiently(|| Ok(pidfd_open(pid, PidfdFlags::empty())?)).ok()?;
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

    /// Returns the process id of the parent.
    pub fn parent(&self) -> Option<u32> {
        self.field(1)?.parse().ok()
    }

    /// Kills the process and waits until the process is gone, for [`END_DEADLINE`] at most.
    pub fn end(&self) {
        if let Some(handle) = self.open() {
            let _ = pidfd_send_signal(&handle, Signal::KILL);
            wait_readable(&handle, END_DEADLINE);
        }
    }

    /// Returns the process with this pid, if it descends from this process. Without this proof the pid may be that of
    /// any process of the host.
    pub fn descendant(&self, pid: u32) -> Option<Self> {
        let found = Self::of(pid)?;
        let mut at = pid;
        for _ in 0..GENERATIONS {
            at = Self { pid: at, ..found.clone() }.field(1)?.parse().ok().filter(|parent| *parent > 1)?;
            if at == self.pid {
                // Both processes still run, so that neither pid has changed hands on the way up.
                return (found.open().is_some() && self.open().is_some()).then_some(found);
            }
        }
        None
    }

    /// Sends a signal to the process and, if it leads a process group, to the whole group, if the process still runs.
    pub fn signal_group(&self, signal: Signal) {
        let Some(handle) = self.open() else { return };
        // The process or its group may end at this moment, so an error is ignored.
        match i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            // The number of a group is given to no other group as long as its leader runs.
            Some(group) if self.field(2).is_some_and(|leader| leader == self.pid.to_string()) => {
                let _ = kill_process_group(group, signal);
            }
            Some(_) | None => drop(pidfd_send_signal(handle, signal)),
        }
    }

    /// Returns a field of `/proc/<pid>/stat`, counted from the state of the process.
    fn field(&self, at: usize) -> Option<String> {
        let stat = read_text(format!("/proc/{}/stat", self.pid));
        stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(at).map(str::to_owned)
    }
}

fn start_of(pid: u32) -> Option<u64> {
    start_in(&read_text(format!("/proc/{pid}/stat")))
}

/// Returns the start time in a line of `/proc/<pid>/stat`. The program's name may hold blanks and parentheses, so the
/// fields are counted after the last parenthesis.
fn start_in(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Returns the id of the host's boot.
pub fn boot_id() -> String {
    read_text("/proc/sys/kernel/random/boot_id").trim().to_owned()
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
    fn only_a_process_below_another_one_is_its_descendant() {
        let me = ProcessId::of(std::process::id()).expect("we run");
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & echo $!; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut line = String::new();
        let output = shell.stdout.take().expect("its output");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).expect("a pid");
        let below: u32 = line.trim().parse().expect("a pid");
        assert_eq!(me.descendant(below), ProcessId::of(below));
        assert_eq!(me.descendant(shell.id()), ProcessId::of(shell.id()));
        let parent = ProcessId::of(shell.id()).expect("it runs");
        // The shell itself, its parent, the init of the host, and numbers that are no processes.
        for pid in [shell.id(), me.pid, 0, 1, u32::MAX] {
            assert_eq!(parent.descendant(pid), None, "{pid}");
        }
        parent.descendant(below).expect("it runs").end();
        shell.wait().expect("an end");
        assert_eq!(parent.descendant(below), None);
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
