//! Runs a command in the guest to its end: health checks, and a look around.

use crate::state::Agent;
use pepita_wire::agent::Exec;
use pepita_wire::{DaemonExit, ExecError, ExecResult};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{PipeReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// What is kept of a command's output.
const OUTPUT_CAP: usize = 4096;

/// When the request names no time.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// A command that was started.
pub struct Running {
    /// Its output, both streams.
    pub output: PipeReader,
    pid: u32,
    end: mpsc::Receiver<DaemonExit>,
    timeout: Duration,
}

/// Starts a command in a group of its own.
///
/// # Errors
/// How it "ended" when it could not be executed.
pub fn start(agent: &Agent, exec: &Exec) -> Result<Running, DaemonExit> {
    let Some((program, args)) = exec.command.split_first() else {
        return Err(refused("", &std::io::Error::from_raw_os_error(22)));
    };
    let fail = |e: std::io::Error| refused(program, &e);
    let (output, writer) = std::io::pipe().map_err(fail)?;
    let mut command = Command::new(program);
    command.args(args).process_group(0).stdin(Stdio::null());
    command.stdout(writer.try_clone().map_err(fail)?).stderr(writer);
    let (child, end) = agent.reaper.spawn(&mut command).map_err(fail)?;
    // The agent's own score, which a child inherits, is the lowest.
    let _ = std::fs::write(format!("/proc/{}/oom_score_adj", child.id()), "0");
    let timeout = match exec.timeout_ms {
        0 => DEFAULT_TIMEOUT,
        ms => Duration::from_millis(ms),
    };
    Ok(Running { output, pid: child.id(), end, timeout })
}

/// Why a program could not be executed, in the words of the wire.
pub fn refused(program: &str, error: &std::io::Error) -> DaemonExit {
    let message = error.to_string();
    let message = message.split(" (os error").next().unwrap_or_default().to_owned();
    let exec = ExecError { path: program.to_owned(), errno: error.raw_os_error().unwrap_or(0), message };
    DaemonExit { exec: Some(exec), ..DaemonExit::default() }
}

impl Running {
    /// Waits for its end, at most until its time is over; then its group is killed.
    pub fn wait(&self) -> (DaemonExit, bool) {
        match self.end.recv_timeout(self.timeout) {
            Ok(exit) => (exit, false),
            Err(_) => {
                kill_group(self.pid, Signal::KILL);
                (self.end.recv().unwrap_or_default(), true)
            }
        }
    }

    /// Runs to the end and keeps the last of its output.
    pub fn finish(self) -> ExecResult {
        let reader = self.output.try_clone();
        let tail = std::thread::spawn(move || reader.map(keep_last).unwrap_or_default());
        let (exit, timed_out) = self.wait();
        // A grandchild may hold the pipe open; its output is not waited for.
        kill_group(self.pid, Signal::KILL);
        drop(self.output);
        ExecResult { exit, timed_out, output: tail.join().unwrap_or_default() }
    }
}

fn keep_last(mut from: PipeReader) -> String {
    let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(n) = from.read(&mut buffer) {
        if n == 0 {
            break;
        }
        kept.extend_from_slice(&buffer[..n]);
        kept.drain(..kept.len().saturating_sub(OUTPUT_CAP));
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// Signals a whole group; one that is gone is no error.
pub fn kill_group(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(pid, signal);
    }
}
