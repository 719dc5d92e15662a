//! The monitor's line to the guest agent: a loop without blocking around [`AgentConversation`]. Decides nothing about the
//! VM.
//!
//! ```text
//!  Closed ── dial ──► Dialling ── connected ──► Open (greeting, then up)
//!    ▲                   │                        │
//!    └───── redial ──────┴── broken, refused, or no hello in time
//! ```

use super::dial::{Address, Dial, Progress};
use super::stream::Stream;
use pepita_wire::conversation::{AgentConversation, HELLO_DEADLINE, HangUp, News};
use pepita_wire::{Ask, ErrorKind, WireError};
use rustix::event::PollFlags;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

/// Who waits for the answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// The monitor itself, which has ordered the daemon's start.
    Start,
    /// A client of the control socket.
    Client {
        /// The client's number.
        client: u64,
        /// The id of the client's request.
        id: u64,
    },
}

/// What is heard on the line.
#[derive(Debug)]
pub enum Heard {
    /// The agent has said something.
    News(News<Asker>),
    /// The agent has hung up after the hellos; it is dialled again.
    Down,
}

#[derive(Debug)]
enum Line {
    /// Without a time, the agent was not to be dialled yet.
    Closed {
        redial_at: Option<Instant>,
    },
    Dialling(Dial),
    /// Connected. The deadline counts until the agent has said hello.
    Open {
        stream: Stream,
        hello_until: Instant,
    },
}

/// Why a line is closed.
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
    /// In force until the agent has accepted a hello with it.
    boot_token: Option<String>,
    token: String,
    conversation: AgentConversation<Asker>,
    line: Line,
}

impl Agent {
    /// Returns a line that is not dialled yet. Without a boot token the agent has been greeted before.
    pub fn new(address: Address, incarnation: u64, boot_token: Option<String>, token: String) -> Self {
        let conversation = AgentConversation::new(incarnation);
        Self { address, boot_token, token, conversation, line: Line::Closed { redial_at: None } }
    }

    /// Returns the tokens that prove that a note on the console is the agent's.
    pub fn tokens(&self) -> [&str; 2] {
        [self.token.as_str(), self.boot_token.as_deref().unwrap_or_default()]
    }

    /// Returns what to wait for.
    pub fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match &self.line {
            Line::Closed { .. } => None,
            Line::Dialling(dial) => Some(dial.interest()),
            Line::Open { stream, .. } => Some((stream.as_fd(), stream.interest())),
        }
    }

    /// Returns when to call [`Agent::tick`].
    pub fn wake_at(&self) -> Option<Instant> {
        match &self.line {
            Line::Closed { redial_at } => *redial_at,
            Line::Dialling(_) => None,
            Line::Open { hello_until, .. } => (!self.conversation.is_up()).then_some(*hello_until),
        }
    }

    /// Dials, unless that is under way or done. The line goes on trying until it succeeds.
    pub fn dial(&mut self, now: Instant) {
        match &self.line {
            Line::Closed { .. } => match Dial::begin(&self.address) {
                Ok(dial) => self.line = Line::Dialling(dial),
                Err(_) => drop(self.close(now)),
            },
            Line::Dialling(_) | Line::Open { .. } => {}
        }
    }

    /// Dials when that is due, and hangs up on an agent that has not said hello in time.
    pub fn tick(&mut self, now: Instant) {
        if self.wake_at().is_some_and(|at| now >= at) {
            match self.line {
                Line::Closed { .. } | Line::Dialling(_) => self.dial(now),
                // Before the hellos, no request can be left without an answer.
                Line::Open { .. } => drop(self.close(now)),
            }
        }
    }

    /// Asks the agent for `asker`, who gets the answer as [`News::Answer`].
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when the agent is not up, or does not keep up.
    pub fn ask(&mut self, ask: Ask, asker: Asker) -> Result<(), WireError> {
        if !self.has_room() {
            return Err(WireError::new(ErrorKind::Busy, "the guest agent does not read"));
        }
        self.conversation.ask(ask, asker).map_err(|refused| refused.error)?;
        self.send_output();
        Ok(())
    }

    /// Asks the agent for something whose answer does not matter. An agent that does not read is not asked.
    pub fn tell(&mut self, ask: Ask) {
        if self.has_room() {
            self.conversation.tell(ask);
            self.send_output();
        }
    }

    fn has_room(&self) -> bool {
        match &self.line {
            Line::Open { stream, .. } => stream.has_room(),
            // The conversation refuses by itself.
            Line::Closed { .. } | Line::Dialling(_) => true,
        }
    }

    fn send_output(&mut self) {
        if let Line::Open { stream, .. } = &mut self.line {
            // A stream that breaks here is noticed by the next read.
            let _ = stream.send(&self.conversation.take_output());
        }
    }

    /// Takes in what has come.
    pub fn ready(&mut self, now: Instant) -> Vec<Heard> {
        let mut heard = Vec::new();
        if let Err(reason) = self.advance(now, &mut heard) {
            if let Closed::HangUp(HangUp::Refused(_)) = reason {
                // If an earlier hello, whose answer was lost, has replaced the boot token, then that is void.
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
                let Self { conversation, boot_token, .. } = self;
                let ended = stream.pump(|bytes| {
                    conversation.receive(bytes);
                    while let Some(news) = conversation.next_news()? {
                        if let News::Up { .. } = news {
                            *boot_token = None;
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

    /// Closes the line and sets the time of the next dial.
    fn close(&mut self, now: Instant) -> Vec<Heard> {
        let left = self.conversation.disconnected();
        self.line = Line::Closed { redial_at: Some(now + left.redial_after) };
        let hung_up = || Err(WireError::new(ErrorKind::Os, "the agent hung up"));
        let answers =
            left.unanswered.into_iter().map(|tag| Heard::News(News::Answer { tag, outcome: hung_up() }));
        answers.chain(left.was_up.then_some(Heard::Down)).collect()
    }
}
