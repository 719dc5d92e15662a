//! Runs a command in the guest to its end: health checks, and a look around.

use crate::state::Agent;
use pepita_wire::agent::Exec;
use pepita_wire::{ExecResult, Exit};
use rustix::fs::Access;
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{PipeReader, PipeWriter, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// What is kept of a command's output.
const OUTPUT_CAP: usize = 4096;

/// When the request names no time.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// A command that was started.
struct Running {
    pid: u32,
    end: mpsc::Receiver<Exit>,
    timeout: Duration,
}

/// Runs a command to its end and keeps the last of its output.
pub fn run(agent: &Agent, exec: &Exec) -> ExecResult {
    let started = pipe().and_then(|(output, writer)| Ok((output, start(agent, exec, writer)?)));
    match started {
        Ok((output, running)) => {
            let tail = std::thread::spawn(move || keep_last(output));
            let (exit, timed_out) = running.finish();
            ExecResult { exit, timed_out, output: tail.join().unwrap_or_default() }
        }
        Err(exit) => ExecResult { exit, ..ExecResult::default() },
    }
}

/// Runs a command to its end that writes to this descriptor itself: nobody copies what may be much.
/// (So its standard output may be a socket, as a systemd service's is.) What cannot be executed says so there, as a shell does.
pub fn run_onto(agent: &Agent, exec: &Exec, mut output: OwnedFd) {
    let started = output.try_clone().map_err(|e| refused("", &e)).and_then(|fd| start(agent, exec, fd));
    match started {
        Ok(running) => drop(running.finish()),
        // The reader may be gone.
        Err(exit) => drop(rustix::io::write(&mut output, format!("{exit}\n").as_bytes())),
    }
}

/// Whether a command can be executed at all, as far as that is seen before it is.
///
/// # Errors
/// Why not.
pub fn look(exec: &Exec) -> Result<(), Exit> {
    let program = exec.command.first().map_or("", String::as_str);
    let paths = match std::env::var_os("PATH") {
        Some(path) if !program.contains('/') => {
            std::env::split_paths(&path).map(|dir| dir.join(program)).collect()
        }
        _ => vec![PathBuf::from(program)],
    };
    let mut found = Err(rustix::io::Errno::NOENT);
    for path in paths {
        found = rustix::fs::access(path, Access::EXEC_OK);
        if found.is_ok() {
            break;
        }
    }
    found.map_err(|e| refused(program, &e.into()))
}

fn pipe() -> Result<(PipeReader, PipeWriter), Exit> {
    std::io::pipe().map_err(|e| refused("", &e))
}

/// Starts a command in a group of its own; both its streams go to `output`. An error is how it "ended" when it could not be
/// executed.
fn start(agent: &Agent, exec: &Exec, output: impl Into<OwnedFd>) -> Result<Running, Exit> {
    let Some((program, args)) = exec.command.split_first() else {
        return Err(refused("", &std::io::Error::from_raw_os_error(22)));
    };
    let fail = |e: std::io::Error| refused(program, &e);
    let output = output.into();
    let mut command = Command::new(program);
    command.args(args).process_group(0).stdin(Stdio::null());
    command.stdout(output.try_clone().map_err(fail)?).stderr(output);
    let (child, end) = agent.reaper.spawn(&mut command).map_err(fail)?;
    // The agent's own score, which a child inherits, is the lowest.
    let _ = std::fs::write(format!("/proc/{}/oom_score_adj", child.id()), "0");
    let timeout = match exec.timeout_ms {
        0 => DEFAULT_TIMEOUT,
        ms => Duration::from_millis(ms),
    };
    Ok(Running { pid: child.id(), end, timeout })
}

/// Why a program could not be executed, in the words of the wire.
pub fn refused(program: &str, error: &std::io::Error) -> Exit {
    let message = error.to_string();
    let message = message.split(" (os error").next().unwrap_or_default().to_owned();
    Exit::NotExecutable { path: program.to_owned(), errno: error.raw_os_error().unwrap_or(0), message }
}

impl Running {
    /// Waits for its end, at most until its time is over; then its group is killed. Says whether it was.
    fn finish(self) -> (Exit, bool) {
        let ended = self.end.recv_timeout(self.timeout);
        // A grandchild may hold the output open; it is not waited for.
        kill_group(self.pid, Signal::KILL);
        match ended {
            Ok(exit) => (exit, false),
            Err(_) => (self.end.recv().unwrap_or_default(), true),
        }
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
