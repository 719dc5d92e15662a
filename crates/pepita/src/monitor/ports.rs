//! The published ports of a VM: takes clients from listening sockets, and connects each with the daemon in the guest.
//!
//! A client is taken from the queue of its socket only when the daemon has accepted a connection for it. Until then it
//! waits in the kernel's queue, which outlives this process when another process holds the socket, too: the clients of a
//! VM that ends before wait for its next incarnation.
//!
//! The daemon is asked for no more connections than clients wait, and for [`AT_ONCE`] at a time at most: a client whose
//! connection takes long holds up no other. Who waits is counted when a client finds nobody served, and after each answer.
//!
//! From the first client on, some connections to the agent are made and greeted ahead of the next clients, of whichever
//! port: those are spared the way to the agent. [`way`] has the steps of one connection.

mod way;

use super::carry::Carrier;
use super::dial::Address;
use crate::error::eprint_line;
use pepita_ports::{Listening, Tally, waiting};
use pepita_wire::Publish;
use pepita_wire::port::HostPlace;
use pepita_wire::record::PortUse;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SocketFlags, accept_with, sockopt};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
pub(crate) use way::{Greeting, Serving};
use way::{Outcome, Way};

/// The most connections for which the daemon is asked at a time, for the clients of one port.
const AT_ONCE: usize = 8;

/// The pause before another attempt to reach the agent, and while the agent forwards too many connections.
const PAUSE: Duration = Duration::from_millis(20);
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// The time after the start of a daemon for which clients wait for it to listen, unless it has said that it is ready.
const GRACE: Duration = Duration::from_secs(30);

/// The time after the last client for which more than one connection to the agent is held ready.
const HELD_READY: Duration = Duration::from_secs(1);

/// The owner of a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// This monitor has opened it, and removes the file of a Unix socket at the end.
    Monitor,
    /// A client has handed a copy over.
    Client,
}

#[derive(Debug)]
struct Port {
    /// A number that no other port and no way of this monitor had before.
    number: u64,
    publish: Publish,
    listening: Listening,
    owner: Owner,
    /// The end of the pause in which nobody is served.
    pause: Option<Instant>,
    /// Whether the daemon has accepted a connection.
    has_served: bool,
    /// The connections that are carried for this port.
    open: Tally,
}

/// The published ports.
#[derive(Debug)]
pub(crate) struct Ports {
    ports: Vec<Port>,
    /// The connections of ports that were removed while they were carried.
    former: Vec<Tally>,
    ways: Vec<Way>,
    /// The last number of a port or a way.
    last: u64,
    carrier: Carrier,
    serving: Serving,
    /// The time at which the daemon began to serve.
    since: Option<Instant>,
    /// The time of the last client.
    last_client: Option<Instant>,
    is_told: bool,
}

impl Ports {
    /// Returns the ports that this monitor itself has opened.
    pub(crate) fn new(own: Vec<(Publish, Listening)>, carrier: Carrier) -> Self {
        let mut ports = Self {
            ports: Vec::new(),
            former: Vec::new(),
            ways: Vec::new(),
            last: 0,
            carrier,
            serving: Serving::No,
            since: None,
            last_client: None,
            is_told: false,
        };
        own.into_iter().for_each(|(publish, listening)| ports.add(publish, listening, Owner::Monitor));
        ports
    }

    fn add(&mut self, publish: Publish, listening: Listening, owner: Owner) {
        self.last += 1;
        let number = self.last;
        let open = Tally::default();
        self.ports.push(Port { number, publish, listening, owner, pause: None, has_served: false, open });
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
                // A way that is begun goes on, for the clients of the new socket.
                Some(at) => self.ports.push(Port { listening, ..former.swap_remove(at) }),
                None => self.add(publish, listening, Owner::Client),
            }
        }
        former.iter().for_each(|port| self.leave(port.number));
        let carried = former.into_iter().map(|port| port.open).filter(|open| open.count() > 0);
        self.former.retain(|open| open.count() > 0);
        self.former.extend(carried);
    }

    /// Gives up the ways for the clients of a port.
    fn leave(&mut self, port: u64) {
        self.ways.retain(|way| way.port != Some(port) || !way.is_connected());
        self.ways.iter_mut().filter(|way| way.port == Some(port)).for_each(|way| way.port = None);
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

    /// Returns the connections of each port, and the clients that wait for one.
    pub(crate) fn in_use(&self) -> Vec<PortUse> {
        let of = |port: &Port| PortUse {
            port: port.publish.to_string(),
            open: u32::try_from(port.open.count()).ok(),
            waiting: waiting(port.listening.socket.as_fd()),
        };
        self.ports.iter().map(of).collect()
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
            // A connection to the agent outlives a pause. What was asked of the agent is asked anew: its answer may come too late.
            Serving::Paused => {
                self.ways.retain(|way| way.port.is_none() || !way.is_connected());
                self.ways.iter_mut().for_each(|way| way.port = None);
                self.ports.iter_mut().for_each(|port| port.pause = None);
            }
            Serving::No => {
                self.since = None;
                self.ways.retain(|way| !way.is_connected());
                self.ways.iter_mut().for_each(|way| way.port = None);
                for port in &mut self.ports {
                    port.has_served = false;
                    port.pause = None;
                }
            }
            Serving::Starting | Serving::Ready => drop(self.since.get_or_insert(now)),
        }
    }

    /// Returns the dials under way whose sockets must stay open: their numbers and their sockets.
    pub(super) fn dialling(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        self.ways.iter().filter_map(Way::to_keep)
    }

    /// Returns the descriptors to poll, each with the number of its port or way; `None` for the ends of connections. The first
    /// client of a VM that is asleep is to be seen, too.
    pub(super) fn interest(
        &self,
        is_asleep: bool,
    ) -> impl Iterator<Item = (Option<u64>, BorrowedFd<'_>, PollFlags)> {
        // The clients that wait while others are being served are counted after each answer.
        let is_idle = |port: &&Port| port.pause.is_none() && self.under_way(port.number) == 0;
        let takes_clients = is_asleep || self.takes_clients();
        let ports = self.ports.iter().filter(move |port| takes_clients && is_idle(port));
        let ports = ports.map(|port| (Some(port.number), port.listening.socket.as_fd(), PollFlags::IN));
        let ways = self.ways.iter().map(|way| {
            let (fd, flags) = way.interest();
            (Some(way.number), fd, flags)
        });
        let room = self.carrier.room().map(|ended| (None, ended, PollFlags::IN));
        ports.chain(ways).chain(room)
    }

    /// Returns whether a connection is carried for a client, or being made for one.
    pub(super) fn are_used(&self) -> bool {
        self.former.iter().chain(self.ports.iter().map(|port| &port.open)).any(|open| open.count() > 0)
            || self.ways.iter().any(|way| way.port.is_some())
    }

    /// Returns whether a client waits at a port.
    pub(super) fn has_waiting(&self) -> bool {
        self.ports.iter().any(|port| clients_at(port.listening.socket.as_fd()) > 0)
    }

    /// Returns a descriptor that is readable when a connection has ended, if there was one.
    pub(super) fn ended(&self) -> Option<BorrowedFd<'_>> {
        self.carrier.ended()
    }

    fn takes_clients(&self) -> bool {
        matches!(self.serving, Serving::Starting | Serving::Ready) && !self.carrier.is_full()
    }

    /// Returns the number of the ways for clients of a port.
    fn under_way(&self, port: u64) -> usize {
        self.ways.iter().filter(|way| way.port == Some(port)).count()
    }

    /// Returns the time at which [`Ports::tick`] has to be called.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let pauses = self.ports.iter().filter_map(|port| port.pause);
        let too_many = self.ready_ways().count() > 1;
        let held_until = self.last_client.filter(|_| too_many).map(|last| last + HELD_READY);
        pauses.chain(self.ways.iter().filter_map(Way::until)).chain(held_until).min()
    }

    /// Ends pauses, and gives up agents that do not answer.
    pub(super) fn tick(&mut self, now: Instant) {
        let is_over = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        self.ways.retain(|way| !is_over(way.until()));
        self.ports.iter_mut().filter(|port| is_over(port.pause)).for_each(|port| port.pause = None);
        if is_over(self.last_client.map(|last| last + HELD_READY)) {
            let stays = self.ready_ways().next();
            self.ways.retain(|way| way.port.is_some() || !way.is_connected() || stays == Some(way.number));
        }
    }

    /// Returns the numbers of the ways that are ready for the next clients.
    fn ready_ways(&self) -> impl Iterator<Item = u64> {
        self.ways.iter().filter(|way| way.port.is_none() && way.is_connected()).map(|way| way.number)
    }

    /// Forgets that connections have ended; there is room again.
    pub(super) fn forget_ended(&self) {
        self.carrier.forget_ended();
    }

    /// Continues with a port or a way whose descriptor is ready.
    pub(super) fn ready(&mut self, number: u64, now: Instant, address: &Address, greeting: Greeting<'_>) {
        if let Some(at) = self.ports.iter().position(|port| port.number == number) {
            return self.serve(at, now, address);
        }
        let Some(way) = self.ways.iter().position(|way| way.number == number) else { return };
        let way = self.ways.swap_remove(way);
        let at = way.port.and_then(|number| self.ports.iter().position(|port| port.number == number));
        let publish = at.map(|at| &self.ports[at].publish);
        let outcome = way.advance(publish, self.serving, greeting, now);
        match at {
            None => self.ways.extend(if let Outcome::Goes(way) = outcome { Some(way) } else { None }),
            Some(at) => {
                if let Outcome::Accepted(..) = outcome {
                    self.last_client = Some(now);
                    self.prepare(address);
                }
                self.conclude(at, outcome, now);
                self.serve(at, now, address);
            }
        }
    }

    /// Begins ways for the clients that wait at a port, as many as may be.
    fn serve(&mut self, at: usize, now: Instant, address: &Address) {
        let port = &self.ports[at];
        let (number, socket) = (port.number, port.listening.socket.as_fd());
        let mut begun = self.under_way(number);
        if !self.takes_clients() || port.pause.is_some() || begun >= AT_ONCE {
            return;
        }
        let clients = clients_at(socket).min(AT_ONCE);
        while begun < clients {
            let way = self.next_way(address).and_then(|mut way| {
                way.port = Some(number);
                way.ask(&self.ports[at].publish, self.serving, now)
            });
            let Some(way) = way else {
                self.ports[at].pause = Some(now + PAUSE);
                return;
            };
            self.ways.push(way);
            begun += 1;
        }
    }

    /// Returns a way for the next client: one that was greeted, one that is begun, or a new one.
    fn next_way(&mut self, address: &Address) -> Option<Way> {
        let is_free = |way: &Way| way.port.is_none();
        let greeted = self.ways.iter().position(|way| is_free(way) && way.is_connected());
        match greeted.or_else(|| self.ways.iter().position(is_free)) {
            Some(at) => Some(self.ways.swap_remove(at)),
            None => self.begin(address),
        }
    }

    fn begin(&mut self, address: &Address) -> Option<Way> {
        self.last += 1;
        Way::begin(self.last, address).ok()
    }

    /// Begins ways ahead of the next clients: as many as clients are being served at the moment, and one at least.
    fn prepare(&mut self, address: &Address) {
        let (busy, free) = self.ways.iter().fold((0, 0), |(busy, free), way| match way.port {
            Some(_) => (busy + 1, free),
            None => (busy, free + 1),
        });
        for _ in free..busy.clamp(1, AT_ONCE) {
            let way = self.begin(address);
            self.ways.extend(way);
        }
    }

    /// Acts on what has become of a way for a client of a port.
    fn conclude(&mut self, at: usize, outcome: Outcome, now: Instant) {
        let is_patient =
            self.serving == Serving::Starting && self.since.is_some_and(|since| now < since + GRACE);
        let port = &mut self.ports[at];
        match outcome {
            Outcome::Goes(way) => self.ways.push(way),
            Outcome::Accepted(agent, first) => {
                port.has_served = true;
                self.connect(at, agent, &first);
            }
            // The daemon has just started. Its client goes on waiting.
            Outcome::Refused(way) if is_patient && !port.has_served => {
                match way.ask(&port.publish, self.serving, now) {
                    Some(way) => self.ways.push(way),
                    None => port.pause = Some(now + PAUSE),
                }
            }
            Outcome::Refused(_) => reset_client(&port.listening),
            Outcome::Busy => port.pause = Some(now + BUSY_PAUSE),
            Outcome::TooOld => {
                reset_client(&port.listening);
                port.pause = Some(now + BUSY_PAUSE);
                if !std::mem::replace(&mut self.is_told, true) {
                    eprint_line(format_args!(
                        "pepita monitor: the guest agent is too old for published ports; build the image again"
                    ));
                }
            }
            Outcome::Lost => port.pause = Some(now + PAUSE),
            Outcome::Unneeded => {}
        }
    }

    /// Takes the client that has waited longest, and connects it with the daemon.
    fn connect(&self, at: usize, agent: OwnedFd, first: &[u8]) {
        // The client may be gone: then the daemon's connection is closed, too.
        let port = &self.ports[at];
        let Ok(client) = take_client(&port.listening) else { return };
        if let Err(e) = self.carrier.carry(client, agent, first, Some(&port.open)) {
            eprint_line(format_args!("pepita monitor: a connection cannot be carried: {e}"));
        }
    }
}

/// Returns the number of clients that wait at a socket; where the kernel does not tell it, 1 when there is any.
fn clients_at(socket: BorrowedFd<'_>) -> usize {
    let is_any = || {
        let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1..))
    };
    waiting(socket).map_or_else(|| usize::from(is_any()), |count| usize::try_from(count).unwrap_or(AT_ONCE))
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
