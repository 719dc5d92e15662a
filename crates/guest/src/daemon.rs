//! The daemon: started once, its output carried to the console, its end told exactly.

use crate::exec::{kill_group, refused};
use crate::state::{Agent, Daemon, Mode};
use pepita_wire::agent::{Start, Stop};
use pepita_wire::{ErrorKind, Exit, GuestEvent, Signal, WireError};
use std::io::{PipeReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// Output that the daemon's end left in the pipe is waited for so long: a grandchild may hold it open.
const DRAIN: Duration = Duration::from_millis(200);

/// The daemon's cgroup, when there is one.
const CGROUP: &str = "/sys/fs/cgroup/daemon";

/// Starts the daemon. Its end is told as an event.
///
/// # Errors
/// [`ErrorKind::Conflict`] when it was started before, [`ErrorKind::Os`] when it cannot be executed (told as an event, too).
pub fn start(agent: &Arc<Agent>, start: &Start) -> Result<u32, WireError> {
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
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    }
    let mut state = agent.lock();
    if state.daemon != Daemon::Held {
        return Err(WireError::new(ErrorKind::Conflict, "the daemon was started before"));
    }
    let spawned = in_cgroup(agent.mode, || agent.reaper.spawn(&mut command));
    // Our copies of the pipe's write end go with the command; only the daemon's are left.
    drop(command);
    match spawned {
        Ok((child, end)) => {
            let pid = child.id();
            // The agent's own score, which a child inherits, is the lowest.
            let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "0");
            state.daemon = Daemon::Running { pid };
            state.tell(GuestEvent::Started { pid });
            drop(state);
            // A watcher may wait already: it would sleep until something else happens.
            agent.change(|_| ());
            let agent = Arc::clone(agent);
            std::thread::spawn(move || attend(&agent, pid, reader, &end));
            Ok(pid)
        }
        Err(e) => {
            let exit = refused(program, &e);
            let message = exit.to_string();
            ended(&mut state, exit);
            drop(state);
            agent.change(|_| ());
            Err(WireError::new(ErrorKind::Os, message))
        }
    }
}

fn os(e: std::io::Error) -> WireError {
    WireError::new(ErrorKind::Os, e.to_string())
}

fn ended(state: &mut crate::state::State, exit: Exit) {
    let seq = state.tell(GuestEvent::Exited(exit.clone()));
    state.daemon = Daemon::Exited { exit, seq, at: Instant::now() };
}

/// Waits for the daemon's end and tells it once its output is through.
fn attend(agent: &Arc<Agent>, pid: u32, reader: PipeReader, end: &mpsc::Receiver<Exit>) {
    let (carrying, carried) = mpsc::channel::<()>();
    let same = Arc::clone(agent);
    std::thread::spawn(move || {
        carry(&same, reader);
        drop(carrying);
    });
    let exit = end.recv().unwrap_or_default();
    // What is left of its group ends with it, and so does their hold on the pipe. One that left the group may go on
    // holding it: that is waited for only so long.
    kill_group(pid, rustix::process::Signal::KILL);
    let _ = carried.recv_timeout(DRAIN);
    let oom =
        matches!(exit, Exit::Signalled { signal: 9, .. }) && agent.mode == Mode::Init && oom_kills() > 0;
    agent.change(|state| {
        if oom {
            state.tell(GuestEvent::Memory { oom });
        }
        ended(state, if oom { Exit::GuestOom } else { exit });
    });
}

/// Carries output to the console until its end.
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
/// [`ErrorKind::Conflict`] when it does not run.
pub fn signal(agent: &Agent, signal: Signal) -> Result<(), WireError> {
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

/// Stops the daemon: a signal, and KILL when the grace is over. Asked again, the earlier deadline holds.
///
/// # Errors
/// [`ErrorKind::BadRequest`] for a real-time signal.
pub fn stop(agent: &Arc<Agent>, stop: &Stop) -> Result<(), WireError> {
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
        // There is nothing to wait for.
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

/// Runs `spawn` while the agent is in the daemon's cgroup, so that the child is born there.
fn in_cgroup<T>(mode: Mode, spawn: impl FnOnce() -> T) -> T {
    let inside = mode == Mode::Init && std::fs::write(format!("{CGROUP}/cgroup.procs"), "0").is_ok();
    let result = spawn();
    if inside {
        let _ = std::fs::write("/sys/fs/cgroup/cgroup.procs", "0");
    }
    result
}

/// Makes the daemon's cgroup: it gets the guest's memory less a reserve for kernel and agent.
pub fn prepare_cgroup() {
    let total_kb = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        text.lines()
            .find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
    });
    let _ = std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
    if std::fs::create_dir(CGROUP).is_ok()
        && let Some(total) = total_kb
    {
        let reserve = (total / 16).clamp(8 * 1024, 64 * 1024);
        let _ = std::fs::write(
            format!("{CGROUP}/memory.max"),
            (total.saturating_sub(reserve) * 1024).to_string(),
        );
        let _ = std::fs::write(format!("{CGROUP}/memory.oom.group"), "1");
    }
}

fn oom_kills() -> u64 {
    let events = std::fs::read_to_string(format!("{CGROUP}/memory.events")).unwrap_or_default();
    events.lines().find_map(|l| l.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0)
}
