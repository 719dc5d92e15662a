//! Hands events out to any number of readers, each event behind the writes that came before it: an event that a reader
//! was told is on the disk, so that the next supervisor does not tell it again (semantics 9.7). A slow reader is told
//! how many events it missed (semantics 10). A notice that is repeated is told at intervals (semantics 10.6).

use super::event::{Event, EventKind};
use crate::actor::now;
use crate::spec::{GroupName, VmName};
use crate::store::Store;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::broadcast;

/// The number of events that a reader may lag behind before it misses some.
const CAPACITY: usize = 1024;

/// The number of events that are kept for later readers.
const KEPT: usize = 256;

/// The interval at which the same notice about the same VM is told: a trouble that lasts is no news.
const REPEATED: Duration = Duration::from_secs(10);

/// The number of notices that are remembered, to recognise a repetition.
const REMEMBERED: usize = 1024;

/// Takes events and hands them out. Clones are the same bus.
#[derive(Debug, Clone)]
pub struct Bus {
    inner: Arc<Mutex<Inner>>,
    /// The store whose writes come before the events.
    store: Option<Store>,
}

#[derive(Debug)]
struct Inner {
    seq: u64,
    /// The newest events, oldest first.
    kept: VecDeque<Event>,
    /// When each notice was told last, and how often it came since.
    notices: HashMap<(Option<VmName>, String), (Instant, u32)>,
    /// `None` once the bus is closed.
    sender: Option<broadcast::Sender<Event>>,
}

/// A reader of events.
#[derive(Debug)]
pub struct Events {
    /// The items that the reader gets before the events of the receiver.
    before: VecDeque<Received>,
    receiver: broadcast::Receiver<Event>,
}

/// An item that a reader gets.
#[derive(Debug, Clone, PartialEq)]
// Almost always the item is an event, so that a box would only add an allocation.
#[allow(clippy::large_enum_variant)]
pub enum Received {
    /// An event of the tree.
    Event(Event),
    /// The number of events that the reader has missed.
    Lagged(u64),
}

impl Bus {
    /// Makes a bus without readers. Its events come behind the writes of `store`.
    pub fn new(store: Option<Store>) -> Self {
        let sender = Some(broadcast::Sender::new(CAPACITY));
        let inner = Inner { seq: 0, kept: VecDeque::new(), notices: HashMap::new(), sender };
        Self { inner: Arc::new(Mutex::new(inner)), store }
    }

    /// Tells an event when all earlier writes of the store are done; without a directory on disk, at once.
    pub fn tell(&self, group: Option<&GroupName>, kind: EventKind) {
        let Some(kind) = self.inner.lock().unwrap_or_else(PoisonError::into_inner).news(now(), kind) else {
            return;
        };
        let (inner, group, time) = (Arc::clone(&self.inner), group.cloned(), SystemTime::now());
        let tell = move || inner.lock().unwrap_or_else(PoisonError::into_inner).tell(time, group, kind);
        match &self.store {
            Some(store) => store.in_order(tell),
            None => tell(),
        }
    }

    /// Returns the number of the newest event; 0 before the first.
    pub fn newest(&self) -> u64 {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).seq
    }

    /// Closes the bus: readers get the events that were told, and then the end.
    pub fn close(&self) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).sender = None;
    }

    /// Returns a reader of all events from now on.
    pub fn subscribe(&self) -> Events {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        Events { before: VecDeque::new(), receiver: inner.receiver() }
    }

    /// Returns a reader of all events after this number. The reader is first told how many of those events are no
    /// longer kept.
    pub fn subscribe_after(&self, seq: u64) -> Events {
        // A single lock covers the kept events and the receiver, so that no event is lost in between and none comes
        // twice.
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
    /// Returns what is to be told of an event: nothing of a notice that was told a moment ago.
    fn news(&mut self, now: Instant, kind: EventKind) -> Option<EventKind> {
        let EventKind::Notice { vm, text } = kind else { return Some(kind) };
        if self.notices.len() >= REMEMBERED {
            self.notices.retain(|_, (told, _)| now.saturating_duration_since(*told) < REPEATED);
        }
        let mut suffix = String::new();
        let full = self.notices.len() >= REMEMBERED;
        match self.notices.get_mut(&(vm.clone(), text.clone())) {
            Some((told, repeated)) if now.saturating_duration_since(*told) < REPEATED => {
                *repeated += 1;
                return None;
            }
            Some((told, repeated)) => {
                *told = now;
                match std::mem::take(repeated) {
                    0 => {}
                    times => suffix = format!(" (and {times} times since it was told last)"),
                }
            }
            None if !full => {
                self.notices.insert((vm.clone(), text.clone()), (now, 0));
            }
            None => {}
        }
        Some(EventKind::Notice { vm, text: text + &suffix })
    }

    /// Numbers an event and hands it out, in one step, so that the order of the numbers is the order of the events.
    fn tell(&mut self, time: SystemTime, group: Option<GroupName>, kind: EventKind) {
        self.seq += 1;
        let event = Event { seq: self.seq, time, group, kind };
        tracing::debug!(target: "pepita_supervisor::event", seq = event.seq, "{event}");
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(event.clone());
        if let Some(sender) = &self.sender {
            // An error means only that there is no reader.
            let _ = sender.send(event);
        }
    }

    fn receiver(&self) -> broadcast::Receiver<Event> {
        // The receiver of a closed bus gets the end at once.
        self.sender.as_ref().map_or_else(|| broadcast::channel(1).1, broadcast::Sender::subscribe)
    }
}

impl Default for Bus {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Events {
    /// Returns the next event, or how many were missed; `None` when the tree is gone.
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
        let bus = Bus::new(None);
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

    #[tokio::test(start_paused = true)]
    async fn a_notice_that_is_repeated_is_told_at_intervals() {
        let bus = Bus::new(None);
        let mut events = bus.subscribe();
        let about = |vm: &str| EventKind::Notice { vm: VmName::new(vm).ok(), text: "in trouble".into() };
        for _ in 0..95 {
            bus.tell(None, about("a"));
            bus.tell(None, about("b"));
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        tokio::time::advance(REPEATED).await;
        bus.tell(None, about("a"));
        bus.close();
        let mut told = Vec::new();
        while let Some(Received::Event(event)) = events.next().await {
            told.push(event.to_string());
        }
        let again = "a: in trouble (and 94 times since it was told last)";
        assert_eq!(told, ["a: in trouble", "b: in trouble", again]);
    }

    #[tokio::test]
    async fn one_who_comes_later_gets_what_is_kept_without_a_gap() {
        let bus = Bus::new(None);
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
