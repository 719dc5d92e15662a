//! The threads that serve a connection after a `watch` or a `logs` request: they send events or output until the end.

use super::writer::Writer;
use crate::agent::Agent;
use crate::state::Daemon;
use pepita_wire::{GuestEvent, ToHost};
use std::sync::Arc;
use std::time::Duration;

/// The interval at which `exited` is reported again until a client has acknowledged it.
const REPEAT: Duration = Duration::from_millis(200);

/// A client that watches, whom the agent tells of the daemon's end before it ends itself.
pub(super) struct Watcher {
    agent: Arc<Agent>,
    is_told: bool,
}

impl Watcher {
    /// Registers a client that watches.
    pub(super) fn new(agent: &Arc<Agent>) -> Self {
        agent.change(|state| state.telling += 1);
        Self { agent: Arc::clone(agent), is_told: false }
    }

    /// Lets the agent end without this client.
    fn let_end(&mut self) {
        if !std::mem::replace(&mut self.is_told, true) {
            self.agent.change(|state| state.telling -= 1);
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.let_end();
    }
}

/// Reports events after `since` until the client is gone. Repeats `exited` until a client has acknowledged it.
pub(super) fn watch(mut watcher: Watcher, writer: &Writer, since: u64) {
    let agent = Arc::clone(&watcher.agent);
    let mut seen = since;
    loop {
        let is_end = agent.lock().is_end(seen);
        if is_end {
            watcher.let_end();
        }
        let mut state = agent.lock();
        let events = loop {
            if writer.is_closed() {
                return;
            }
            let events = state.events_since(seen);
            if !events.is_empty() {
                break events;
            }
            let repeat = state.unacknowledged_exit().map(|_| REPEAT);
            state = agent.wait(state, repeat);
            if let (Some(_), Some((seq, exit))) = (repeat, state.unacknowledged_exit()) {
                break vec![(seq, GuestEvent::Exited(exit.clone()))];
            }
        };
        drop(state);
        for (seq, event) in events {
            seen = seen.max(seq);
            if writer.send(&ToHost::Event { seq, event }).is_err() {
                return;
            }
        }
    }
}

/// Writes the kept output of the daemon, with `follow` also its new output until its end. Then ends the connection.
pub(super) fn logs(agent: &Agent, writer: &Writer, follow: bool) {
    let mut from = 0;
    loop {
        let mut state = agent.lock();
        let (bytes, to) = loop {
            let (bytes, to) = state.tail.since(from);
            let more = follow && !matches!(state.daemon, Daemon::Exited { .. });
            if !bytes.is_empty() || !more || writer.is_closed() {
                break (bytes, to);
            }
            state = agent.wait(state, None);
        };
        drop(state);
        from = to;
        if bytes.is_empty() || writer.bytes(&bytes).is_err() {
            break;
        }
    }
    writer.shutdown();
}
