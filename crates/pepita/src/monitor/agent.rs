//! The monitor's line to the guest agent: non-blocking I/O for an [`AgentConversation`]. Decides nothing about the VM.
//!
//! ```text
//!  Closed ── dial ──► Dialling ── connected ──► Open (greeting, then up)
//!    ▲                   │                        │
//!    └───── redial ──────┴── broken, refused, or no hello in time
//! ```

use super::dial::{Address, Dial, Progress};
use super::ports::Greeting;
use super::stream::Stream;
use pepita_wire::allowance::Allowance;
use pepita_wire::conversation::{AgentConversation, HELLO_DEADLINE, HangUp, News};
use pepita_wire::protocol::{AGENT_BURST, AGENT_RATE};
use pepita_wire::{Ask, ErrorKind, WireError};
use rustix::event::PollFlags;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

/// The originator of a request, which gets the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// The monitor itself, which has ordered the mounts.
    Mount,
    /// The monitor itself, which has ordered the start of the daemon.
    Start,
    /// A client of the control socket.
    Client {
        /// The client's number.
        client: u64,
        /// The id of the client's request.
        id: u64,
        /// Whether the request is a signal for the daemon.
        is_signal: bool,
    },
    /// The monitor itself, which puts the VM to sleep and has asked for the memory that is free.
    FreeMemory,
    /// A client of the control socket that has asked what the guest uses.
    Usage {
        /// The client's number.
        client: u64,
        /// The id of the client's request.
        id: u64,
    },
}

/// The maximum number of questions for what the guest uses that wait for an answer: those of clients that look again and
/// again at a guest that hangs must not keep other requests out.
const USAGES: usize = 8;

/// A message or an event on the line.
#[derive(Debug)]
pub enum Heard {
    /// A message of the agent.
    News(News<Asker>),
    /// The connection has ended before the answer to a request of this originator has come.
    Unanswered(Asker),
    /// The connection has ended after the hellos. The line dials again.
    Down,
}

#[derive(Debug)]
enum Line {
    /// `redial_at` is `None` before the first dial.
    Closed {
        redial_at: Option<Instant>,
    },
    Dialling(Dial),
    /// The connection is made. `hello_until` is the deadline for the agent's hello.
    Open {
        stream: Stream,
        hello_until: Instant,
    },
}

/// The reason why a line is closed.
enum Closed {
    Io,
    HangUp(HangUp),
}

impl From<io::Error> for Closed {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

impl From<HangUp> for Closed {
    fn from(reason: HangUp) -> Self {
        Self::HangUp(reason)
    }
}

/// The line to one VM's guest agent.
#[derive(Debug)]
pub struct Agent {
    address: Address,
    /// The token for the first hello; `None` once the agent has accepted a hello, or has been greeted by a former
    /// monitor.
    boot_token: Option<String>,
    token: String,
    incarnation: u64,
    conversation: AgentConversation<Asker>,
    line: Line,
    /// The bytes of the agent that may be read. A flood of the guest waits in the guest.
    allowance: Allowance,
    /// Whether no dial is begun, because a paused guest answers none.
    is_held: bool,
    /// The number of questions for what the guest uses that wait for an answer.
    usages: usize,
}

impl Agent {
    /// Returns a line that is not dialled yet. `boot_token` is `None` when the agent has accepted a hello before.
    pub fn new(address: Address, incarnation: u64, boot_token: Option<String>, token: String) -> Self {
        let conversation = AgentConversation::new(incarnation);
        let allowance = Allowance::new(AGENT_RATE, AGENT_BURST, Instant::now());
        let line = Line::Closed { redial_at: None };
        Self {
            address,
            boot_token,
            token,
            incarnation,
            conversation,
            line,
            allowance,
            is_held: false,
            usages: 0,
        }
    }

    /// Returns the token and the incarnation for another connection to an agent that is up.
    pub(super) fn greeting(&self) -> Greeting<'_> {
        Greeting { token: &self.token, incarnation: self.incarnation }
    }

    /// Returns the address that the line dials.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Returns the dial under way whose socket must stay open: its number and its socket.
    pub(super) fn dialling(&self) -> Option<(u64, BorrowedFd<'_>)> {
        match &self.line {
            Line::Dialling(dial) => dial.to_keep(),
            Line::Closed { .. } | Line::Open { .. } => None,
        }
    }

    /// Returns the hello, as a line, that opens a connection for one stream.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] as long as the agent has not accepted the hello of this line: the token may be replaced.
    pub(super) fn hello_for_stream(&self) -> Result<Vec<u8>, WireError> {
        if self.boot_token.is_some() {
            return Err(WireError::new(ErrorKind::Busy, "the guest agent does not answer yet"));
        }
        Ok(self.conversation.hello_for_stream(self.token.clone()))
    }

    /// Returns the tokens by which notes of the agent are recognised on the console.
    pub fn tokens(&self) -> [&str; 2] {
        [self.token.as_str(), self.boot_token.as_deref().unwrap_or_default()]
    }

    /// Returns the descriptor to poll and the events to poll for.
    pub fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match &self.line {
            Line::Closed { .. } => None,
            Line::Dialling(dial) => Some(dial.interest()),
            Line::Open { stream, .. } if self.allowance.pause().is_none() => {
                Some((stream.as_fd(), stream.interest()))
            }
            Line::Open { .. } => None,
        }
    }

    /// Returns the time at which [`Agent::tick`] has to be called.
    pub fn wake_at(&self) -> Option<Instant> {
        match &self.line {
            Line::Closed { redial_at } => redial_at.filter(|_| !self.is_held),
            Line::Dialling(_) => None,
            Line::Open { hello_until, .. } => {
                let hello_until = (!self.conversation.is_up()).then_some(*hello_until);
                self.allowance.pause().into_iter().chain(hello_until).min()
            }
        }
    }

    /// Begins no dial until [`Agent::release`]. A dial under way goes on.
    pub(super) fn hold(&mut self) {
        self.is_held = true;
    }

    /// Begins a dial that was due meanwhile at the next [`Agent::tick`].
    pub(super) fn release(&mut self) {
        self.is_held = false;
    }

    /// Dials the agent, unless the line is dialling or open already. The line repeats the dial until it succeeds.
    pub fn dial(&mut self, now: Instant) {
        match &self.line {
            Line::Closed { .. } if self.is_held => self.line = Line::Closed { redial_at: Some(now) },
            Line::Closed { .. } => match Dial::begin(&self.address) {
                Ok(dial) => self.line = Line::Dialling(dial),
                Err(_) => drop(self.close(now)),
            },
            Line::Dialling(_) | Line::Open { .. } => {}
        }
    }

    /// Dials again when the time has come, and closes the connection of an agent that has not said hello in time.
    pub fn tick(&mut self, now: Instant) {
        // The allowance of this moment decides whether the line is polled.
        self.allowance.take(now, 0);
        match self.line {
            Line::Closed { redial_at } if redial_at.is_some_and(|at| now >= at) && !self.is_held => {
                self.dial(now)
            }
            // Before the hellos no request was sent, so no request is left without an answer.
            Line::Open { hello_until, .. } if !self.conversation.is_up() && now >= hello_until => {
                drop(self.close(now));
            }
            Line::Closed { .. } | Line::Dialling(_) | Line::Open { .. } => {}
        }
    }

    /// Sends a request to the agent on behalf of `asker`. The answer comes as [`News::Answer`] with `asker`.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when the agent is not up, does not read its requests, or leaves too many without an answer.
    pub fn ask(&mut self, ask: Ask, asker: Asker) -> Result<(), WireError> {
        if !self.has_room() {
            return Err(WireError::new(ErrorKind::Busy, "the guest agent does not read"));
        }
        let is_usage = matches!(asker, Asker::Usage { .. });
        if is_usage && self.usages >= USAGES {
            return Err(WireError::new(ErrorKind::Busy, "the guest agent does not answer"));
        }
        self.conversation.ask(ask, asker).map_err(|refused| refused.error)?;
        self.usages += usize::from(is_usage);
        self.send_output();
        Ok(())
    }

    /// Sends a request whose answer does not matter. An agent that does not read gets no request.
    pub fn tell(&mut self, ask: Ask) {
        if self.has_room() {
            self.conversation.tell(ask);
            self.send_output();
        }
    }

    fn has_room(&self) -> bool {
        match &self.line {
            Line::Open { stream, .. } => stream.has_room(),
            // The conversation refuses a request without a connection.
            Line::Closed { .. } | Line::Dialling(_) => true,
        }
    }

    fn send_output(&mut self) {
        if let Line::Open { stream, .. } = &mut self.line {
            // When the stream breaks here, the next read reports it.
            let _ = stream.send(&self.conversation.take_output());
        }
    }

    /// Continues when the descriptor is ready, and returns what has come.
    pub fn ready(&mut self, now: Instant) -> Vec<Heard> {
        let mut heard = Vec::new();
        if let Err(reason) = self.advance(now, &mut heard) {
            if let Closed::HangUp(HangUp::Refused(_)) = reason {
                // An earlier hello, whose answer was lost, may have replaced the boot token. The agent refuses the boot
                // token in that case, so the next hello uses the other token.
                self.boot_token = None;
            }
            heard.extend(self.close(now));
        }
        heard
    }

    fn advance(&mut self, now: Instant, heard: &mut Vec<Heard>) -> Result<(), Closed> {
        match std::mem::replace(&mut self.line, Line::Closed { redial_at: None }) {
            Line::Closed { redial_at } => self.line = Line::Closed { redial_at },
            Line::Dialling(dial) => match dial.advance()? {
                Progress::Pending(dial) => self.line = Line::Dialling(dial),
                Progress::Connected(fd) => {
                    let (token, new_token) = match &self.boot_token {
                        Some(boot_token) => (boot_token.clone(), Some(self.token.clone())),
                        None => (self.token.clone(), None),
                    };
                    self.conversation.connected(token, new_token);
                    self.line = Line::Open { stream: Stream::new(fd), hello_until: now + HELLO_DEADLINE };
                    self.send_output();
                }
            },
            Line::Open { mut stream, hello_until } => {
                let Self { conversation, boot_token, allowance, usages, .. } = self;
                let ended = stream.pump(|bytes| {
                    allowance.take(now, bytes.len());
                    conversation.receive(bytes);
                    while let Some(news) = conversation.next_news()? {
                        if let News::Up { .. } = news {
                            *boot_token = None;
                        }
                        if let News::Answer { tag: Asker::Usage { .. }, .. } = news {
                            *usages = usages.saturating_sub(1);
                        }
                        heard.push(Heard::News(news));
                    }
                    Ok::<(), Closed>(())
                });
                self.line = Line::Open { stream, hello_until };
                ended?;
                self.send_output();
            }
        }
        Ok(())
    }

    /// Closes the line and sets the time of the next dial. Returns the requests without an answer.
    pub(super) fn close(&mut self, now: Instant) -> Vec<Heard> {
        let left = self.conversation.disconnected();
        self.usages = 0;
        self.line = Line::Closed { redial_at: Some(now + left.redial_after) };
        let unanswered = left.unanswered.into_iter().map(Heard::Unanswered);
        unanswered.chain(left.was_up.then_some(Heard::Down)).collect()
    }
}
