//! Takes in clients and talks to each in a task of its own. A client that does not read is not read from either, and
//! misses events: it costs a socket, not memory.

use super::Hooks;
use super::answer::carry_out;
use super::session::{self, Session, Todo};
use crate::observe::{Events, Received};
use crate::tree::Tree;
use pepita_wire::{ErrorKind, Outcome, WireError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Clients at once. One too many is told so and hung up on.
const CLIENTS: usize = 64;

/// After a client could not be taken in, most often because there are no descriptors left: nothing tells when there are.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes in clients until the control socket is closed, and ends when the last one has got what is its.
pub(super) async fn listen(listener: UnixListener, tree: Tree, hooks: Hooks, closing: watch::Receiver<bool>) {
    let mut clients = JoinSet::new();
    let mut closed = closing.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if clients.len() < CLIENTS => {
                    clients.spawn(converse(stream, tree.clone(), hooks.clone(), closing.clone()));
                }
                Ok((stream, _)) => refuse(&stream),
                Err(e) => {
                    tracing::warn!("control socket: {e}");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = clients.join_next() => {}
            () = told(&mut closed) => break,
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

/// Ends when the client has hung up and has got its answers, or at the end of the tree.
async fn converse(mut stream: UnixStream, tree: Tree, hooks: Hooks, mut closing: watch::Receiver<bool>) {
    let (mut reader, mut writer) = stream.split();
    let mut session = Session::default();
    let mut calls: JoinSet<(u64, Outcome)> = JoinSet::new();
    let mut events: Option<Events> = None;
    let mut buffer = vec![0; 4096];
    let mut more = true;
    while more || !calls.is_empty() || events.is_some() {
        let mut output = Vec::new();
        tokio::select! {
            // Answers first: what was asked before counts before what is said next.
            biased;
            Some(done) = calls.join_next() => {
                // One that panicked has no number: its client sees its connection end.
                let Ok((id, outcome)) = done else { return };
                output = session.done(id, outcome);
            }
            read = reader.read(&mut buffer), if more => {
                let said = match read {
                    Ok(n) if n > 0 => session.hear(&buffer[..n]),
                    _ => {
                        // Whoever has hung up reads no events. (It may still wait for answers.)
                        (more, events) = (false, None);
                        Vec::new()
                    }
                };
                for todo in said {
                    match todo {
                        Todo::Say(bytes) => output.extend(bytes),
                        Todo::CarryOut { id, call } => {
                            let (tree, hooks) = (tree.clone(), hooks.clone());
                            calls.spawn(async move { (id, carry_out(&tree, &hooks, call).await) });
                        }
                        Todo::Stream { after: Some(after) } => events = Some(tree.events_after(after)),
                        // None has this number yet.
                        Todo::Stream { after: None } => events = Some(tree.events_after(u64::MAX)),
                        Todo::HangUp => more = false,
                    }
                }
            }
            received = next(&mut events) => match received {
                Some(received) => output = session::news(&received),
                None => {
                    // The tree has ended: that is what the end of the connection says.
                    (more, events) = (false, None);
                }
            },
            () = told(&mut closing), if more => more = false,
        }
        if writer.write_all(&output).await.is_err() {
            return;
        }
    }
}

/// The control socket is closed.
async fn told(closing: &mut watch::Receiver<bool>) {
    // An error says that its handle was dropped: closed as well.
    let _ = closing.wait_for(|closed| *closed).await;
}

/// The next event; never, when there is no stream of them.
async fn next(events: &mut Option<Events>) -> Option<Received> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}
