//! Hands events out to any number of readers. A slow reader is told how many it missed, never nothing.

use super::event::{Event, EventKind};
use crate::spec::GroupName;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tokio::sync::broadcast;

/// Events that a reader may lag behind before it misses some.
const CAPACITY: usize = 1024;

/// Where events are told. Clones tell on the same bus.
#[derive(Debug, Clone)]
pub struct Bus {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    seq: u64,
    /// `None` once there will be no more news.
    sender: Option<broadcast::Sender<Event>>,
}

/// A reader's end.
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<Event>,
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq)]
// Almost always it is an event.
#[allow(clippy::large_enum_variant)]
pub enum Received {
    /// News.
    Event(Event),
    /// So many events went by unread.
    Lagged(u64),
}

impl Bus {
    /// A bus that nobody listens to yet.
    pub fn new() -> Self {
        let inner = Inner { seq: 0, sender: Some(broadcast::Sender::new(CAPACITY)) };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Numbers an event and hands it out, in one step, so that numbers and order agree.
    pub fn tell(&self, group: Option<&GroupName>, kind: EventKind) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.seq += 1;
        let event = Event { seq: inner.seq, time: SystemTime::now(), group: group.cloned(), kind };
        tracing::debug!(target: "pepita_supervisor::event", seq = event.seq, "{event}");
        if let Some(sender) = &inner.sender {
            // An error only says that nobody listens.
            let _ = sender.send(event);
        }
    }

    /// There will be no more news: readers get what there is, and then the end.
    pub fn close(&self) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).sender = None;
    }

    /// All events from now on.
    pub fn subscribe(&self) -> Events {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        // Of a closed bus: a reader that gets the end at once.
        let receiver = inner.sender.as_ref().map_or_else(|| broadcast::channel(1).1, |s| s.subscribe());
        Events { receiver }
    }
}

impl Default for Bus {
    fn default() -> Self {
        Self::new()
    }
}

impl Events {
    /// The next event, or how many were missed; `None` when the tree is gone.
    ///
    /// Cancel safe: dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Received> {
        match self.receiver.recv().await {
            Ok(event) => Some(Received::Event(event)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Received::Lagged(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(n: usize) -> EventKind {
        EventKind::Notice { vm: None, text: n.to_string() }
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_how_much_it_missed() {
        let bus = Bus::new();
        let mut events = bus.subscribe();
        for n in 0..CAPACITY + 5 {
            bus.tell(None, notice(n));
        }
        assert_eq!(events.next().await, Some(Received::Lagged(5)));
        let Some(Received::Event(event)) = events.next().await else { panic!("an event") };
        assert_eq!((event.seq, event.kind), (6, notice(5)));
        drop(bus);
        while let Some(received) = events.next().await {
            assert!(matches!(received, Received::Event(_)));
        }
    }
}
