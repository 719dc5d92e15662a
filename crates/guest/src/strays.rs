//! Finds and kills the processes that a command has left behind in sessions or process groups of their own.

use crate::process::{KILLED, children, pid_of, wait_for_end};
use crate::reaper::Reaper;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::sync::atomic::{AtomicU64, Ordering};

/// The variable that marks the processes of one command, by which those are found that the command leaves behind.
pub(crate) const MARK: &str = "PEPITA_EXEC";

/// The number of searches for processes that a command has left behind. They may start others meanwhile.
const ROUNDS: usize = 100;

/// The mark of one command.
#[derive(Debug)]
pub(crate) struct Mark(String);

impl Mark {
    /// Returns a mark that no other command has.
    pub(crate) fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self((LAST.fetch_add(1, Ordering::Relaxed) + 1).to_string())
    }

    /// Returns the value of the variable [`MARK`].
    pub(crate) fn value(&self) -> &str {
        &self.0
    }

    /// Kills the processes that the command has left behind. Their parents have ended, so they are children of the agent.
    pub(crate) fn end_strays(&self, reaper: &Reaper) {
        let mark = format!("{MARK}={}", self.0);
        for _ in 0..ROUNDS {
            let mut found = false;
            for pid in children().filter(|pid| !reaper.waits_for(*pid)) {
                // The handle is taken first, so that what is looked at is what is killed.
                let Some(handle) = pid_of(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
                else {
                    continue;
                };
                let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                if environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
                    found = true;
                    let _ = pidfd_send_signal(&handle, Signal::KILL);
                    // When it has ended its own children are children of the agent, and the next search finds them.
                    wait_for_end(&handle, Some(KILLED));
                }
            }
            if !found {
                return;
            }
        }
    }
}
