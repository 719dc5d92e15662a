//! Counts the connections of hosts: those whose hello was accepted, and strangers, apart from each other, so that silent
//! strangers keep no host out.

use crate::stream::Stream;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The maximum number of connections whose hello was accepted. Further connections are closed at once.
const ADMITTED: usize = 16;

/// The maximum number of connections for one stream each (`hello` with `stream`), apart from those.
const STREAMS: usize = 256;

/// The maximum number of strangers. For one more, the connection of the oldest stranger is closed.
const STRANGERS: usize = 16;

/// The connections of one listening socket.
#[derive(Debug, Clone)]
pub(super) struct Door {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    strangers: Mutex<Strangers>,
    admitted: AtomicUsize,
    streams: AtomicUsize,
}

#[derive(Debug, Default)]
struct Strangers {
    /// The connections of strangers, the oldest first, each with its number.
    waiting: VecDeque<(u64, Stream)>,
    last: u64,
}

/// The place of a connection whose hello was not accepted yet. Dropping it gives the place back.
#[derive(Debug)]
pub(super) struct Stranger {
    shared: Arc<Shared>,
    number: u64,
}

/// The place of a connection whose hello was accepted. Dropping it gives the place back.
#[derive(Debug)]
pub(super) struct Admitted {
    shared: Arc<Shared>,
    is_stream: bool,
}

impl Door {
    /// Returns a door through which nobody has come yet.
    pub(super) fn new() -> Self {
        Self { shared: Arc::default() }
    }

    /// Gives a new connection a place among the strangers.
    ///
    /// # Errors
    /// When no file descriptor is left.
    pub(super) fn let_in(&self, stream: &Stream) -> io::Result<Stranger> {
        let stream = stream.try_clone()?;
        let mut strangers = self.shared.strangers();
        strangers.last += 1;
        let number = strangers.last;
        strangers.waiting.push_back((number, stream));
        let oldest = if strangers.waiting.len() > STRANGERS { strangers.waiting.pop_front() } else { None };
        drop(strangers);
        if let Some((_, oldest)) = oldest {
            // The thread that reads from it finds the end of the stream.
            oldest.shutdown();
        }
        Ok(Stranger { shared: Arc::clone(&self.shared), number })
    }
}

impl Shared {
    fn places(&self, is_stream: bool) -> &AtomicUsize {
        if is_stream { &self.streams } else { &self.admitted }
    }

    fn strangers(&self) -> MutexGuard<'_, Strangers> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stranger {
    /// Gives the connection a place among those whose hello was accepted; `None` when they are too many. Streams are
    /// counted apart, so that they keep no conversation out.
    pub(super) fn admit(self, is_stream: bool) -> Option<Admitted> {
        let admitted = Admitted { shared: Arc::clone(&self.shared), is_stream };
        let cap = if is_stream { STREAMS } else { ADMITTED };
        (self.shared.places(is_stream).fetch_add(1, Ordering::Relaxed) < cap).then_some(admitted)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.shared.strangers().waiting.retain(|(number, _)| *number != self.number);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.shared.places(self.is_stream).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_stranger_too_many_costs_the_oldest_stranger_its_place_and_no_admitted_host() {
        let door = Door::new();
        let come = || {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            theirs.set_nonblocking(true).expect("set up");
            let ours = Stream::Unix(ours);
            (door.let_in(&ours).expect("let in"), ours, theirs)
        };
        let is_open = |mut stream: &UnixStream| stream.read(&mut [0]).is_err();
        let (stranger, _host, host) = come();
        let _admitted = stranger.admit(false).expect("there is room");
        let silent: Vec<_> = (0..STRANGERS).map(|_| come()).collect();
        assert!(silent.iter().all(|(.., theirs)| is_open(theirs)));
        let (next, ..) = come();
        assert!(!is_open(&silent[0].2) && is_open(&silent[1].2) && is_open(&host));
        assert!(next.admit(false).is_some());
        let more: Vec<_> = (0..ADMITTED).map(|_| come().0.admit(false)).collect();
        assert_eq!(more.iter().flatten().count(), ADMITTED - 1);
        let streams: Vec<_> = (0..=STREAMS).map(|_| come().0.admit(true)).collect();
        assert_eq!(streams.iter().flatten().count(), STREAMS);
        drop((more, streams));
        for is_stream in [false, true] {
            assert!(come().0.admit(is_stream).is_some(), "the places were given back");
        }
    }
}
