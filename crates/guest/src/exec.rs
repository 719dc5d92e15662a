//! Runs a command in the guest to its end, for a host: a health check, or a command of an operator.
//!
//! The end of the command itself decides. A process that it leaves behind may hold its output open for ever, so nothing
//! waits for the end of the output, and what is left behind is killed.

use crate::agent::{Agent, Mode};
use crate::cgroup::Cgroup;
use crate::environment::places;
use crate::forerunner::{self, Streams};
use crate::process::{KILLED, handle_of, kill_group, kill_rest, not_executable, of_program};
use crate::strays::{MARK, Mark};
use pepita_wire::agent::Exec;
use pepita_wire::{ExecResult, Exit};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Access;
use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::Signal;
use std::io::{PipeReader, Read};
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The number of bytes of a command's output that are kept.
const OUTPUT_CAP: usize = 4096;

/// The number of bytes that are read after the end of a command: a pipe holds no more, and another process may go on
/// writing.
const REST_CAP: usize = 1 << 20;

/// The default time limit of a command.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// A command that was started.
struct Running {
    pid: u32,
    end: mpsc::Receiver<Exit>,
    handle: OwnedFd,
    deadline: Option<Instant>,
    mark: Mark,
}

/// Runs a command to its end and keeps the last part of its output.
pub(crate) fn run(agent: &Agent, exec: &Exec) -> ExecResult {
    let pipe = std::io::pipe().map_err(|e| not_executable("", &e));
    let started = pipe.and_then(|(output, writer)| Ok((output, start(agent, exec, writer.into())?)));
    match started {
        Ok((output, running)) => {
            let mut output = Output::new(output);
            let (exit, timed_out) = running.wait(agent, Some(&mut output));
            ExecResult { exit, timed_out, output: output.into_text() }
        }
        Err(exit) => ExecResult { exit, ..ExecResult::default() },
    }
}

/// Runs a command to its end. The command writes to `output` itself, so that the agent has not to copy a large output.
/// (The standard output of the command may therefore be a socket, as it is for a systemd service.) If the command cannot
/// be executed, the reason is written to `output`, as a shell does.
pub(crate) fn run_with_output(agent: &Agent, exec: &Exec, mut output: OwnedFd) {
    let copy = output.try_clone().map_err(|e| not_executable("", &e));
    match copy.and_then(|copy| start(agent, exec, copy)) {
        Ok(running) => drop(running.wait(agent, None)),
        // The reader may be gone, so an error is ignored.
        Err(exit) => drop(rustix::io::write(&mut output, format!("{exit}\n").as_bytes())),
    }
}

/// Checks whether a command can be executed, as far as that is known before the attempt.
///
/// # Errors
/// The end that the command would have: [`Exit::NotExecutable`].
pub(crate) fn check_executable(agent: &Agent, exec: &Exec) -> Result<(), Exit> {
    let program = exec.command.first().map_or("", String::as_str);
    let mut found = Err(Errno::NOENT);
    let surroundings = agent.surroundings().map_err(|exit| of_program(exit, program))?;
    for path in places(program, &surroundings.environment) {
        found = rustix::fs::access(path, Access::EXEC_OK);
        if found.is_ok() {
            break;
        }
    }
    found.map_err(|e| not_executable(program, &e.into()))
}

/// Starts a command in a process group of its own. Both its output streams go to `output`.
fn start(agent: &Agent, exec: &Exec, output: OwnedFd) -> Result<Running, Exit> {
    let Some(program) = exec.command.first() else {
        return Err(not_executable("", &Errno::INVAL.into()));
    };
    let fail = |e: std::io::Error| not_executable(program, &e);
    let mark = Mark::new();
    let surroundings = agent.surroundings().map_err(|exit| of_program(exit, program))?;
    let mut environment = surroundings.environment.clone();
    environment.insert(MARK.into(), mark.value().into());
    let mut orders = surroundings.orders(&exec.command);
    orders.cgroup = (agent.mode == Mode::Init).then(|| Cgroup::Commands.processes());
    let streams = Streams { input: None, output: output.try_clone().map_err(fail)?, error: output };
    let (pid, end) = forerunner::spawn(&agent.reaper, &orders, &environment, streams)?;
    let handle = handle_of(pid).map_err(fail)?;
    let timeout = match exec.timeout_ms {
        0 => DEFAULT_TIMEOUT,
        ms => Duration::from_millis(ms),
    };
    Ok(Running { pid, end, handle, deadline: Instant::now().checked_add(timeout), mark })
}

impl Running {
    /// Waits for the end of the command, at most until its time limit, and kills what is left of it. Meanwhile the output
    /// is read. Returns the end, and whether the time limit was reached.
    fn wait(self, agent: &Agent, mut output: Option<&mut Output>) -> (Exit, bool) {
        let timed_out = loop {
            let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let limit = left.and_then(|left| Timespec::try_from(left).ok());
            let mut fds = vec![PollFd::new(&self.handle, PollFlags::IN)];
            let pipe = output.as_deref().and_then(|output| output.pipe.as_ref());
            fds.extend(pipe.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
            let _ = poll(&mut fds, limit.as_ref());
            let (has_ended, has_output) =
                (!fds[0].revents().is_empty(), fds.get(1).is_some_and(|fd| !fd.revents().is_empty()));
            if has_output && let Some(output) = &mut output {
                output.read_once();
            }
            if has_ended {
                break false;
            }
            if left.is_some_and(|left| left.is_zero()) {
                break true;
            }
        };
        match timed_out {
            true => kill_group(self.pid, Signal::KILL),
            false => kill_rest(self.pid),
        }
        let exit = self.end.recv_timeout(KILLED).unwrap_or(Exit::signal(9));
        if let Some(output) = output {
            output.read_rest();
        }
        self.mark.end_strays(&agent.reaper);
        (exit, timed_out)
    }
}

/// The output of a command, as far as it was read.
struct Output {
    /// `None` when the output has ended.
    pipe: Option<PipeReader>,
    /// The last [`OUTPUT_CAP`] bytes.
    kept: Vec<u8>,
}

impl Output {
    fn new(pipe: PipeReader) -> Self {
        // Without this a read after the end of the command could wait for a process that it has left behind.
        let _ = ioctl_fionbio(&pipe, true);
        Self { pipe: Some(pipe), kept: Vec::new() }
    }

    /// Reads what is there, once. Returns the number of bytes; 0 when there is nothing (more).
    fn read_once(&mut self) -> usize {
        let mut buffer = [0; 4096];
        let Some(pipe) = &mut self.pipe else { return 0 };
        match pipe.read(&mut buffer) {
            Ok(n) if n > 0 => {
                self.kept.extend_from_slice(&buffer[..n]);
                self.kept.drain(..self.kept.len().saturating_sub(OUTPUT_CAP));
                n
            }
            Err(e)
                if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) =>
            {
                0
            }
            Ok(_) | Err(_) => {
                self.pipe = None;
                0
            }
        }
    }

    /// Reads the rest of the output after the end of the command.
    fn read_rest(&mut self) {
        let mut read = 0;
        while read < REST_CAP {
            match self.read_once() {
                0 => return,
                n => read += n,
            }
        }
    }

    fn into_text(self) -> String {
        String::from_utf8_lossy(&self.kept).into_owned()
    }
}
