//! A thread that carries the bytes of many forwarded connections.
//!
//! The thread waits with epoll(7) for all of them, edge-triggered, so that a connection costs two descriptors and some
//! hundred bytes while it is idle. What one direction keeps for a side that does not read is bounded.

use crate::pair::{Pair, READ_CAP, Ready, State};
use pepita_wire::chunk::HEADER;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::ioctl_fionbio;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use crate::pair::{Closes, Tally};

/// The maximum number of connections that are carried at once.
const CONNECTIONS: usize = 4096;

/// The descriptors that the rest of the process needs.
const OTHER_FILES: u64 = 256;

/// The maximum number of events that are taken at once.
const EVENTS: usize = 256;

/// The number of the wake-up among the connections' numbers.
const WAKE_UP: u64 = u64::MAX;

/// The stack of the thread, in bytes; it holds one read.
const STACK: usize = 256 * 1024;

/// The handle of the thread. The thread runs until the process ends, or the handle is dropped and no connection is left.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    cap: usize,
}

#[derive(Debug)]
struct Shared {
    epoll: OwnedFd,
    wake_up: OwnedFd,
    /// Written when a connection has ended.
    ended: OwnedFd,
    new: Mutex<Vec<Pair>>,
    carried: AtomicUsize,
    /// Whether the handle is gone.
    is_left: AtomicBool,
}

impl Relay {
    /// Starts the thread. The limit of open files of this process is raised as far as the hard limit allows.
    ///
    /// # Errors
    /// When the system refuses a thread or a descriptor.
    pub fn start() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let flag = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let shared = Shared {
            epoll,
            wake_up: flag()?,
            ended: flag()?,
            new: Mutex::default(),
            carried: AtomicUsize::new(0),
            is_left: AtomicBool::new(false),
        };
        epoll::add(&shared.epoll, &shared.wake_up, EventData::new_u64(WAKE_UP), EventFlags::IN)?;
        let cap = raise_file_limit().saturating_sub(OTHER_FILES) / 2;
        let shared = Arc::new(shared);
        let carrier = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("relay".into())
            .stack_size(STACK)
            .spawn(move || Thread { shared: carrier, pairs: Vec::new(), free: Vec::new() }.run())?;
        Ok(Self { shared, cap: usize::try_from(cap).unwrap_or(CONNECTIONS).min(CONNECTIONS) })
    }

    /// Carries a connection from now on. `first` was read from `carrier` already.
    ///
    /// # Errors
    /// When the sockets cannot be made non-blocking. They are closed then.
    pub fn carry(&self, plain: OwnedFd, carrier: OwnedFd, first: &[u8], closes: Closes) -> io::Result<()> {
        self.carry_new(plain, carrier, first, closes, None)
    }

    /// Carries a connection as [`Relay::carry`] does, and counts it as long as it exists.
    ///
    /// # Errors
    /// Returns the errors of [`Relay::carry`].
    pub fn carry_counted(
        &self,
        plain: OwnedFd,
        carrier: OwnedFd,
        first: &[u8],
        closes: Closes,
        tally: &Tally,
    ) -> io::Result<()> {
        self.carry_new(plain, carrier, first, closes, Some(tally.clone()))
    }

    fn carry_new(
        &self,
        plain: OwnedFd,
        carrier: OwnedFd,
        first: &[u8],
        closes: Closes,
        counted: Option<Tally>,
    ) -> io::Result<()> {
        ioctl_fionbio(&plain, true)?;
        ioctl_fionbio(&carrier, true)?;
        self.shared.carried.fetch_add(1, Ordering::Relaxed);
        self.shared.waiting().push(Pair::new(plain, carrier, first, closes, counted));
        let _ = rustix::io::write(&self.shared.wake_up, &1_u64.to_ne_bytes());
        Ok(())
    }

    /// Returns the number of connections that are carried.
    pub fn carried(&self) -> usize {
        self.shared.carried.load(Ordering::Relaxed)
    }

    /// Returns whether no further connection is to be carried.
    pub fn is_full(&self) -> bool {
        self.carried() >= self.cap
    }

    /// Returns a descriptor that is readable when a connection has ended since [`Relay::forget_ended`].
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.shared.ended.as_fd()
    }

    /// Forgets the ends that [`Relay::ended`] has told of.
    pub fn forget_ended(&self) {
        let _ = rustix::io::read(&self.shared.ended, &mut [0; 8]);
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Vec<Pair>> {
        self.new.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Raises the soft limit of open files to what all connections need, or to the hard limit. Returns the limit.
fn raise_file_limit() -> u64 {
    let wanted = CONNECTIONS as u64 * 2 + OTHER_FILES;
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.unwrap_or(u64::MAX);
    let reachable = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    if reachable <= current {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(reachable), maximum: limit.maximum }) {
        Ok(()) => reachable,
        Err(_) => current,
    }
}

/// The memory of the thread.
struct Thread {
    shared: Arc<Shared>,
    pairs: Vec<Option<Pair>>,
    /// The numbers that are free.
    free: Vec<usize>,
}

impl Thread {
    fn run(mut self) {
        let mut scratch = Box::new([0; HEADER + READ_CAP]);
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        let mut busy: Vec<usize> = Vec::new();
        loop {
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            let limit = if busy.is_empty() { None } else { Some(&at_once) };
            events.clear();
            // An interrupted wait counts as a wait in which nothing became ready.
            let _ = epoll::wait(&self.shared.epoll, spare_capacity(&mut events), limit);
            let mut is_woken = false;
            for &Event { flags, data } in &events {
                match data.u64() {
                    WAKE_UP => is_woken = true,
                    data => busy.extend(self.note(data, flags)),
                }
            }
            if is_woken {
                let _ = rustix::io::read(&self.shared.wake_up, &mut [0; 8]);
                self.take_new(&mut busy);
            }
            busy.sort_unstable();
            busy.dedup();
            busy.retain(|number| self.advance(*number, &mut scratch) == State::Busy);
            if self.shared.is_left.load(Ordering::Acquire) && self.shared.carried.load(Ordering::Relaxed) == 0
            {
                return;
            }
        }
    }

    /// Notes what a socket may do now. Returns the number of its connection.
    fn note(&mut self, data: u64, flags: EventFlags) -> Option<usize> {
        let number = usize::try_from(data / 2).ok()?;
        let pair = self.pairs.get_mut(number)?.as_mut()?;
        let ready: &mut Ready =
            if data.is_multiple_of(2) { &mut pair.plain_ready } else { &mut pair.carrier_ready };
        let is_broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        ready.readable |= is_broken || flags.intersects(EventFlags::IN | EventFlags::RDHUP);
        ready.writable |= is_broken || flags.contains(EventFlags::OUT);
        ready.failed |= flags.contains(EventFlags::ERR);
        Some(number)
    }

    /// Takes the new connections.
    fn take_new(&mut self, busy: &mut Vec<usize>) {
        let new = std::mem::take(&mut *self.shared.waiting());
        for pair in new {
            let number = self.free.pop().unwrap_or_else(|| {
                self.pairs.push(None);
                self.pairs.len() - 1
            });
            let data = number as u64 * 2;
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            let added = epoll::add(&self.shared.epoll, &pair.plain, EventData::new_u64(data), flags)
                .and_then(|()| {
                    epoll::add(&self.shared.epoll, &pair.carrier, EventData::new_u64(data + 1), flags)
                });
            self.pairs[number] = Some(pair);
            match added {
                Ok(()) => busy.push(number),
                // Without events nothing can be carried.
                Err(_) => self.end(number),
            }
        }
    }

    fn advance(&mut self, number: usize, scratch: &mut [u8; HEADER + READ_CAP]) -> State {
        let Some(pair) = self.pairs.get_mut(number).and_then(Option::as_mut) else { return State::Over };
        let state = pair.advance(scratch);
        if state == State::Over {
            self.end(number);
        }
        state
    }

    fn end(&mut self, number: usize) {
        let Some(pair) = self.pairs[number].take() else { return };
        // Another process may have copies of the sockets, and epoll would go on to tell of them.
        let _ = epoll::delete(&self.shared.epoll, &pair.plain);
        let _ = epoll::delete(&self.shared.epoll, &pair.carrier);
        drop(pair);
        self.free.push(number);
        self.shared.carried.fetch_sub(1, Ordering::Relaxed);
        let _ = rustix::io::write(&self.shared.ended, &1_u64.to_ne_bytes());
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The thread looks whether it is needed any more.
        self.shared.is_left.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.shared.wake_up, &1_u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    /// Returns a client and a daemon, with a relay on each side of the way between them.
    fn path() -> (TcpStream, TcpStream, [Relay; 2]) {
        let tcp = || {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
            (near, listener.accept().expect("accepted").0)
        };
        let ((client, host), (guest, daemon)) = (tcp(), tcp());
        let (carrier, far_carrier) = UnixStream::pair().expect("a pair");
        let relays = [Relay::start().expect("started"), Relay::start().expect("started")];
        relays[0].carry(host.into(), carrier.into(), &[], Closes::Here).expect("carried");
        relays[1].carry(guest.into(), far_carrier.into(), &[], Closes::There).expect("carried");
        (client, daemon, relays)
    }

    /// Waits until a relay carries no connection any more.
    fn await_end(relay: &Relay) {
        while relay.carried() > 0 {
            let mut fds = [rustix::event::PollFd::new(&relay.shared.ended, rustix::event::PollFlags::IN)];
            let _ = rustix::event::poll(&mut fds, None);
            relay.forget_ended();
        }
    }

    #[test]
    fn one_direction_ends_and_the_other_goes_on() {
        let (mut client, mut daemon, relays) = path();
        client.write_all(b"all that the client says").expect("written");
        client.shutdown(Shutdown::Write).expect("ended");
        let mut text = String::new();
        daemon.read_to_string(&mut text).expect("read to the end");
        assert_eq!(text, "all that the client says");
        let long = vec![7; 5 << 20];
        let sent = long.clone();
        let writer = std::thread::spawn(move || daemon.write_all(&sent));
        let mut got = Vec::new();
        client.read_to_end(&mut got).expect("read to the end");
        assert!(got == long);
        writer.join().expect("ended").expect("written");
        relays.iter().for_each(await_end);
    }

    #[test]
    fn a_reset_reaches_the_other_end_in_both_directions() {
        let is_reset = |mut stream: TcpStream| {
            let error = stream.read(&mut [0; 16]).expect_err("reset");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        };
        let reset = |stream: TcpStream| {
            let none = Some(std::time::Duration::ZERO);
            rustix::net::sockopt::set_socket_linger(&stream, none).expect("set");
        };
        let (client, daemon, relays) = path();
        reset(client);
        is_reset(daemon);
        relays.iter().for_each(await_end);
        let (client, daemon, relays) = path();
        reset(daemon);
        is_reset(client);
        relays.iter().for_each(await_end);
    }

    #[test]
    fn the_host_ends_a_carrier_without_an_error_whatever_waits_in_it() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (carrier, mut guest) = UnixStream::pair().expect("a pair");
        let relay = Relay::start().expect("started");
        let host = listener.accept().expect("accepted").0;
        relay.carry(host.into(), carrier.into(), &[], Closes::Here).expect("carried");
        // The guest says more than is taken, and the client, which reads nothing, resets its connection.
        guest.set_nonblocking(true).expect("set");
        let chunk = [&pepita_wire::chunk::header(1024)[..], &[7; 1024]].concat();
        let mut idle = 0;
        while idle < 50 {
            match guest.write(&chunk) {
                Ok(n) if n == chunk.len() => idle = 0,
                Ok(_) => break,
                Err(_) => {
                    idle += 1;
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
            }
        }
        rustix::net::sockopt::set_socket_linger(&client, Some(std::time::Duration::ZERO)).expect("set");
        drop(client);
        await_end(&relay);
        guest.set_nonblocking(false).expect("set");
        assert_eq!(guest.read(&mut [0]).expect("the end, no error"), 0);
    }

    #[test]
    fn a_client_that_does_not_read_stops_its_daemon_and_no_other() {
        let (mut client, daemon, relays) = path();
        daemon.set_nonblocking(true).expect("set");
        let (mut taken, mut idle) = (0_usize, 0);
        // The sockets on the way take some megabytes; then nothing more is taken.
        while idle < 50 {
            match (&daemon).write(&[1; 65536]) {
                Ok(n) => (taken, idle) = (taken + n, 0),
                Err(_) => {
                    idle += 1;
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
            }
        }
        assert!(taken < 64 << 20, "{taken} bytes are kept");
        let (mut other, mut other_daemon, _relays) = path();
        other.write_all(b"x").expect("written");
        other_daemon.read_exact(&mut [0]).expect("carried");
        drop(daemon);
        let mut got = Vec::new();
        client.read_to_end(&mut got).expect("read to the end");
        assert_eq!(got.len(), taken);
        drop(client);
        relays.iter().for_each(await_end);
    }

    #[test]
    fn a_thousand_connections_are_carried_at_once() {
        let relays = [Relay::start().expect("started"), Relay::start().expect("started")];
        let mut ends: Vec<_> = (0..1000)
            .map(|_| {
                let pair = || UnixStream::pair().expect("a pair");
                let ((client, host), (carrier, far), (guest, daemon)) = (pair(), pair(), pair());
                relays[0].carry(host.into(), carrier.into(), &[], Closes::Here).expect("carried");
                relays[1].carry(guest.into(), far.into(), &[], Closes::There).expect("carried");
                (client, daemon)
            })
            .collect();
        for (number, (client, _)) in ends.iter_mut().enumerate() {
            client.write_all(&number.to_le_bytes()).expect("written");
        }
        for (number, (_, daemon)) in ends.iter_mut().enumerate() {
            let mut bytes = [0; 8];
            daemon.read_exact(&mut bytes).expect("carried");
            assert_eq!(usize::from_le_bytes(bytes), number);
        }
        drop(ends);
        relays.iter().for_each(await_end);
    }
}
