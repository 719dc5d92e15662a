//! Functions for the agent's child processes: the daemon, and commands that a host runs.

use pepita_wire::Exit;
use rustix::process::{Pid, Signal, kill_process_group};

/// Signals a whole process group. A group that is gone is no error.
pub(crate) fn kill_group(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(pid, signal);
    }
}

/// Sets the usual OOM score for a child, which would otherwise inherit the agent's score, the lowest.
pub(crate) fn reset_oom_score(pid: u32) {
    let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "0");
}

/// Returns the end of a program that could not be executed because of `error`.
pub(crate) fn not_executable(program: &str, error: &std::io::Error) -> Exit {
    let message = error.to_string();
    let message = message.split(" (os error").next().unwrap_or_default().to_owned();
    Exit::NotExecutable { path: program.to_owned(), errno: error.raw_os_error().unwrap_or(0), message }
}
