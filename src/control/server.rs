//! Accepts clients, and serves each in a task of its own. The server stops reading from a client that does not read,
//! and that client misses events: the client costs a socket, one answer and a piece of a status, not more.

use super::answer::carry_out;
use super::hooks::Hooks;
use super::session::{self, Action, Session};
use super::status::StatusLine;
use crate::executor::is_exhausted;
use crate::observe::{Events, Received};
use crate::tree::Tree;
use pepita_wire::{ErrorKind, Outcome, WireError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::WriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

/// The number of clients that may be connected at once. A further client is told so, and its connection is closed.
const CLIENTS: usize = 64;

/// The delay after a client could not be accepted, most often because no descriptor is left: no event tells when a
/// descriptor is free.
const PAUSE: Duration = Duration::from_millis(100);

/// The interval of log lines about clients that cannot be accepted.
const QUIET: Duration = Duration::from_secs(10);

/// Accepts clients until the control socket is closed, and returns when the last client has received its answers.
pub(super) async fn listen(listener: UnixListener, tree: Tree, hooks: Hooks, closing: watch::Receiver<bool>) {
    let mut clients = JoinSet::new();
    let mut listening_ends = closing.clone();
    // When no descriptor is left, this one makes room for a client: an operator can still ask and command.
    let mut spare = File::open("/dev/null").ok();
    let mut complained: Option<Instant> = None;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if clients.len() < CLIENTS => {
                    clients.spawn(converse(stream, tree.clone(), hooks.clone(), closing.clone()));
                }
                Ok((stream, _)) => refuse(&stream),
                Err(e) if is_exhausted(&e) && spare.take().is_some() => {}
                Err(e) => {
                    if complained.is_none_or(|at| at.elapsed() >= QUIET) {
                        complained = Some(Instant::now());
                        tracing::warn!("control socket: {e}");
                    }
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE) => {}
                        () = closed(&mut listening_ends) => break,
                    }
                }
            },
            Some(_) = clients.join_next() => {
                spare = spare.or_else(|| File::open("/dev/null").ok());
            }
            () = closed(&mut listening_ends) => break,
        }
    }
    drop(listener);
    while clients.join_next().await.is_some() {}
}

fn refuse(stream: &UnixStream) {
    let error = WireError::new(ErrorKind::Busy, format!("{CLIENTS} clients are connected; try again"));
    // A socket that was just opened takes a line at once, or not at all.
    let _ = stream.try_write(&session::answer(0, Err(error)));
}

/// An outcome that waits to be sent. While it waits, the client's next call with a long answer does.
struct Done {
    id: u64,
    outcome: Outcome,
    turn: Option<OwnedSemaphorePermit>,
}

/// Something to send to a client.
enum Output {
    Bytes(Vec<u8>),
    Status(StatusLine),
}

/// Serves a client until the client has closed the connection and has received its answers, or until the tree has
/// ended.
async fn converse(mut stream: UnixStream, tree: Tree, hooks: Hooks, mut closing: watch::Receiver<bool>) {
    let (mut reader, mut writer) = stream.split();
    let mut session = Session::default();
    let mut calls: JoinSet<Done> = JoinSet::new();
    let turns = Arc::new(Semaphore::new(1));
    let mut events: Option<Events> = None;
    let mut buffer = vec![0; 4096];
    let mut more = true;
    while more || !calls.is_empty() || events.is_some() {
        let mut output = Vec::new();
        let mut sent = None;
        tokio::select! {
            // Answers come first: a call that was made earlier counts before the next one.
            biased;
            Some(done) = calls.join_next() => {
                // A call that panicked has no number: its client sees the connection end.
                let Ok(Done { id, outcome, turn }) = done else { return };
                sent = turn;
                output.push(Output::Bytes(session.done(id, outcome)));
            }
            read = reader.read(&mut buffer), if more => {
                let actions = match read {
                    // What a client asks that does not wait for the answer any more is not carried out: it has told its
                    // user that it failed.
                    Ok(n) if n > 0 && !has_hung_up(reader.as_ref()) => session.receive(&buffer[..n]),
                    _ => {
                        // A client that has shut down its side may still wait for answers, but not for events.
                        (more, events) = (false, None);
                        Vec::new()
                    }
                };
                for action in actions {
                    match action {
                        Action::Send(bytes) => output.push(Output::Bytes(bytes)),
                        Action::Status { id, part } => {
                            output.push(Output::Status(StatusLine::new(id, tree.clone(), part)));
                        }
                        Action::CarryOut { id, call } => {
                            let (tree, hooks, turns) = (tree.clone(), hooks.clone(), Arc::clone(&turns));
                            calls.spawn(async move {
                                let turn = match call.has_long_answer() {
                                    true => turns.acquire_owned().await.ok(),
                                    false => None,
                                };
                                Done { id, outcome: carry_out(&tree, &hooks, call).await, turn }
                            });
                        }
                        Action::Stream { after: Some(after) } => events = Some(tree.events_after(after)),
                        // No event has this number yet.
                        Action::Stream { after: None } => events = Some(tree.events_after(u64::MAX)),
                        Action::HangUp => more = false,
                    }
                }
            }
            received = next(&mut events) => match received {
                Some(received) => output.push(Output::Bytes(session::event_line(&received))),
                None => {
                    // The tree has ended, and the end of the connection says so.
                    (more, events) = (false, None);
                }
            },
            () = closed(&mut closing), if more => more = false,
        }
        if send(&mut writer, output).await.is_err() {
            return;
        }
        drop(sent);
    }
}

/// Returns whether the client has closed its whole side. A client that has only shut down its writing waits for answers
/// (unix(7), poll(2): POLLHUP and not POLLRDHUP).
fn has_hung_up(stream: &UnixStream) -> bool {
    let mut asked = [PollFd::new(stream, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut asked, Some(&now)).is_ok() && asked[0].revents().contains(PollFlags::HUP)
}

/// Sends everything to a client, however slowly it reads.
async fn send(writer: &mut WriteHalf<'_>, output: Vec<Output>) -> io::Result<()> {
    for output in output {
        match output {
            Output::Bytes(bytes) => writer.write_all(&bytes).await?,
            Output::Status(mut line) => {
                while let Some(piece) = line.next_piece() {
                    writer.write_all(&piece).await?;
                }
            }
        }
    }
    Ok(())
}

/// Waits until the control socket is closed.
async fn closed(closing: &mut watch::Receiver<bool>) {
    // An error says that the handle was dropped, which closes the socket as well.
    let _ = closing.wait_for(|closed| *closed).await;
}

/// Returns the next event; pends forever when the client did not ask for events.
async fn next(events: &mut Option<Events>) -> Option<Received> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}
