//! The published ports of a VM: takes clients from listening sockets, and connects each with the daemon in the guest.
//!
//! A client is taken from the queue of its socket only when the daemon has accepted a connection for it. Until then it
//! waits in the kernel's queue, which outlives this process when another process holds the socket, too: the clients of a
//! VM that ends before wait for its next incarnation.
//!
//! ```text
//!  Idle ── a client waits ──► Dialling ── connected ──► Asking ── the daemon has accepted ──► Relay, and Idle
//!   ▲                            │                        │
//!   └── Pausing ◄── not yet ─────┴────────────────────────┘── refused ──► the client is reset
//! ```
//!
//! From the first client on, one more connection to the agent is made and greeted ahead of the next client, of whichever
//! port: that client is spared the way to the agent ([`Spare`]).

use super::carry::Carrier;
use super::dial::{Address, Dial, Progress};
use super::stream::Stream;
use crate::error::eprint_line;
use pepita_ports::Listening;
use pepita_wire::agent::Dial as DialAsk;
use pepita_wire::port::HostPlace;
use pepita_wire::{Ask, ErrorKind, Hello, Lines, PROTOCOL_VERSION, Publish, ToGuest, ToHost};
use rustix::event::PollFlags;
use rustix::net::{SocketFlags, accept_with, sockopt};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The pause before another attempt to reach the agent, and while the agent forwards too many connections.
const PAUSE: Duration = Duration::from_millis(20);
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// The time for which the agent waits for the daemon to listen, in one request.
const WAIT_MS: u64 = 1000;

/// The time after the start of a daemon for which clients wait for it to listen, unless it has said that it is ready.
const GRACE: Duration = Duration::from_secs(30);

/// The number of the spare connection among the numbers of the ports.
const SPARE: u64 = 0;

/// The time limit for the agent's answers.
const ANSWER_DEADLINE: Duration = Duration::from_secs(15);

/// Whether the daemon of a VM can serve clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serving {
    /// It does not run, is being stopped, or cannot be reached.
    No,
    /// It runs and may not listen yet.
    Starting,
    /// It has said that it is ready.
    Ready,
}

/// A token and an incarnation, with which an agent is greeted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Greeting<'a> {
    /// The token in force.
    pub(crate) token: &'a str,
    /// The incarnation of the VM.
    pub(crate) incarnation: u64,
}

impl Greeting<'_> {
    /// Returns the line that opens a connection to the agent for one stream: such a connection takes no place of those
    /// that ask.
    pub(super) fn hello_for_stream(self) -> Vec<u8> {
        let hello = Hello {
            protocol_version: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            incarnation: self.incarnation,
            token: Some(self.token.to_owned()),
            stream: true,
            ..Hello::default()
        };
        ToGuest::Hello(hello).encode()
    }
}

/// The owner of a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// This monitor has opened it, and removes the file of a Unix socket at the end.
    Monitor,
    /// A client has handed a copy over.
    Client,
}

/// The way of the next client to the daemon.
#[derive(Debug)]
enum Way {
    Idle,
    Dialling(Dial),
    Asking { stream: Stream, lines: Lines, id: u64, until: Instant },
    Pausing(Instant),
}

#[derive(Debug)]
struct Port {
    /// A number that no other port of this monitor had before.
    number: u64,
    publish: Publish,
    listening: Listening,
    owner: Owner,
    way: Way,
    /// Whether the daemon has accepted a connection.
    has_served: bool,
}

/// A connection to the agent for the next client.
#[derive(Debug)]
enum Spare {
    Dialling(Dial),
    /// The agent was greeted. Its own hello is all that it says before it is asked.
    Greeted {
        stream: Stream,
        lines: Lines,
        has_answered: bool,
    },
}

/// The meaning of what the agent has said.
enum Said {
    /// Nothing yet.
    Nothing,
    /// The daemon has accepted a connection.
    Accepted,
    /// Nothing listens in the guest.
    Refused,
    /// The agent forwards too many connections.
    Busy,
    /// The agent cannot forward connections at all.
    TooOld,
}

/// The published ports.
#[derive(Debug)]
pub(crate) struct Ports {
    ports: Vec<Port>,
    /// Dials for ports that are published no more. A dial must not be given up before the guest has answered.
    given_up: Vec<(u64, Dial)>,
    spare: Option<Spare>,
    last: u64,
    carrier: Carrier,
    serving: Serving,
    /// The time at which the daemon began to serve.
    since: Option<Instant>,
    is_told: bool,
}

impl Ports {
    /// Returns the ports that this monitor itself has opened.
    pub(crate) fn new(own: Vec<(Publish, Listening)>, carrier: Carrier) -> Self {
        let mut ports = Self {
            ports: Vec::new(),
            given_up: Vec::new(),
            spare: None,
            last: SPARE,
            carrier,
            serving: Serving::No,
            since: None,
            is_told: false,
        };
        own.into_iter().for_each(|(publish, listening)| ports.add(publish, listening, Owner::Monitor));
        ports
    }

    fn add(&mut self, publish: Publish, listening: Listening, owner: Owner) {
        self.last += 1;
        let number = self.last;
        self.ports.push(Port { number, publish, listening, owner, way: Way::Idle, has_served: false });
    }

    /// Replaces the ports that a client has handed over. Connections that are carried go on.
    pub(crate) fn replace(&mut self, handed_over: Vec<(Publish, OwnedFd)>) {
        let all = std::mem::take(&mut self.ports);
        let mut former: Vec<Port>;
        (self.ports, former) = all.into_iter().partition(|port| port.owner == Owner::Monitor);
        for (publish, socket) in handed_over {
            // An accept that waits would stop the monitor.
            if rustix::io::ioctl_fionbio(&socket, true).is_err() {
                continue;
            }
            let listening = Listening { place: publish.host.clone(), socket };
            match former.iter().position(|port| port.publish == publish) {
                // A dial under way goes on, for the clients of the new socket.
                Some(at) => self.ports.push(Port { listening, ..former.swap_remove(at) }),
                None => self.add(publish, listening, Owner::Client),
            }
        }
        self.given_up.extend(former.into_iter().filter_map(|port| match port.way {
            Way::Dialling(dial) => Some((port.number, dial)),
            Way::Idle | Way::Asking { .. } | Way::Pausing(_) => None,
        }));
    }

    /// Returns the ports that a client has handed over, with their sockets.
    pub(crate) fn handed_over(&self) -> Vec<(&Publish, BorrowedFd<'_>)> {
        let ports = self.ports.iter().filter(|port| port.owner == Owner::Client);
        ports.map(|port| (&port.publish, port.listening.socket.as_fd())).collect()
    }

    /// Returns the ports, as they are written.
    pub(crate) fn names(&self) -> Vec<String> {
        self.ports.iter().map(|port| port.publish.to_string()).collect()
    }

    /// Returns whether there is no port.
    pub(crate) fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// Removes the files of the Unix sockets that this monitor has opened.
    pub(crate) fn close(&mut self) {
        for port in self.ports.drain(..).filter(|port| port.owner == Owner::Monitor) {
            port.listening.remove();
        }
    }

    /// Notes whether the daemon can serve clients now.
    pub(crate) fn note(&mut self, now: Instant, serving: Serving) {
        if serving == self.serving {
            return;
        }
        self.serving = serving;
        match serving {
            Serving::No => {
                self.since = None;
                // A dial goes on until the guest has answered.
                if let Some(Spare::Greeted { .. }) = self.spare {
                    self.spare = None;
                }
                for port in &mut self.ports {
                    port.has_served = false;
                    if let Way::Asking { .. } | Way::Pausing(_) = port.way {
                        port.way = Way::Idle;
                    }
                }
            }
            Serving::Starting | Serving::Ready => drop(self.since.get_or_insert(now)),
        }
    }

    /// Returns the dials under way whose sockets must stay open: their numbers and their sockets.
    pub(super) fn dialling(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        let dials = self.ports.iter().filter_map(|port| match &port.way {
            Way::Dialling(dial) => dial.to_keep(),
            Way::Idle | Way::Asking { .. } | Way::Pausing(_) => None,
        });
        let spare = self.spare.iter().filter_map(|spare| match spare {
            Spare::Dialling(dial) => dial.to_keep(),
            Spare::Greeted { .. } => None,
        });
        dials.chain(self.given_up.iter().filter_map(|(_, dial)| dial.to_keep())).chain(spare)
    }

    /// Returns the descriptors to poll, each with the number of its port; `None` for the ends of connections.
    pub(super) fn interest(&self) -> impl Iterator<Item = (Option<u64>, BorrowedFd<'_>, PollFlags)> {
        let takes_clients = self.serving != Serving::No && !self.carrier.is_full();
        let ports = self.ports.iter().filter_map(move |port| {
            let (fd, flags) = match &port.way {
                Way::Idle if takes_clients => (port.listening.socket.as_fd(), PollFlags::IN),
                Way::Idle | Way::Pausing(_) => return None,
                Way::Dialling(dial) => dial.interest(),
                Way::Asking { stream, .. } => (stream.as_fd(), stream.interest()),
            };
            Some((Some(port.number), fd, flags))
        });
        let given_up = self.given_up.iter().map(|(number, dial)| {
            let (fd, flags) = dial.interest();
            (Some(*number), fd, flags)
        });
        let room = self.carrier.room().map(|ended| (None, ended, PollFlags::IN));
        let spare = self.spare.iter().map(|spare| {
            let (fd, flags) = match spare {
                Spare::Dialling(dial) => dial.interest(),
                Spare::Greeted { stream, .. } => (stream.as_fd(), stream.interest()),
            };
            (Some(SPARE), fd, flags)
        });
        ports.chain(given_up).chain(room).chain(spare)
    }

    /// Returns the time at which [`Ports::tick`] has to be called.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let times = self.ports.iter().filter_map(|port| match &port.way {
            Way::Pausing(until) | Way::Asking { until, .. } => Some(*until),
            Way::Idle | Way::Dialling(_) => None,
        });
        times.min()
    }

    /// Ends pauses, and gives up agents that do not answer.
    pub(super) fn tick(&mut self, now: Instant) {
        for port in &mut self.ports {
            if let Way::Pausing(until) | Way::Asking { until, .. } = &port.way
                && now >= *until
            {
                port.way = Way::Idle;
            }
        }
    }

    /// Forgets that connections have ended; there is room again.
    pub(super) fn forget_ended(&self) {
        self.carrier.forget_ended();
    }

    /// Continues with a port whose descriptor is ready.
    pub(super) fn ready(&mut self, number: u64, now: Instant, address: &Address, greeting: Greeting<'_>) {
        if number == SPARE {
            self.spare = self.spare.take().and_then(|spare| self.advanced(spare, greeting));
            return;
        }
        if let Some(at) = self.given_up.iter().position(|(other, _)| *other == number) {
            let (_, dial) = self.given_up.swap_remove(at);
            if let Ok(Progress::Pending(dial)) = dial.advance() {
                self.given_up.push((number, dial));
            }
        }
        let Some(at) = self.ports.iter().position(|port| port.number == number) else { return };
        let port = &mut self.ports[at];
        match std::mem::replace(&mut port.way, Way::Idle) {
            Way::Pausing(until) => port.way = Way::Pausing(until),
            Way::Idle => {
                port.way = match self.spare.take() {
                    Some(Spare::Greeted { stream, lines, .. }) => {
                        asking(stream, lines, &[], &port.publish, self.serving, now)
                    }
                    Some(Spare::Dialling(dial)) => Way::Dialling(dial),
                    None => Dial::begin(address).map_or(Way::Pausing(now + PAUSE), Way::Dialling),
                }
            }
            Way::Dialling(dial) => match dial.advance() {
                Ok(Progress::Pending(dial)) => port.way = Way::Dialling(dial),
                Ok(Progress::Connected(_)) if self.serving == Serving::No => {}
                Ok(Progress::Connected(fd)) => {
                    let (stream, lines, hello) = (Stream::new(fd), Lines::new(), greeting.hello_for_stream());
                    port.way = asking(stream, lines, &hello, &port.publish, self.serving, now);
                }
                Err(_) => port.way = Way::Pausing(now + PAUSE),
            },
            Way::Asking { stream, lines, id, .. } => {
                if self.answered(at, now, stream, lines, id) && self.spare.is_none() {
                    self.spare = Dial::begin(address).ok().map(Spare::Dialling);
                }
            }
        }
    }

    /// Continues with the spare connection, which is ready; `None` when it is good for nothing.
    fn advanced(&self, spare: Spare, greeting: Greeting<'_>) -> Option<Spare> {
        match spare {
            Spare::Dialling(dial) => match dial.advance().ok()? {
                Progress::Pending(dial) => Some(Spare::Dialling(dial)),
                Progress::Connected(_) if self.serving == Serving::No => None,
                Progress::Connected(fd) => {
                    let mut stream = Stream::new(fd);
                    stream.send(&greeting.hello_for_stream()).ok()?;
                    Some(Spare::Greeted { stream, lines: Lines::new(), has_answered: false })
                }
            },
            Spare::Greeted { mut stream, mut lines, mut has_answered } => {
                stream.pump_into(&mut lines).ok()?;
                while let Some(line) = lines.next_line() {
                    match ToHost::decode(line.ok()?).ok()? {
                        ToHost::Hello(_) if !has_answered => has_answered = true,
                        ToHost::Hello(_) | ToHost::Answer { .. } | ToHost::Event { .. } => return None,
                    }
                }
                Some(Spare::Greeted { stream, lines, has_answered })
            }
        }
    }

    /// Reads the agent's answer to `dial`, and acts on it. Returns whether a client was connected.
    fn answered(
        &mut self,
        at: usize,
        now: Instant,
        mut stream: Stream,
        mut lines: Lines,
        mut id: u64,
    ) -> bool {
        let is_patient =
            self.serving == Serving::Starting && self.since.is_some_and(|since| now < since + GRACE);
        let port = &mut self.ports[at];
        let said = stream.pump_into(&mut lines).and_then(|()| heard(&mut lines, id));
        port.way = match said {
            Ok(Said::Nothing) => Way::Asking { stream, lines, id, until: now + ANSWER_DEADLINE },
            Ok(Said::Accepted) => {
                port.has_served = true;
                self.connect(at, stream.into(), &lines.into_rest());
                return true;
            }
            // The daemon has just started. Its client goes on waiting.
            Ok(Said::Refused) if is_patient && !port.has_served => {
                id += 1;
                match stream.send(&ask(id, &port.publish, self.serving)) {
                    Ok(()) => Way::Asking { stream, lines, id, until: now + ANSWER_DEADLINE },
                    Err(_) => Way::Pausing(now + PAUSE),
                }
            }
            Ok(Said::Refused) => {
                reset_client(&port.listening);
                Way::Idle
            }
            Ok(Said::Busy) => Way::Pausing(now + BUSY_PAUSE),
            Ok(Said::TooOld) => {
                reset_client(&port.listening);
                if !std::mem::replace(&mut self.is_told, true) {
                    eprint_line(format_args!(
                        "pepita monitor: the guest agent is too old for published ports; build the image again"
                    ));
                }
                Way::Pausing(now + BUSY_PAUSE)
            }
            Err(_) => Way::Pausing(now + PAUSE),
        };
        false
    }

    /// Takes the client that has waited longest, and connects it with the daemon.
    fn connect(&self, at: usize, agent: OwnedFd, first: &[u8]) {
        // The client may be gone: then the daemon's connection is closed, too.
        let Ok(client) = take_client(&self.ports[at].listening) else { return };
        if let Err(e) = self.carrier.carry(client, agent, first) {
            eprint_line(format_args!("pepita monitor: a connection cannot be carried: {e}"));
        }
    }
}

/// Asks the agent for a connection with the daemon, after the hello if it was not sent before.
fn asking(
    mut stream: Stream,
    lines: Lines,
    hello: &[u8],
    publish: &Publish,
    serving: Serving,
    now: Instant,
) -> Way {
    let id = 1;
    match stream.send(&[hello, &ask(id, publish, serving)].concat()) {
        Ok(()) => Way::Asking { stream, lines, id, until: now + ANSWER_DEADLINE },
        Err(_) => Way::Pausing(now + PAUSE),
    }
}

fn ask(id: u64, publish: &Publish, serving: Serving) -> Vec<u8> {
    let wait_ms = match serving {
        Serving::Starting => WAIT_MS,
        Serving::Ready | Serving::No => 0,
    };
    let (method, params) = Ask::Dial(DialAsk { to: publish.guest.clone(), wait_ms }).into_parts();
    ToGuest::request(id, method, params).encode()
}

/// Reads what the agent has said up to its answer to the request `id`. The bytes after it stay in `lines`.
fn heard(lines: &mut Lines, id: u64) -> io::Result<Said> {
    while let Some(line) = lines.next_line() {
        match ToHost::decode(line.map_err(io::Error::other)?).map_err(io::Error::other)? {
            ToHost::Answer { id: answered, outcome: Ok(_) } if answered == id => return Ok(Said::Accepted),
            ToHost::Answer { outcome: Err(e), .. } => {
                return match e.kind {
                    ErrorKind::NotFound => Ok(Said::Refused),
                    ErrorKind::Busy => Ok(Said::Busy),
                    ErrorKind::Unsupported => Ok(Said::TooOld),
                    ErrorKind::BadRequest
                    | ErrorKind::Unauthorized
                    | ErrorKind::Conflict
                    | ErrorKind::Timeout
                    | ErrorKind::Os
                    | ErrorKind::Other => Err(io::Error::other(e)),
                };
            }
            ToHost::Hello(_) | ToHost::Answer { .. } | ToHost::Event { .. } => {}
        }
    }
    Ok(Said::Nothing)
}

fn take_client(listening: &Listening) -> io::Result<OwnedFd> {
    let client = accept_with(&listening.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    if let HostPlace::Tcp(..) = listening.place {
        sockopt::set_tcp_nodelay(&client, true)?;
    }
    Ok(client)
}

/// Resets the client that has waited longest: the daemon does not listen. The kernel would have refused it.
fn reset_client(listening: &Listening) {
    if let Ok(client) = take_client(listening) {
        let _ = sockopt::set_socket_linger(&client, Some(Duration::ZERO));
    }
}

#[cfg(test)]
mod tests;
