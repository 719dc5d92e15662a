//! Hands events out to any number of readers. A slow reader is told how many it missed, never nothing.

use super::event::{Event, EventKind};
use crate::spec::GroupName;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tokio::sync::broadcast;

/// Events that a reader may lag behind before it misses some.
const CAPACITY: usize = 1024;

/// Events that are kept for those who come later.
const KEPT: usize = 256;

/// Where events are told. Clones tell on the same bus.
#[derive(Debug, Clone)]
pub struct Bus {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    seq: u64,
    /// The newest events, oldest first.
    kept: VecDeque<Event>,
    /// `None` once there will be no more news.
    sender: Option<broadcast::Sender<Event>>,
}

/// A reader's end.
#[derive(Debug)]
pub struct Events {
    /// What comes before the receiver's.
    before: VecDeque<Received>,
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
        let inner = Inner { seq: 0, kept: VecDeque::new(), sender: Some(broadcast::Sender::new(CAPACITY)) };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Numbers an event and hands it out, in one step, so that numbers and order agree.
    pub fn tell(&self, group: Option<&GroupName>, kind: EventKind) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.seq += 1;
        let event = Event { seq: inner.seq, time: SystemTime::now(), group: group.cloned(), kind };
        tracing::debug!(target: "pepita_supervisor::event", seq = event.seq, "{event}");
        if inner.kept.len() == KEPT {
            inner.kept.pop_front();
        }
        inner.kept.push_back(event.clone());
        if let Some(sender) = &inner.sender {
            // An error only says that nobody listens.
            let _ = sender.send(event);
        }
    }

    /// The number of the newest event; 0 before the first.
    pub fn newest(&self) -> u64 {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).seq
    }

    /// There will be no more news: readers get what there is, and then the end.
    pub fn close(&self) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).sender = None;
    }

    /// All events from now on.
    pub fn subscribe(&self) -> Events {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        Events { before: VecDeque::new(), receiver: inner.receiver() }
    }

    /// All events after this number; first how many of them are not kept any more.
    pub fn subscribe_after(&self, seq: u64) -> Events {
        // One lock for both, so that none falls in between and none comes twice.
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = inner.kept.iter().filter(|event| event.seq > seq);
        let mut before: VecDeque<Received> = kept.cloned().map(Received::Event).collect();
        let oldest = inner.kept.front().map_or(inner.seq + 1, |event| event.seq);
        let missed = oldest.saturating_sub(seq.saturating_add(1));
        if missed > 0 {
            before.push_front(Received::Lagged(missed));
        }
        Events { before, receiver: inner.receiver() }
    }
}

impl Inner {
    fn receiver(&self) -> broadcast::Receiver<Event> {
        // Of a closed bus: one that gets the end at once.
        self.sender.as_ref().map_or_else(|| broadcast::channel(1).1, broadcast::Sender::subscribe)
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
        if let Some(received) = self.before.pop_front() {
            return Some(received);
        }
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

    #[tokio::test]
    async fn one_who_comes_later_gets_what_is_kept_without_a_gap() {
        let bus = Bus::new();
        let seqs = async |mut events: Events| {
            let (mut seqs, mut missed) = (Vec::new(), 0);
            while let Some(received) = events.next().await {
                match received {
                    Received::Event(event) => seqs.push(event.seq),
                    Received::Lagged(n) => missed += n,
                }
            }
            (seqs, missed)
        };
        (0..3).for_each(|n| bus.tell(None, notice(n)));
        let (all, some, none) = (bus.subscribe_after(0), bus.subscribe_after(2), bus.subscribe_after(9));
        (3..KEPT + 5).for_each(|n| bus.tell(None, notice(n)));
        let late = bus.subscribe_after(2);
        bus.close();
        let after_the_end = bus.subscribe_after(KEPT as u64);
        let last = KEPT as u64 + 5;
        assert_eq!(seqs(all).await, ((1..=last).collect(), 0));
        assert_eq!(seqs(some).await, ((3..=last).collect(), 0));
        assert_eq!(seqs(none).await, ((4..=last).collect(), 0));
        assert_eq!(seqs(late).await, ((6..=last).collect(), 3));
        assert_eq!(seqs(after_the_end).await, ((last - 4..=last).collect(), 0));
    }
}
