//! The host's conversation with the guest agent of one VM, over any number of connections.
//!
//! ```text
//!          connected()                hello of the agent
//!   Down ──────────────▶ Greeting ─────────────────────▶ Up
//!    ▲                      │  error answer, another       │  three bad lines
//!    │                      │  incarnation, bad lines      │
//!    │                      ▼                              ▼
//!    └──── disconnected() ◀── HangUp, or the owner found the connection broken
//! ```
//!
//! The conversation trusts no message of the guest: [`Lines`] enforces the cap on a line, [`ToHost::decode`] the cap on
//! its content, [`PENDING_CAP`] limits the number of waiting requests, and bad lines are counted.

use crate::agent::{Ask, GuestEvent};
use crate::error::{ErrorKind, WireError};
use crate::frame::{FrameError, Hello, Outcome, ToGuest, ToHost};
use crate::line::{LineError, Lines};
use crate::protocol::{MAX_BAD_LINES, PENDING_CAP, PROTOCOL_VERSION};
use crate::text::shown;
use std::collections::HashMap;
use std::time::Duration;

/// The time limit for the hello of the other side. The owner of the connection keeps the time.
pub const HELLO_DEADLINE: Duration = Duration::from_secs(5);

/// The delay before the first redial. It doubles with each failure up to [`REDIAL_MAX`].
pub const REDIAL_MIN: Duration = Duration::from_millis(20);

/// The longest delay between two dials. A guest that runs answers at once, and the monitor notices the end of a guest,
/// so a longer delay has no use.
pub const REDIAL_MAX: Duration = Duration::from_secs(2);

/// A message of the agent.
#[derive(Debug, Clone, PartialEq)]
pub enum News<T> {
    /// The hellos are exchanged.
    Up {
        /// The version of the protocol that both sides speak.
        protocol_version: u32,
    },
    /// The answer to a request.
    Answer {
        /// The tag that [`AgentConversation::ask`] got with the request.
        tag: T,
        /// The answer of the agent.
        outcome: Outcome,
    },
    /// An event. Repeated events are left out, except `exited`, which an agent repeats until the event is
    /// acknowledged.
    Event {
        /// The number of the event, for its acknowledgement.
        seq: u64,
        /// The contents of the event.
        event: GuestEvent,
        /// Whether the event is reported for the first time.
        is_new: bool,
    },
}

/// The reason why the connection has to be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HangUp {
    /// The agent did not accept the hello.
    #[error("refused: {0}")]
    Refused(WireError),
    /// The agent belongs to another start of the VM.
    #[error("the agent is of incarnation {theirs}, not {ours}")]
    OtherIncarnation {
        /// The incarnation of the agent.
        theirs: u64,
        /// The incarnation that the host expects.
        ours: u64,
    },
    /// The agent has sent [`MAX_BAD_LINES`] bad lines.
    #[error("{MAX_BAD_LINES} bad lines, the last: {0}")]
    BadLines(String),
}

/// A request that was not sent.
#[derive(Debug)]
pub struct NotAsked<T> {
    /// The tag of the request.
    pub tag: T,
    /// The reason: [`ErrorKind::Busy`].
    pub error: WireError,
}

/// The state that remains of a connection after its end.
#[derive(Debug)]
pub struct Disconnected<T> {
    /// Whether the hellos had been exchanged.
    pub was_up: bool,
    /// The tags of the requests that will get no answer, in the order of the requests.
    pub unanswered: Vec<T>,
    /// The time to wait before the next dial.
    pub redial_after: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Down,
    Greeting,
    Up,
}

/// The state of a conversation. `T` is the type of the tag by which the owner recognises the answer to a request.
#[derive(Debug)]
pub struct AgentConversation<T> {
    incarnation: u64,
    state: State,
    lines: Lines,
    bad_lines: u32,
    last_id: u64,
    pending: HashMap<u64, T>,
    /// The number of the newest reported event over all connections: events are numbered in each boot, not in each
    /// connection.
    newest_event: u64,
    redial_delay: Duration,
    output: Vec<u8>,
}

/// Returns the hello of a host.
fn hello(incarnation: u64, token: String) -> Hello {
    Hello {
        protocol_version: PROTOCOL_VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        incarnation,
        token: Some(token),
        ..Hello::default()
    }
}

impl<T> AgentConversation<T> {
    /// Begins a conversation with the agent of this start of a VM. There is no connection yet.
    pub fn new(incarnation: u64) -> Self {
        Self {
            incarnation,
            state: State::Down,
            lines: Lines::new(),
            bad_lines: 0,
            last_id: 0,
            pending: HashMap::new(),
            newest_event: 0,
            redial_delay: REDIAL_MIN,
            output: Vec::new(),
        }
    }

    /// Begins a new connection with the hello to the agent. `token` must be the token in force; `new_token` replaces
    /// it, which an agent allows once in a boot.
    pub fn connected(&mut self, token: String, new_token: Option<String>) {
        (self.state, self.lines, self.bad_lines) = (State::Greeting, Lines::new(), 0);
        self.output = ToGuest::Hello(Hello { new_token, ..hello(self.incarnation, token) }).encode();
    }

    /// Returns the hello, as a line, of another connection to the same agent, which is for one stream.
    pub fn hello_for_stream(&self, token: String) -> Vec<u8> {
        ToGuest::Hello(Hello { stream: true, ..hello(self.incarnation, token) }).encode()
    }

    /// Ends a connection, or an attempt to make a connection. The state of the connection is dropped.
    pub fn disconnected(&mut self) -> Disconnected<T> {
        let was_up = self.is_up();
        (self.state, self.lines, self.output) = (State::Down, Lines::new(), Vec::new());
        let mut unanswered: Vec<(u64, T)> = self.pending.drain().collect();
        unanswered.sort_unstable_by_key(|(id, _)| *id);
        let redial_after = self.redial_delay;
        self.redial_delay = (redial_after * 2).min(REDIAL_MAX);
        Disconnected {
            was_up,
            unanswered: unanswered.into_iter().map(|(_, tag)| tag).collect(),
            redial_after,
        }
    }

    /// Returns whether the hellos are exchanged and the connection is open.
    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// Removes and returns the bytes to write now.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Sends a request. The answer comes as [`News::Answer`] with `tag`. Returns the id of the request.
    ///
    /// # Errors
    /// When the agent is not up, or [`PENDING_CAP`] requests wait already. The error contains `tag`.
    pub fn ask(&mut self, ask: Ask, tag: T) -> Result<u64, NotAsked<T>> {
        let refused = |tag, why| Err(NotAsked { tag, error: WireError::new(ErrorKind::Busy, why) });
        match self.state {
            State::Down | State::Greeting => refused(tag, "the guest agent is not up"),
            State::Up if self.pending.len() >= PENDING_CAP => {
                refused(tag, "too many requests wait for the guest agent")
            }
            State::Up => {
                self.write(ask);
                self.pending.insert(self.last_id, tag);
                Ok(self.last_id)
            }
        }
    }

    /// Sends a request whose answer does not matter. Returns whether the agent is up.
    pub fn tell(&mut self, ask: Ask) -> bool {
        if self.is_up() {
            self.write(ask);
        }
        self.is_up()
    }

    /// Stops waiting for the answer to a request. Returns its tag, unless the answer has come already.
    pub fn forget(&mut self, id: u64) -> Option<T> {
        self.pending.remove(&id)
    }

    fn write(&mut self, ask: Ask) {
        self.last_id += 1;
        let (method, params) = ask.into_parts();
        self.output.extend(ToGuest::request(self.last_id, method, params).encode());
    }

    /// Adds bytes that were read. Call [`AgentConversation::next_news`] until it returns `None`, then read again.
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.state != State::Down {
            self.lines.push(bytes);
        }
    }

    /// Returns the next message in the received bytes; `None` when more bytes have to be read first.
    ///
    /// # Errors
    /// When the connection has to be closed. The messages before the reason have been returned by then.
    pub fn next_news(&mut self) -> Result<Option<News<T>>, HangUp> {
        while let Some(line) = self.lines.next_line() {
            let frame = line.map_err(BadLine::Line).and_then(|line| Ok(ToHost::decode(line)?));
            let news = match frame {
                Ok(frame) => self.frame(frame)?,
                Err(bad) => self.bad_line(&bad)?,
            };
            if news.is_some() {
                return Ok(news);
            }
        }
        Ok(None)
    }

    fn bad_line(&mut self, bad: &BadLine) -> Result<Option<News<T>>, HangUp> {
        self.bad_lines += 1;
        if self.bad_lines < MAX_BAD_LINES { Ok(None) } else { Err(HangUp::BadLines(shown(&bad.to_string()))) }
    }

    fn frame(&mut self, frame: ToHost) -> Result<Option<News<T>>, HangUp> {
        match (self.state, frame) {
            (State::Greeting, ToHost::Hello(hello)) => self.greeted(&hello).map(Some),
            (State::Greeting, ToHost::Answer { outcome: Err(error), .. }) => Err(HangUp::Refused(error)),
            (State::Up, ToHost::Answer { id, outcome }) => {
                Ok(self.pending.remove(&id).map(|tag| News::Answer { tag, outcome }))
            }
            (State::Up, ToHost::Event { seq, event }) => {
                let is_new = seq > self.newest_event;
                self.newest_event = self.newest_event.max(seq);
                let told = is_new || matches!(event, GuestEvent::Exited(_));
                Ok(told.then_some(News::Event { seq, event, is_new }))
            }
            // Messages before the agent's hello are dropped, and a second hello changes nothing.
            (State::Greeting, ToHost::Answer { outcome: Ok(_), .. } | ToHost::Event { .. })
            | (State::Up, ToHost::Hello(_))
            | (State::Down, ToHost::Hello(_) | ToHost::Answer { .. } | ToHost::Event { .. }) => Ok(None),
        }
    }

    fn greeted(&mut self, hello: &Hello) -> Result<News<T>, HangUp> {
        let (theirs, ours) = (hello.incarnation, self.incarnation);
        if theirs != ours {
            return Err(HangUp::OtherIncarnation { theirs, ours });
        }
        (self.state, self.redial_delay) = (State::Up, REDIAL_MIN);
        self.tell(Ask::Watch { since: self.newest_event });
        Ok(News::Up { protocol_version: hello.protocol_version.min(PROTOCOL_VERSION) })
    }
}

#[derive(Debug, thiserror::Error)]
enum BadLine {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Line(#[from] LineError),
}

#[cfg(test)]
mod tests;
