//! Runs a command in the guest to its end, for a host: a health check, or a command of an operator.

use crate::agent::Agent;
use crate::process::{kill_group, not_executable, reset_oom_score};
use pepita_wire::agent::Exec;
use pepita_wire::{ExecResult, Exit};
use rustix::fs::Access;
use rustix::io::Errno;
use rustix::process::Signal;
use std::io::{PipeReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// The number of bytes of a command's output that are kept.
const OUTPUT_CAP: usize = 4096;

/// The default time limit of a command.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// A command that was started.
struct Running {
    pid: u32,
    end: mpsc::Receiver<Exit>,
    timeout: Duration,
}

/// Runs a command to its end and keeps the last part of its output.
pub(crate) fn run(agent: &Agent, exec: &Exec) -> ExecResult {
    let pipe = std::io::pipe().map_err(|e| not_executable("", &e));
    let started = pipe.and_then(|(output, writer)| Ok((output, start(agent, exec, writer.into())?)));
    match started {
        Ok((output, running)) => {
            let tail = std::thread::spawn(move || read_tail(output));
            let (exit, timed_out) = running.wait();
            ExecResult { exit, timed_out, output: tail.join().unwrap_or_default() }
        }
        Err(exit) => ExecResult { exit, ..ExecResult::default() },
    }
}

/// Runs a command to its end. The command writes to `output` itself, so that no thread has to copy a large output. (The
/// standard output of the command may therefore be a socket, as it is for a systemd service.) If the command cannot be
/// executed, the reason is written to `output`, as a shell does.
pub(crate) fn run_with_output(agent: &Agent, exec: &Exec, mut output: OwnedFd) {
    let copy = output.try_clone().map_err(|e| not_executable("", &e));
    match copy.and_then(|copy| start(agent, exec, copy)) {
        Ok(running) => drop(running.wait()),
        // The reader may be gone, so an error is ignored.
        Err(exit) => drop(rustix::io::write(&mut output, format!("{exit}\n").as_bytes())),
    }
}

/// Checks whether a command can be executed, as far as that is known before the attempt.
///
/// # Errors
/// The end that the command would have: [`Exit::NotExecutable`].
pub(crate) fn check_executable(exec: &Exec) -> Result<(), Exit> {
    let program = exec.command.first().map_or("", String::as_str);
    let paths = match std::env::var_os("PATH") {
        Some(path) if !program.contains('/') => {
            std::env::split_paths(&path).map(|dir| dir.join(program)).collect()
        }
        _ => vec![PathBuf::from(program)],
    };
    let mut found = Err(Errno::NOENT);
    for path in paths {
        found = rustix::fs::access(path, Access::EXEC_OK);
        if found.is_ok() {
            break;
        }
    }
    found.map_err(|e| not_executable(program, &e.into()))
}

/// Starts a command in a process group of its own. Both its output streams go to `output`.
fn start(agent: &Agent, exec: &Exec, output: OwnedFd) -> Result<Running, Exit> {
    let Some((program, args)) = exec.command.split_first() else {
        return Err(not_executable("", &Errno::INVAL.into()));
    };
    let fail = |e: std::io::Error| not_executable(program, &e);
    let mut command = Command::new(program);
    command.args(args).process_group(0).stdin(Stdio::null());
    command.stdout(output.try_clone().map_err(fail)?).stderr(output);
    let (child, end) = agent.reaper.spawn(&mut command).map_err(fail)?;
    reset_oom_score(child.id());
    let timeout = match exec.timeout_ms {
        0 => DEFAULT_TIMEOUT,
        ms => Duration::from_millis(ms),
    };
    Ok(Running { pid: child.id(), end, timeout })
}

impl Running {
    /// Waits for the end of the command, at most until its time limit, and kills what is left of its process group.
    /// Returns the end, and whether the time limit was reached.
    fn wait(self) -> (Exit, bool) {
        let ended = self.end.recv_timeout(self.timeout);
        // A process that the command has left behind may hold the output open, so the group is killed.
        kill_group(self.pid, Signal::KILL);
        match ended {
            Ok(exit) => (exit, false),
            Err(_) => (self.end.recv().unwrap_or_default(), true),
        }
    }
}

/// Reads to the end and returns the last [`OUTPUT_CAP`] bytes.
fn read_tail(mut from: PipeReader) -> String {
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
