//! Makes everything ready for the daemon: furnishes the guest, and lets the forerunner make itself what the daemon is to be.
//!
//! A start does this first. For a warm spare it is done while the spare waits (`prepare`), so that of the start only the
//! execution of the daemon is left.

use crate::agent::{Agent, Mode};
use crate::cgroup::Cgroup;
use crate::exec;
use crate::forerunner::{self, OWN_PROGRAM, Orders, Streams};
use crate::furnish;
use crate::network;
use crate::options::PRACTICE;
use crate::prepared::{Done, Forerunner, Furnished, Preparation, Prepared};
use crate::process::{not_executable, step_failed};
use crate::reach;
use crate::state::Daemon;
use pepita_wire::agent::{Exec, Start};
use pepita_wire::environment::{NOTIFY_SOCKET, WATCHDOG_USEC};
use pepita_wire::{ErrorKind, Exit, WireError};
use std::ffi::OsStr;
use std::io::{self, PipeReader};
use std::os::fd::OwnedFd;
use std::sync::{Arc, MutexGuard, PoisonError, mpsc};

/// The time limit of the practice, in milliseconds.
const PRACTICE_MS: u64 = 10_000;

/// A daemon that was executed.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: u32,
    pub(crate) end: mpsc::Receiver<Exit>,
    pub(crate) output: PipeReader,
}

/// Returns the program and the arguments of a start, which are those of the image when the start names none.
fn argv<'a>(agent: &'a Agent, start: &'a Start) -> &'a [String] {
    if start.command.is_empty() { &agent.image.command } else { &start.command }
}

/// Returns the program of a start.
pub(crate) fn program<'a>(agent: &'a Agent, start: &'a Start) -> &'a str {
    argv(agent, start).first().map_or("", String::as_str)
}

/// Prepares a start that will come. A start that was prepared before stays as it is.
///
/// # Errors
/// [`ErrorKind::Conflict`] when the daemon was started; [`ErrorKind::BadRequest`] when there is no command, or another start is
/// prepared; [`ErrorKind::Os`] with the step that failed: the start will fail with it, too.
pub(crate) fn prepare(agent: &Agent, start: &Start) -> Result<(), WireError> {
    let was_started = || WireError::new(ErrorKind::Conflict, "the daemon was started before");
    names_a_program(agent, start)?;
    // The state's lock is not taken below: a start holds it while it waits for what is prepared.
    if agent.lock().daemon != Daemon::Held {
        return Err(was_started());
    }
    let mut place = lock(agent);
    match std::mem::take(&mut *place) {
        Preparation::Begun(forerunner) => {
            let outcome = furnish(agent, start).map(|furnished| wait(furnished, forerunner));
            let done = Done { start: start.without_secrets(), outcome };
            let answer = answer(&done);
            *place = Preparation::Done(Box::new(done));
            drop(place);
            if agent.lock().daemon == Daemon::Held {
                practise(agent);
            }
            answer
        }
        Preparation::Done(done) => {
            let answer = if done.start.is_for(start) { answer(&done) } else { Err(is_for_another()) };
            *place = Preparation::Done(done);
            answer
        }
        Preparation::Over => Err(was_started()),
    }
}

fn answer(done: &Done) -> Result<(), WireError> {
    done.outcome.as_ref().map(|_| ()).map_err(|e| WireError::new(ErrorKind::Os, e.to_string()))
}

/// Lets a process do what daemons do at their start ([`crate::practice`]), so that the guest has done it once.
fn practise(agent: &Agent) {
    match agent.mode {
        Mode::Init => {
            let notify = agent.notify_path.to_string_lossy().into_owned();
            let command = vec![OWN_PROGRAM.to_owned(), format!("--{PRACTICE}"), notify];
            exec::run(agent, &Exec { command, timeout_ms: PRACTICE_MS, bulk: false });
        }
        // The host has done all that before.
        Mode::Process => {}
    }
}

/// Takes what is prepared, for a start.
///
/// # Errors
/// [`ErrorKind::BadRequest`] for a start without a command, and in a guest that is prepared for another one.
pub(crate) fn take(agent: &Agent, start: &Start) -> Result<Preparation, WireError> {
    names_a_program(agent, start)?;
    let mut place = lock(agent);
    match &*place {
        Preparation::Done(done) if !done.start.is_for(start) => Err(is_for_another()),
        Preparation::Begun(_) | Preparation::Done(_) | Preparation::Over => Ok(std::mem::take(&mut *place)),
    }
}

/// Executes the daemon, from what is prepared. Of the agent it inherits nothing but what its surroundings have.
///
/// # Errors
/// [`Exit::NotExecutable`] with the daemon's program, or with the step before its execution, that failed.
pub(crate) fn execute(agent: &Agent, start: &Start, taken: Preparation) -> Result<Spawned, Exit> {
    let (prepared, forerunner) = match taken {
        Preparation::Done(done) => (done.outcome, None),
        Preparation::Begun(forerunner) => {
            (furnish(agent, start).map(Prepared::without_forerunner), forerunner)
        }
        Preparation::Over => (furnish(agent, start).map(Prepared::without_forerunner), None),
    };
    let Prepared { furnished, waiting } = prepared?;
    let Furnished { surroundings, orders, environment } = furnished;
    if agent.mode == Mode::Init {
        furnish::put_secrets(&start.world.secrets, surroundings.ids.as_ref())?;
    }
    agent.settle(surroundings);
    if let Some((Forerunner { ahead, end }, output)) = waiting.filter(|(forerunner, _)| forerunner.is_alive())
    {
        let (pid, end) = ahead.execute(end, &orders)?;
        return Ok(Spawned { pid, end, output });
    }
    let (output, streams) = streams(&orders)?;
    let (pid, end) = match forerunner.filter(Forerunner::is_alive) {
        Some(Forerunner { ahead, end }) => ahead.go_on(end, &orders, &environment, streams)?,
        None => forerunner::spawn(&agent.reaper, &orders, &environment, streams)?,
    };
    Ok(Spawned { pid, end, output })
}

fn lock(agent: &Agent) -> MutexGuard<'_, Preparation> {
    agent.preparation.lock().unwrap_or_else(PoisonError::into_inner)
}

fn names_a_program(agent: &Agent, start: &Start) -> Result<(), WireError> {
    match argv(agent, start).is_empty() {
        false => Ok(()),
        true => Err(WireError::new(ErrorKind::BadRequest, "no command is given and the image names none")),
    }
}

fn is_for_another() -> WireError {
    WireError::new(ErrorKind::BadRequest, "this guest is prepared for another start of its daemon")
}

/// Gives the guest what the daemon's world asks for, but the secrets.
fn furnish(agent: &Agent, start: &Start) -> Result<Furnished, Exit> {
    let surroundings = Arc::new(agent.surroundings_for(start)?);
    let mut orders = surroundings.orders(argv(agent, start));
    let mut environment = surroundings.environment.clone();
    environment.insert(NOTIFY_SOCKET.into(), agent.notify_path.clone().into());
    orders.is_watched = environment.contains_key(OsStr::new(WATCHDOG_USEC));
    match agent.mode {
        Mode::Init => {
            let directory = &surroundings.directory;
            if let Some(card) = &start.network {
                network::bring_up(&agent.image, card).map_err(|e| step_failed("network", &e))?;
            }
            agent.reach.open(&start.reach).map_err(|why| step_failed("reach", &io::Error::other(why)))?;
            let names = reach::lines(&start.reach);
            furnish::for_daemon(&start.world, start.name.as_deref(), &names, directory)?;
            orders.cgroup = Some(Cgroup::Daemon.processes());
        }
        Mode::Process => {}
    }
    Ok(Furnished { surroundings, orders, environment })
}

/// Lets the forerunner become what the daemon is to be, and wait. When a step of that fails, the start takes it again with
/// another forerunner: what it needs may be there by then.
fn wait(furnished: Furnished, forerunner: Option<Forerunner>) -> Prepared {
    let Some(mut forerunner) = forerunner.filter(Forerunner::is_alive) else {
        return Prepared::without_forerunner(furnished);
    };
    let Ok((output, streams)) = streams(&furnished.orders) else {
        return Prepared::without_forerunner(furnished);
    };
    let waits = forerunner.ahead.prepare(&furnished.orders, &furnished.environment, streams);
    Prepared { furnished, waiting: waits.then_some((forerunner, output)) }
}

/// Returns the daemon's output, and the streams that lead to it.
fn streams(orders: &Orders) -> Result<(PipeReader, Streams), Exit> {
    let program = orders.argv.first().map_or("", String::as_str);
    // The lack of a descriptor for the output is no other than one for the execution: the daemon does not start, and hosts
    // wait for its end.
    let failed = |e: io::Error| not_executable(program, &e);
    let (reader, writer) = io::pipe().map_err(failed)?;
    let output = OwnedFd::from(writer);
    let error = output.try_clone().map_err(failed)?;
    Ok((reader, Streams { input: None, output, error }))
}
