//! Starts the daemon once, carries its output to the console, signals and stops it, and reports its end.

use crate::agent::{Agent, Mode};
use crate::cgroup;
use crate::notify::{self, Datagram};
use crate::preparation::{self, Spawned};
use crate::process::{children, is_descendant, kill_group, kill_rest, of_program, pid_of, wait_for_end};
use crate::state::Daemon;
use pepita_wire::agent::{Health, Start, Stop};
use pepita_wire::{ErrorKind, Exit, GuestEvent, Signal, WireError};
use rustix::process::{PidfdFlags, pidfd_open};
use std::io::{PipeReader, Read};
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// The time limit for the rest of the output after the daemon's end. A process that the daemon has left behind may hold
/// the pipe open.
const DRAIN: Duration = Duration::from_millis(200);

/// How much of the daemon's last output may tell why it ended, in bytes.
const LAST_WORDS: usize = 4096;

/// The time limit for the end of a main process that the agent has not spawned, after the process is gone. The agent is
/// told only if it reaps the process itself.
const REAPED: Duration = Duration::from_millis(200);

/// Starts the daemon and returns its pid. The daemon's end is reported as an event.
///
/// # Errors
/// [`ErrorKind::Conflict`] when the daemon was started before; [`ErrorKind::BadRequest`] when the guest is prepared for another
/// start, and when there is no command;
/// [`ErrorKind::Os`] when the daemon cannot be executed, which is reported as an event, too.
pub(crate) fn start(agent: &Arc<Agent>, start: &Start) -> Result<u32, WireError> {
    // The lock is held during the spawn, so that of two clients that ask for a start only one spawns the daemon.
    let mut state = agent.lock();
    if state.daemon != Daemon::Held {
        return Err(WireError::new(ErrorKind::Conflict, "the daemon was started before"));
    }
    let taken = preparation::take(agent, start)?;
    let started = match preparation::execute(agent, start, taken) {
        Ok(Spawned { pid, end, output }) => {
            state.started(pid, Instant::now());
            let shared = Arc::clone(agent);
            std::thread::spawn(move || carry(&shared, output));
            let agent = Arc::clone(agent);
            std::thread::spawn(move || {
                attend(&agent, Main { pid, group: pid }, end.recv().unwrap_or_default())
            });
            Ok(pid)
        }
        Err(exit) => {
            let exit = of_program(exit, preparation::program(agent, start));
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

/// The main process of the daemon, and the process group in which it was when it became that.
#[derive(Debug, Clone, Copy)]
struct Main {
    pid: u32,
    group: u32,
}

/// Handles the end of a main process: reports it after the daemon's output is on the console. When another process has
/// become the main process, the daemon goes on.
fn attend(agent: &Arc<Agent>, main: Main, exit: Exit) {
    // What the daemon has said before its end is heard before its end is judged.
    hear(agent);
    let (since, may_end) = {
        let state = agent.lock();
        match state.daemon {
            Daemon::Running { pid, since } if pid == main.pid => (since, state.may_end),
            Daemon::Running { .. } | Daemon::Held | Daemon::Exited { .. } => return,
        }
    };
    let went_to_the_background = exit == Exit::code(0) && !may_end && leaves_processes(agent);
    let mut advice = went_to_the_background.then(|| advice(since));
    // The rest of the daemon's process group is killed, which closes its ends of the pipe. A process that has left the
    // group may still hold the pipe open, so the wait for the output is bounded.
    kill_rest(main.group);
    wait_for_output(agent);
    if advice.is_none() && !may_end && exit != Exit::code(0) {
        let (output, _) = agent.lock().tail.since(0);
        let last = &output[output.len().saturating_sub(LAST_WORDS)..];
        advice = agent.reach.in_the_way(&String::from_utf8_lossy(last));
    }
    let killed = matches!(exit, Exit::Signalled { signal: 9, .. });
    let oom = killed && agent.mode == Mode::Init && cgroup::oom_kills() > 0;
    agent.change(|state| {
        if oom {
            state.report(GuestEvent::Memory { oom });
        }
        if advice.is_some() {
            state.report(GuestEvent::Health(Health { advice, ..Health::default() }));
        }
        state.exited(if oom { Exit::GuestOom } else { exit }, Instant::now());
    });
}

/// Returns whether a process of the daemon has outlived the main process.
fn leaves_processes(agent: &Agent) -> bool {
    children().any(|pid| !agent.reaper.waits_for(pid) && is_descendant(pid))
}

/// Returns what an operator should know about a daemon that has gone to the background.
fn advice(since: Instant) -> String {
    let ran = since.elapsed();
    let time = match ran.as_secs() {
        0..10 => format!("{} ms", ran.as_millis()),
        seconds => format!("{seconds} s"),
    };
    format!(
        "ended with 0 after {time}; it must stay in the foreground (it has left processes behind, which end with the VM), \
         or name its main process with MAINPID="
    )
}

/// Waits until the output has ended, for [`DRAIN`] at most.
fn wait_for_output(agent: &Agent) {
    let deadline = Instant::now() + DRAIN;
    let mut state = agent.lock();
    while !state.output_ended {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        state = agent.wait(state, Some(left));
    }
}

/// Carries output to the console until it ends.
fn carry(agent: &Agent, mut reader: PipeReader) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n) = reader.read(&mut buffer) {
        if n == 0 {
            break;
        }
        agent.change(|state| state.tail.push(&buffer[..n]));
        agent.console.write(&buffer[..n]);
    }
    agent.change(|state| state.output_ended = true);
}

/// Takes in what the daemon has said through sd_notify(3). Returns the number of its reports.
pub(crate) fn hear(agent: &Arc<Agent>) -> u32 {
    notify::drain(agent, |datagram| apply(agent, datagram))
}

fn apply(agent: &Arc<Agent>, datagram: Datagram) {
    if let Some(pid) = datagram.main_pid {
        follow(agent, pid);
    }
    let Datagram { ready, health, main_pid: _ } = datagram;
    let mut state = agent.lock();
    let (mut is_news, now) = (false, Instant::now());
    state.may_end |= health.stopping;
    // As for systemd, the time counts from this moment.
    let extended = health.extend_timeout_us.map(Duration::from_micros);
    if let Some(until) = extended.and_then(|time| now.checked_add(time)) {
        state.extend_stop(until);
    }
    if ready && !state.ready {
        state.ready = true;
        state.report(GuestEvent::Ready);
        is_news = true;
    }
    if health != Health::default() {
        is_news |= state.hear(health, now);
    }
    drop(state);
    if is_news {
        agent.wake();
    }
}

/// Makes another process the daemon's main process, as the daemon has asked with `MAINPID=`. As for systemd, the process
/// must run and belong to the daemon; otherwise nothing changes.
fn follow(agent: &Arc<Agent>, pid: u32) {
    let Some(handle) = pid_of(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else { return };
    if agent.lock().main_pid().is_none_or(|main| main == pid) || !is_descendant(pid) {
        return;
    }
    let main = Main { pid, group: crate::process::group_of(pid) };
    let end = agent.reaper.follow(pid);
    if !agent.change(|state| state.follows(pid)) {
        return agent.reaper.forget(pid);
    }
    let agent = Arc::clone(agent);
    std::thread::spawn(move || {
        let exit = end_of(&handle, &end);
        agent.reaper.forget(pid);
        attend(&agent, main, exit);
    });
}

/// Waits for the end of a process that the agent has not spawned. When another process reaps it, nobody here knows how it
/// ended.
fn end_of(handle: &OwnedFd, end: &mpsc::Receiver<Exit>) -> Exit {
    wait_for_end(handle, None);
    end.recv_timeout(REAPED).unwrap_or_default()
}

/// Sends a signal to the daemon's group.
///
/// # Errors
/// [`ErrorKind::Conflict`] when the daemon does not run; [`ErrorKind::BadRequest`] for a real-time signal.
pub(crate) fn signal(agent: &Agent, signal: Signal) -> Result<(), WireError> {
    let mut state = agent.lock();
    match state.daemon {
        Daemon::Running { pid, .. } => {
            state.may_end = true;
            send(pid, signal)
        }
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
    // A grace beyond the clock's range is none.
    let now = Instant::now();
    let deadline = now.checked_add(Duration::from_millis(stop.grace_ms)).unwrap_or(now);
    agent.change(|state| match state.daemon {
        Daemon::Running { pid, .. } => {
            send(pid, stop.signal)?;
            if state.stop_deadline.is_none() {
                let agent = Arc::clone(agent);
                // Without a thread the monitor's own deadline of the stop ends the VM.
                let _ = std::thread::Builder::new().spawn(move || kill_at_deadline(&agent));
            }
            state.may_end = true;
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
    while let (Daemon::Running { pid, .. }, Some(deadline)) = (&state.daemon, state.stop_deadline) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return kill_group(*pid, rustix::process::Signal::KILL);
        }
        state = agent.wait(state, Some(left));
    }
}
