//! Connects to the guest agent on behalf of clients, and hands the connections over to them.
//!
//! A dial is never given up before the guest has answered, because vhost-device-vsock does not survive that. A dial
//! whose client has gone serves the next client that asks.
//!
//! For a client that wants a stream the hello is said here, as soon as the connection is made. Many clients that come at
//! the same time are then never more strangers at once than the agent bears.

use super::dial::{Address, Dial, Progress};
use super::stream::read;
use pepita_wire::conversation::HELLO_DEADLINE;
use pepita_wire::{ErrorKind, ToHost, WireError};
use rustix::event::PollFlags;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

/// The maximum number of clients that wait for a connection without a hello.
const WAITING: usize = 16;

/// The maximum number of clients that wait for a connection with a hello.
const STREAMS_WAITING: usize = 128;

/// The maximum number of connections that are made for streams at the same time.
const AT_ONCE: usize = 8;

/// The longest hello of an agent, in bytes.
const HELLO_CAP: usize = 4096;

/// A request of a client for a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    /// The client's number.
    pub(super) client: u64,
    /// The id of the client's request.
    pub(super) id: u64,
    /// The hello that is said first, as a line; `None` when the client says it.
    pub(super) hello: Option<Vec<u8>>,
}

/// What a client gets: a connection and the answer that comes with it, or a refusal.
#[derive(Debug)]
pub(super) struct HandedOver {
    pub(super) client: u64,
    pub(super) id: u64,
    pub(super) outcome: Result<(OwnedFd, Value), WireError>,
}

/// A connection on which the hello was said. The answer is read byte by byte, because the bytes after it are the client's.
#[derive(Debug)]
struct Greeting {
    asked: Asked,
    fd: OwnedFd,
    answer: Vec<u8>,
    until: Instant,
}

/// The dials and greetings under way, and the clients that wait for a dial, the oldest first.
#[derive(Debug)]
pub(super) struct Handover {
    address: Address,
    dials: BTreeMap<u64, Dial>,
    greetings: BTreeMap<u64, Greeting>,
    waiting: VecDeque<Asked>,
    last: u64,
    /// Whether no dial is begun, because a paused guest answers none.
    is_held: bool,
}

impl Handover {
    /// Returns a handover of connections to `address`; no client waits yet.
    pub(super) fn new(address: Address) -> Self {
        let (dials, greetings, waiting) = (BTreeMap::new(), BTreeMap::new(), VecDeque::new());
        Self { address, dials, greetings, waiting, last: 0, is_held: false }
    }

    /// Lets a client wait for a connection. `is_connected` tells which clients are still there.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when too many clients wait already; [`ErrorKind::Os`] when no connection can be begun.
    pub(super) fn ask(&mut self, asked: Asked, is_connected: impl Fn(u64) -> bool) -> Result<(), WireError> {
        self.waiting.retain(|other| is_connected(other.client));
        let is_stream = asked.hello.is_some();
        let cap = if is_stream { STREAMS_WAITING } else { WAITING };
        if self.waiting.iter().filter(|other| other.hello.is_some() == is_stream).count() >= cap {
            return Err(WireError::new(ErrorKind::Busy, "too many clients wait for the guest agent"));
        }
        self.waiting.push_back(asked);
        self.dial().inspect_err(|_| drop(self.waiting.pop_back()))
    }

    /// Begins the dials for those who wait.
    fn dial(&mut self) -> Result<(), WireError> {
        while !self.is_held
            && self.dials.len() < self.waiting.len()
            && (self.dials.len() + self.greetings.len() < AT_ONCE
                || self.dials.len() < self.waiting.iter().filter(|asked| asked.hello.is_none()).count())
        {
            let dial =
                Dial::begin(&self.address).map_err(|e| WireError::new(ErrorKind::Os, e.to_string()))?;
            self.last += 1;
            self.dials.insert(self.last, dial);
        }
        Ok(())
    }

    /// Begins no dial until [`Handover::release`]. Dials under way go on.
    pub(super) fn hold(&mut self) {
        self.is_held = true;
    }

    /// Begins the dials of the clients that have asked meanwhile and are still there. Returns what clients are to be told
    /// whose dial cannot be begun.
    pub(super) fn release(&mut self, is_connected: impl Fn(u64) -> bool) -> Vec<HandedOver> {
        self.is_held = false;
        self.waiting.retain(|asked| is_connected(asked.client));
        let mut told = Vec::new();
        self.next_dials(is_connected, &mut told);
        told
    }

    /// Returns the descriptors to poll, each with the number of its connection.
    pub(super) fn interest(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>, PollFlags)> {
        let dials = self.dials.iter().map(|(number, dial)| {
            let (fd, flags) = dial.interest();
            (*number, fd, flags)
        });
        let greetings = self.greetings.iter().map(|(number, it)| (*number, it.fd.as_fd(), PollFlags::IN));
        dials.chain(greetings)
    }

    /// Returns the dials whose sockets must stay open: their numbers and their sockets.
    pub(super) fn dialling(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        self.dials.values().filter_map(Dial::to_keep)
    }

    /// Returns the time at which [`Handover::tick`] has to be called.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.greetings.values().map(|greeting| greeting.until).min()
    }

    /// Gives up the agents that have not answered a hello in time.
    pub(super) fn tick(&mut self, now: Instant, is_connected: impl Fn(u64) -> bool) -> Vec<HandedOver> {
        let late: Vec<u64> =
            self.greetings.iter().filter(|(_, it)| now >= it.until).map(|(number, _)| *number).collect();
        let late = late.into_iter().filter_map(|number| self.greetings.remove(&number));
        let why = || WireError::new(ErrorKind::Timeout, "the guest agent does not answer the hello");
        let mut told: Vec<HandedOver> = late.map(|it| refused(&it.asked, why())).collect();
        if !told.is_empty() {
            self.next_dials(&is_connected, &mut told);
        }
        told
    }

    /// Continues a connection whose descriptor is ready. Returns what clients are to be told.
    pub(super) fn ready(&mut self, number: u64, is_connected: impl Fn(u64) -> bool) -> Vec<HandedOver> {
        let mut told = Vec::new();
        if let Some(greeting) = self.greetings.remove(&number) {
            match greeting.advance() {
                Ok(greeting) => drop(self.greetings.insert(number, greeting)),
                Err(outcome) => told.push(outcome),
            }
        } else if let Some(dial) = self.dials.remove(&number) {
            match dial.advance() {
                Ok(Progress::Pending(dial)) => drop(self.dials.insert(number, dial)),
                Ok(Progress::Connected(fd)) => told.extend(self.connected(number, fd, &is_connected)),
                Err(_) => {
                    let why = WireError::new(ErrorKind::Busy, "the guest agent does not listen yet");
                    told.extend(self.next_client(&is_connected).map(|asked| refused(&asked, why)));
                }
            }
        }
        self.next_dials(&is_connected, &mut told);
        told
    }

    /// Gives a new connection to the client that has waited longest and is still there; without one it is closed.
    fn connected(
        &mut self,
        number: u64,
        fd: OwnedFd,
        is_connected: impl Fn(u64) -> bool,
    ) -> Option<HandedOver> {
        let asked = self.next_client(is_connected)?;
        let Some(hello) = &asked.hello else {
            let Asked { client, id, .. } = asked;
            return Some(HandedOver { client, id, outcome: Ok((fd, Value::Null)) });
        };
        // The buffer of a new connection is empty, and a hello is short.
        match rustix::io::write(&fd, hello) {
            Ok(written) if written == hello.len() => {
                let until = Instant::now() + HELLO_DEADLINE;
                self.greetings.insert(number, Greeting { asked, fd, answer: Vec::new(), until });
                None
            }
            Ok(_) | Err(_) => Some(refused(&asked, gone())),
        }
    }

    /// Takes the client that has waited longest; with as many greetings under way as there may be, the one that says its
    /// own hello: a guest that answers no hello holds up streams alone.
    fn next_client(&mut self, is_connected: impl Fn(u64) -> bool) -> Option<Asked> {
        self.waiting.retain(|asked| is_connected(asked.client));
        let may_greet = self.greetings.len() < AT_ONCE;
        let at = self.waiting.iter().position(|asked| may_greet || asked.hello.is_none())?;
        self.waiting.remove(at)
    }

    fn next_dials(&mut self, is_connected: impl Fn(u64) -> bool, told: &mut Vec<HandedOver>) {
        while let Err(refusal) = self.dial() {
            match self.next_client(&is_connected) {
                Some(asked) => told.push(refused(&asked, refusal)),
                None => return,
            }
        }
    }
}

impl Greeting {
    /// Reads what there is of the agent's answer. Returns what the client is to be told when it is complete.
    fn advance(mut self) -> Result<Self, HandedOver> {
        let mut byte = [0];
        while self.answer.last() != Some(&b'\n') {
            match read(&self.fd, &mut byte) {
                Ok(None) => return Ok(self),
                Ok(Some(1)) if self.answer.len() < HELLO_CAP => self.answer.push(byte[0]),
                // An agent that has too many connections closes one more without an answer.
                Ok(Some(0)) => {
                    let why = WireError::new(ErrorKind::Busy, "the guest agent takes no more streams");
                    return Err(refused(&self.asked, why));
                }
                Ok(Some(_)) | Err(_) => return Err(refused(&self.asked, gone())),
            }
        }
        let Self { asked: Asked { client, id, .. }, fd, answer, .. } = self;
        let outcome = match ToHost::decode(&answer[..answer.len() - 1]) {
            Ok(ToHost::Hello(hello)) => Ok((fd, json!({ "hello": hello }))),
            Ok(ToHost::Answer { outcome: Err(refusal), .. }) => Err(refusal),
            Ok(ToHost::Answer { .. } | ToHost::Event { .. }) | Err(_) => Err(gone()),
        };
        Err(HandedOver { client, id, outcome })
    }
}

fn refused(asked: &Asked, why: WireError) -> HandedOver {
    HandedOver { client: asked.client, id: asked.id, outcome: Err(why) }
}

fn gone() -> WireError {
    WireError::new(ErrorKind::Os, "the guest agent has closed the connection")
}
