//! Starts the daemon once, carries its output to the console, signals and stops it, and reports its end.

use crate::agent::{Agent, Mode};
use crate::cgroup;
use crate::process::{kill_group, not_executable, reset_oom_score};
use crate::state::Daemon;
use pepita_wire::agent::{Start, Stop};
use pepita_wire::{ErrorKind, Exit, GuestEvent, Signal, WireError};
use std::io::{PipeReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// The time limit for the rest of the output after the daemon's end. A process that the daemon has left behind may hold
/// the pipe open.
const DRAIN: Duration = Duration::from_millis(200);

/// The search path of a daemon in a guest, where no shell has set one.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Starts the daemon and returns its pid. The daemon's end is reported as an event.
///
/// # Errors
/// [`ErrorKind::Conflict`] when the daemon was started before; [`ErrorKind::BadRequest`] when there is no command;
/// [`ErrorKind::Os`] when the daemon cannot be executed, which is reported as an event, too.
pub(crate) fn start(agent: &Arc<Agent>, start: &Start) -> Result<u32, WireError> {
    let argv = if start.command.is_empty() { &agent.image.command } else { &start.command };
    let Some((program, args)) = argv.split_first() else {
        return Err(WireError::new(ErrorKind::BadRequest, "no command is given and the image names none"));
    };
    let (reader, writer) = std::io::pipe().map_err(os)?;
    let mut command = Command::new(program);
    command.args(args).process_group(0).stdin(Stdio::null()).current_dir("/");
    command.stdout(writer.try_clone().map_err(os)?).stderr(writer);
    command.envs(&agent.image.env).envs(&start.env);
    command.env("PEPITA_VSOCK_CID", agent.boot.cid.to_string()).env("NOTIFY_SOCKET", &agent.notify_path);
    if agent.mode == Mode::Init && std::env::var_os("PATH").is_none() {
        command.env("PATH", PATH);
    }
    // The lock is held during the spawn, so that of two clients that ask for a start only one spawns the daemon.
    let mut state = agent.lock();
    if state.daemon != Daemon::Held {
        return Err(WireError::new(ErrorKind::Conflict, "the daemon was started before"));
    }
    let spawned = match agent.mode {
        Mode::Init => cgroup::spawn_inside(|| agent.reaper.spawn(&mut command)),
        Mode::Process => agent.reaper.spawn(&mut command),
    };
    // Dropping the command closes the agent's copies of the pipe's write end, so that the pipe ends with the daemon.
    drop(command);
    let started = match spawned {
        Ok((child, end)) => {
            let pid = child.id();
            reset_oom_score(pid);
            state.started(pid);
            let agent = Arc::clone(agent);
            std::thread::spawn(move || attend(&agent, pid, reader, &end));
            Ok(pid)
        }
        Err(e) => {
            let exit = not_executable(program, &e);
            let error = WireError::new(ErrorKind::Os, exit.to_string());
            state.exited(exit, Instant::now());
            Err(error)
        }
    };
    drop(state);
    // Watchers may wait already, so they are woken.
    agent.wake();
    started
}

fn os(e: std::io::Error) -> WireError {
    WireError::new(ErrorKind::Os, e.to_string())
}

/// Waits for the daemon's end, and reports the end after the daemon's output is on the console.
fn attend(agent: &Arc<Agent>, pid: u32, reader: PipeReader, end: &mpsc::Receiver<Exit>) {
    let (carrying, carried) = mpsc::channel::<()>();
    let shared = Arc::clone(agent);
    std::thread::spawn(move || {
        carry(&shared, reader);
        drop(carrying);
    });
    let exit = end.recv().unwrap_or_default();
    // The rest of the daemon's process group is killed, which closes its ends of the pipe. A process that has left the
    // group may still hold the pipe open, so the wait for the output is bounded.
    kill_group(pid, rustix::process::Signal::KILL);
    let _ = carried.recv_timeout(DRAIN);
    let killed = matches!(exit, Exit::Signalled { signal: 9, .. });
    let oom = killed && agent.mode == Mode::Init && cgroup::oom_kills() > 0;
    agent.change(|state| {
        if oom {
            state.report(GuestEvent::Memory { oom });
        }
        state.exited(if oom { Exit::GuestOom } else { exit }, Instant::now());
    });
}

/// Carries output to the console until it ends.
fn carry(agent: &Agent, mut reader: PipeReader) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n) = reader.read(&mut buffer) {
        if n == 0 {
            return;
        }
        agent.change(|state| state.tail.push(&buffer[..n]));
        agent.console.write(&buffer[..n]);
    }
}

/// Sends a signal to the daemon's group.
///
/// # Errors
/// [`ErrorKind::Conflict`] when the daemon does not run; [`ErrorKind::BadRequest`] for a real-time signal.
pub(crate) fn signal(agent: &Agent, signal: Signal) -> Result<(), WireError> {
    match agent.lock().daemon {
        Daemon::Running { pid } => send(pid, signal),
        Daemon::Held => Err(WireError::new(ErrorKind::Conflict, "the daemon was not started yet")),
        Daemon::Exited { .. } => Err(WireError::new(ErrorKind::Conflict, "the daemon has ended")),
    }
}

fn send(pid: u32, signal: Signal) -> Result<(), WireError> {
    let Some(named) = rustix::process::Signal::from_named_raw(signal.number()) else {
        return Err(WireError::new(
            ErrorKind::BadRequest,
            format!("{signal} has no name and is not forwarded"),
        ));
    };
    kill_group(pid, named);
    Ok(())
}

/// Stops the daemon: sends a signal, and SIGKILL after the grace. For a repeated stop, the earlier deadline holds. When
/// the daemon was not started, the agent ends at once.
///
/// # Errors
/// [`ErrorKind::BadRequest`] for a real-time signal.
pub(crate) fn stop(agent: &Arc<Agent>, stop: &Stop) -> Result<(), WireError> {
    let deadline = Instant::now() + Duration::from_millis(stop.grace_ms);
    agent.change(|state| match state.daemon {
        Daemon::Running { pid } => {
            send(pid, stop.signal)?;
            if state.stop_deadline.is_none() {
                let agent = Arc::clone(agent);
                std::thread::spawn(move || kill_at_deadline(&agent));
            }
            state.stop_deadline = Some(state.stop_deadline.map_or(deadline, |earlier| earlier.min(deadline)));
            Ok(())
        }
        Daemon::Held => {
            state.power_off = true;
            Ok(())
        }
        Daemon::Exited { .. } => Ok(()),
    })
}

fn kill_at_deadline(agent: &Agent) {
    let mut state = agent.lock();
    while let (Daemon::Running { pid }, Some(deadline)) = (&state.daemon, state.stop_deadline) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return kill_group(*pid, rustix::process::Signal::KILL);
        }
        state = agent.wait(state, Some(left));
    }
}
