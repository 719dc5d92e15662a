//! The places that a guest's daemon may dial: takes the connections that it makes there, and connects each with its
//! target on the host.
//!
//! The guest dials nobody. One connection of this monitor waits in the agent (`accept`) until a program of the guest has
//! dialled one of the places; the answer names it, and the connection carries the program's bytes from then on. What is
//! dialled on the host is in the list of this monitor alone.
//!
//! ```text
//!  Idle ──► Dialling ── connected ──► Waiting ── a program has dialled ──► Outgoing ── the target accepts ──► carried
//!   ▲          │                        │                                     │
//!   └── Pausing ◄────── broken ─────────┘                                     └── refused, or too late ──► reset
//! ```

use super::carry::Carrier;
use super::dial::{Address, Dial, Progress};
use super::ports::Greeting;
use super::stream::{Stream, connect_unix};
use crate::error::eprint_line;
use pepita_wire::agent::Accepted;
use pepita_wire::port::HostPlace;
use pepita_wire::reach::{DialPlace, Reached};
use pepita_wire::{Ask, Lines, ToGuest, ToHost};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddr, SocketFlags, SocketType, connect, socket_with, sockopt};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// The pause before the agent is dialled again.
const PAUSE: Duration = Duration::from_millis(100);

/// The pause before a target whose queue is full is dialled again.
const FULL_PAUSE: Duration = Duration::from_millis(50);

/// The time limit for a target to accept a connection.
const TARGET_DEADLINE: Duration = Duration::from_secs(30);

/// The time limit for the agent's hello.
const HELLO_DEADLINE: Duration = Duration::from_secs(15);

/// The maximum number of connections whose targets have not accepted them yet. Further programs wait in the guest.
const OUTGOING: usize = 32;

/// The id of the one request on a connection.
const ID: u64 = 1;

/// The way of the next program to this monitor.
#[derive(Debug)]
enum Way {
    Idle,
    Dialling(Dial),
    /// `until` is the deadline for the agent's hello; after it the connection waits as long as it has to.
    Waiting {
        stream: Stream,
        lines: Lines,
        until: Option<Instant>,
    },
    Pausing(Instant),
}

/// A connection whose target has not accepted it yet.
#[derive(Debug)]
struct Outgoing {
    /// A number that no other connection of this monitor had before.
    number: u64,
    at: DialPlace,
    to: HostPlace,
    agent: OwnedFd,
    /// What was read from the agent already.
    first: Vec<u8>,
    /// The socket that is being connected; `None` while the queue of the target is full.
    socket: Option<OwnedFd>,
    again_at: Instant,
    until: Instant,
}

/// The connection with a target.
enum Connection {
    Made(OwnedFd),
    Pending(OwnedFd),
    /// The queue of the target is full.
    Full,
}

/// The number of the way to the agent among the numbers of connections.
const WAY: u64 = 0;

/// The places that the daemon may dial, and the connections that are being made.
#[derive(Debug)]
pub(crate) struct Reach {
    places: Vec<(DialPlace, HostPlace)>,
    carrier: Carrier,
    way: Way,
    outgoing: Vec<Outgoing>,
    last: u64,
    /// Whether the daemon runs in a guest that can be dialled.
    is_open: bool,
    /// The place and the kind of error that was told last.
    told: Option<(DialPlace, io::ErrorKind)>,
}

impl Reach {
    /// Returns the places of a VM. `run_dir` is the directory of run directories.
    pub(crate) fn new(reached: &[Reached], run_dir: &Path, carrier: Carrier) -> Self {
        let place = |reached: &Reached| (reached.at.clone(), reached.to.on_host(run_dir));
        Self {
            places: reached.iter().map(place).collect(),
            carrier,
            way: Way::Idle,
            outgoing: Vec::new(),
            last: WAY,
            is_open: false,
            told: None,
        }
    }

    /// Returns whether there is no place.
    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Notes whether the daemon runs in a guest that can be dialled. A connection that waits in a paused guest stays.
    pub(super) fn note(&mut self, is_open: bool) {
        self.is_open = is_open;
    }

    /// Returns the dial under way whose socket must stay open: its number and its socket.
    pub(super) fn dialling(&self) -> Option<(u64, BorrowedFd<'_>)> {
        match &self.way {
            Way::Dialling(dial) => dial.to_keep(),
            Way::Idle | Way::Waiting { .. } | Way::Pausing(_) => None,
        }
    }

    /// Returns the descriptors to poll, each with its number.
    pub(super) fn interest(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>, PollFlags)> {
        let way = match &self.way {
            Way::Dialling(dial) => Some(dial.interest()),
            // A program that dials has to wait while no further connection can be made.
            Way::Waiting { stream, until, .. } if until.is_some() || self.has_room() => {
                Some((stream.as_fd(), stream.interest()))
            }
            Way::Idle | Way::Waiting { .. } | Way::Pausing(_) => None,
        };
        let outgoing = self.outgoing.iter().filter_map(|it| Some((it.number, it.socket.as_ref()?)));
        let outgoing = outgoing.map(|(number, socket)| (number, socket.as_fd(), PollFlags::OUT));
        way.into_iter().map(|(fd, flags)| (WAY, fd, flags)).chain(outgoing)
    }

    fn has_room(&self) -> bool {
        self.outgoing.len() < OUTGOING && !self.carrier.is_full()
    }

    /// Returns the time at which [`Reach::tick`] has to be called.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let way = match &self.way {
            Way::Pausing(until) => self.is_open.then_some(*until),
            Way::Waiting { until, .. } => *until,
            Way::Idle | Way::Dialling(_) => None,
        };
        let outgoing = self.outgoing.iter().map(|it| match it.socket {
            Some(_) => it.until,
            None => it.again_at.min(it.until),
        });
        outgoing.chain(way).min()
    }

    /// Does what is due. Called after each event, because each may have made room for the next connection.
    pub(super) fn tick(&mut self, now: Instant, address: &Address) {
        if let Way::Pausing(until) | Way::Waiting { until: Some(until), .. } = &self.way
            && now >= *until
        {
            self.way = Way::Idle;
        }
        if let Way::Idle = self.way
            && self.is_open
            && !self.places.is_empty()
            && self.has_room()
        {
            self.way = Dial::begin(address).map_or(Way::Pausing(now + PAUSE), Way::Dialling);
        }
        let due = |it: &Outgoing| now >= it.until || (it.socket.is_none() && now >= it.again_at);
        let due: Vec<u64> = self.outgoing.iter().filter(|it| due(it)).map(|it| it.number).collect();
        for number in due {
            let Some(mut it) = self.take(number) else { continue };
            if now >= it.until {
                self.refused(it, &io::ErrorKind::TimedOut.into());
            } else {
                it.again_at = now + FULL_PAUSE;
                self.connect(it);
            }
        }
    }

    /// Continues with the descriptor of this number, which is ready.
    pub(super) fn ready(&mut self, number: u64, now: Instant, greeting: Greeting<'_>) {
        if number == WAY {
            return self.advance(now, greeting);
        }
        let Some(mut it) = self.take(number) else { return };
        let Some(socket) = it.socket.take() else { return self.outgoing.push(it) };
        match sockopt::socket_error(&socket) {
            Ok(Ok(())) => self.carry(it, socket),
            Ok(Err(e)) | Err(e) => self.refused(it, &e.into()),
        }
    }

    fn take(&mut self, number: u64) -> Option<Outgoing> {
        let at = self.outgoing.iter().position(|it| it.number == number)?;
        Some(self.outgoing.swap_remove(at))
    }

    fn advance(&mut self, now: Instant, greeting: Greeting<'_>) {
        self.way = match std::mem::replace(&mut self.way, Way::Idle) {
            Way::Idle => Way::Idle,
            Way::Pausing(until) => Way::Pausing(until),
            Way::Dialling(dial) => match dial.advance() {
                Ok(Progress::Pending(dial)) => Way::Dialling(dial),
                Ok(Progress::Connected(fd)) => wait_in_agent(fd, now, greeting),
                Err(_) => Way::Pausing(now + PAUSE),
            },
            Way::Waiting { mut stream, mut lines, until } => {
                // An agent that breaks off may have answered before.
                let pumped = stream.pump_into(&mut lines);
                match heard(&mut lines) {
                    Ok(Heard::Dialled(at)) => {
                        self.dialled(&at, stream.into(), lines.into_rest(), now);
                        Way::Idle
                    }
                    Ok(Heard::Hello) if pumped.is_ok() => Way::Waiting { stream, lines, until: None },
                    Ok(Heard::Nothing) if pumped.is_ok() => Way::Waiting { stream, lines, until },
                    Ok(Heard::Hello | Heard::Nothing) | Err(_) => Way::Pausing(now + PAUSE),
                }
            }
        };
    }

    /// Connects a program that has dialled a place with the target of that place, if this monitor has such a place.
    fn dialled(&mut self, at: &DialPlace, agent: OwnedFd, first: Vec<u8>, now: Instant) {
        let Some((at, to)) = self.places.iter().find(|(place, _)| place == at).cloned() else {
            // Only a guest that is not what it should be asks for another place.
            return self.tell(at, &io::ErrorKind::PermissionDenied.into());
        };
        self.last += 1;
        let (number, until, again_at) = (self.last, now + TARGET_DEADLINE, now + FULL_PAUSE);
        self.connect(Outgoing { number, at, to, agent, first, socket: None, again_at, until });
    }

    fn connect(&mut self, mut it: Outgoing) {
        match begin(&it.to) {
            Ok(Connection::Made(socket)) => self.carry(it, socket),
            Ok(Connection::Pending(socket)) => {
                it.socket = Some(socket);
                self.outgoing.push(it);
            }
            Ok(Connection::Full) => self.outgoing.push(it),
            Err(e) => self.refused(it, &e),
        }
    }

    fn carry(&self, it: Outgoing, socket: OwnedFd) {
        if let HostPlace::Tcp(..) = it.to {
            let _ = sockopt::set_tcp_nodelay(&socket, true);
        }
        if let Err(e) = self.carrier.carry(socket, it.agent, &it.first) {
            eprint_line(format_args!("pepita monitor: a connection cannot be carried: {e}"));
        }
    }

    /// Tells why a connection was not made. Its program is reset, because the connection with the agent is closed.
    fn refused(&mut self, it: Outgoing, why: &io::Error) {
        self.tell(&it.at, why);
    }

    fn tell(&mut self, at: &DialPlace, why: &io::Error) {
        let told = Some((at.clone(), why.kind()));
        if self.told != told {
            eprint_line(format_args!("pepita monitor: the daemon's connection to {at} was not made: {why}"));
            self.told = told;
        }
    }
}

/// Greets the agent, and asks for the next program that dials one of the places.
fn wait_in_agent(fd: OwnedFd, now: Instant, greeting: Greeting<'_>) -> Way {
    let mut stream = Stream::new(fd);
    let (method, params) = Ask::Accept.into_parts();
    let lines = [greeting.hello_for_stream(), ToGuest::request(ID, method, params).encode()].concat();
    match stream.send(&lines) {
        Ok(()) => Way::Waiting { stream, lines: Lines::new(), until: Some(now + HELLO_DEADLINE) },
        Err(_) => Way::Pausing(now + PAUSE),
    }
}

/// The meaning of what the agent has said.
enum Heard {
    Nothing,
    Hello,
    /// A program has dialled this place. The bytes after the answer are the program's.
    Dialled(DialPlace),
}

fn heard(lines: &mut Lines) -> io::Result<Heard> {
    let mut heard = Heard::Nothing;
    while let Some(line) = lines.next_line() {
        match ToHost::decode(line.map_err(io::Error::other)?).map_err(io::Error::other)? {
            ToHost::Hello(_) => heard = Heard::Hello,
            ToHost::Answer { id: ID, outcome: Ok(answer) } => {
                let Accepted { at } = serde_json::from_value(answer)?;
                return Ok(Heard::Dialled(at));
            }
            ToHost::Answer { outcome: Err(refusal), .. } => return Err(io::Error::other(refusal)),
            ToHost::Answer { .. } | ToHost::Event { .. } => {}
        }
    }
    Ok(heard)
}

/// Begins to connect to a place of the host, without waiting.
fn begin(to: &HostPlace) -> io::Result<Connection> {
    match to {
        HostPlace::Unix(path) => match connect_unix(Path::new(path)) {
            Ok(socket) => Ok(Connection::Made(socket)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Connection::Full),
            Err(e) => Err(e),
        },
        HostPlace::Tcp(address, port) => {
            let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(family, SocketType::STREAM, flags, None)?;
            match connect(&socket, &SocketAddr::new(*address, *port)) {
                Ok(()) => Ok(Connection::Made(socket)),
                Err(Errno::INPROGRESS) => Ok(Connection::Pending(socket)),
                Err(e) => Err(e.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pepita_wire::Hello;
    use rustix::event::{PollFd, Timespec, poll};
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::os::unix::net::{UnixListener, UnixStream};

    /// A monitor's side, and the socket at which its agent listens.
    struct Bench {
        dir: tempfile::TempDir,
        reach: Reach,
        agent: UnixListener,
        address: Address,
    }

    impl Bench {
        fn new(reached: &[&str]) -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("v.sock");
            let agent = UnixListener::bind(&path).expect("a socket");
            let reached: Vec<Reached> = reached.iter().map(|text| text.parse().expect("a place")).collect();
            let mut reach = Reach::new(&reached, dir.path(), Carrier::default());
            reach.note(true);
            Self { dir, reach, agent, address: Address::Hybrid { path, port: 5000 } }
        }

        /// Lets the monitor do what it can until nothing is ready for a moment.
        fn turn(&mut self) {
            loop {
                let now = Instant::now();
                self.reach.tick(now, &self.address);
                let ready: Vec<u64> = {
                    let interest: Vec<_> = self.reach.interest().collect();
                    let mut fds: Vec<PollFd<'_>> =
                        interest.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
                    let moment = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
                    poll(&mut fds, Some(&moment)).expect("polled");
                    let ready = fds.iter().zip(&interest).filter(|(fd, _)| !fd.revents().is_empty());
                    ready.map(|(_, (number, ..))| *number).collect()
                };
                if ready.is_empty() {
                    return;
                }
                let greeting = Greeting { token: "t", incarnation: 7 };
                ready.into_iter().for_each(|number| self.reach.ready(number, now, greeting));
            }
        }

        /// Takes the connection that waits in the agent, after the request.
        fn waiting(&mut self) -> UnixStream {
            self.turn();
            let (stream, _) = self.agent.accept().expect("dialled");
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
            self.turn();
            let mut lines = BufReader::new(stream.try_clone().expect("a copy"));
            let mut line = String::new();
            lines.read_line(&mut line).expect("read");
            assert_eq!(line, "CONNECT 5000\n");
            (&stream).write_all(b"OK 1\n").expect("written");
            self.turn();
            for word in ["\"token\":\"t\"", "\"accept\""] {
                line.clear();
                lines.read_line(&mut line).expect("read");
                assert!(line.contains(word), "{line}");
            }
            say(&stream, &ToHost::Hello(Hello { incarnation: 7, ..Hello::default() }).encode());
            self.turn();
            stream
        }
    }

    fn say(mut stream: &UnixStream, bytes: &[u8]) {
        stream.write_all(bytes).expect("written");
    }

    /// Tells the monitor that a program has dialled `at` and said `hello`.
    fn dialled(stream: &UnixStream, at: &str) {
        let answer = ToHost::Answer { id: ID, outcome: Ok(serde_json::json!({ "at": at })) };
        say(stream, &[answer.encode(), b"\x05\x00hello".to_vec()].concat());
    }

    fn is_closed(mut stream: &UnixStream) -> bool {
        stream.read(&mut [0]).is_ok_and(|read| read == 0)
    }

    #[test]
    fn a_program_is_connected_with_the_target_of_its_place_and_with_no_other() {
        let target = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = target.local_addr().expect("bound").port();
        let mut bench = Bench::new(&["db:5432", &format!("api:443=127.0.0.1:{port}")]);
        std::fs::create_dir(bench.dir.path().join(".reach")).expect("made");
        let db = UnixListener::bind(bench.dir.path().join(".reach/db.5432")).expect("a socket");
        let first = bench.waiting();
        dialled(&first, "db:5432");
        // The next connection waits at once, also while the target takes its time.
        let second = bench.waiting();
        dialled(&second, "api:443");
        let third = bench.waiting();
        let heard = |mut stream: Box<dyn Read>| {
            let mut text = [0; 5];
            stream.read_exact(&mut text).expect("carried");
            assert_eq!(&text, b"hello");
        };
        heard(Box::new(db.accept().expect("connected").0));
        heard(Box::new(target.accept().expect("connected").0));
        for at in ["db:5433", &format!("127.0.0.1:{port}")] {
            let stream = if at == "db:5433" { &third } else { &bench.waiting() };
            dialled(stream, at);
            bench.turn();
            assert!(is_closed(stream), "{at} is in no list");
        }
        db.set_nonblocking(true).expect("set");
        target.set_nonblocking(true).expect("set");
        assert!(db.accept().is_err() && target.accept().is_err());
    }

    #[test]
    fn a_target_that_refuses_resets_its_program_and_one_that_is_busy_lets_it_wait() {
        let mut bench = Bench::new(&["db:5432", "10.0.0.7:80=unix:/nowhere"]);
        let first = bench.waiting();
        dialled(&first, "db:5432");
        bench.turn();
        assert!(is_closed(&first), "nobody listens there");
        let path = bench.dir.path().join(".reach/db.5432");
        std::fs::create_dir(path.parent().expect("a directory")).expect("made");
        let db = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let db = db.expect("a socket");
        rustix::net::bind(&db, &rustix::net::SocketAddrUnix::new(&path).expect("short")).expect("bound");
        rustix::net::listen(&db, 0).expect("listens");
        let mut others = Vec::new();
        while let Ok(other) = connect_unix(&path) {
            others.push(other);
        }
        let second = bench.waiting();
        dialled(&second, "db:5432");
        bench.turn();
        assert_eq!(bench.reach.outgoing.len(), 1);
        let db = UnixListener::from(db);
        others.iter().for_each(|_| drop(db.accept().expect("waits")));
        while !bench.reach.outgoing.is_empty() {
            bench.turn();
        }
        db.accept().expect("connected at last");
    }

    #[test]
    fn nothing_is_dialled_unless_the_daemon_runs_and_no_more_is_taken_than_can_be_connected() {
        let mut bench = Bench::new(&["db:5432"]);
        bench.reach.note(false);
        bench.turn();
        bench.agent.set_nonblocking(true).expect("set");
        assert!(bench.agent.accept().is_err());
        bench.agent.set_nonblocking(false).expect("set");
        bench.reach.note(true);
        let waits = bench.waiting();
        // A guest that is paused keeps the connection.
        bench.reach.note(false);
        bench.turn();
        waits.set_nonblocking(true).expect("set");
        assert!(!is_closed(&waits));
        let (now, to) = (Instant::now(), HostPlace::Unix("/nowhere".into()));
        let at: DialPlace = "db:5432".parse().expect("a place");
        bench.reach.outgoing.extend((1..).take(OUTGOING).map(|number| {
            let agent = UnixStream::pair().expect("a pair").0.into();
            let (at, to, first, socket) = (at.clone(), to.clone(), Vec::new(), None);
            let (again_at, until) = (now + TARGET_DEADLINE, now + TARGET_DEADLINE);
            Outgoing { number, at, to, agent, first, socket, again_at, until }
        }));
        dialled(&waits, "db:5432");
        assert_eq!(bench.reach.interest().count(), 0, "the program has to wait");
        let late = now + TARGET_DEADLINE;
        bench.reach.tick(late, &bench.address);
        assert!(bench.reach.outgoing.is_empty(), "given up");
        assert_eq!(bench.reach.interest().count(), 1);
    }
}
