//! One connection to the agent, step by step from the dial to the daemon's connection.
//!
//! ```text
//!  Dialling ── connected ──► Greeted ── a client waits ──► Asking ── the daemon has accepted ──► Accepted
//!      └────── connected, and a client waits already ────────▲
//! ```

use crate::monitor::dial::{Address, Dial, Progress};
use crate::monitor::stream::Stream;
use pepita_wire::agent::Dial as DialAsk;
use pepita_wire::{Ask, ErrorKind, Hello, Lines, PROTOCOL_VERSION, Publish, ToGuest, ToHost};
use rustix::event::PollFlags;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The time for which the agent waits for the daemon to listen, in one request.
const WAIT_MS: u64 = 1000;

/// The time limit for the agent's answers.
const ANSWER_DEADLINE: Duration = Duration::from_secs(15);

/// Whether the daemon of a VM can serve clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serving {
    /// It does not run, is being stopped, or cannot be reached.
    No,
    /// It could, but its virtual CPUs are paused.
    Paused,
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
    pub(crate) fn hello_for_stream(self) -> Vec<u8> {
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

/// A connection to the agent.
#[derive(Debug)]
pub(super) struct Way {
    /// A number that no other way and no port of this monitor had before.
    pub(super) number: u64,
    /// The number of the port for a client of which it is; `None` = for the next client of any port.
    pub(super) port: Option<u64>,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Dialling(Dial),
    /// The agent was greeted. Its own hello is all that it says before it is asked.
    Greeted {
        stream: Stream,
        lines: Lines,
        has_answered: bool,
    },
    /// The agent was asked for a connection with the daemon, with this number of a request.
    Asking {
        stream: Stream,
        lines: Lines,
        id: u64,
        until: Instant,
    },
}

/// What has become of a way.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is not at its end.
    Goes(Way),
    /// The daemon has accepted a connection, which the stream carries from now on. The bytes were read from it already.
    Accepted(OwnedFd, Vec<u8>),
    /// Nothing listens in the guest. The agent can be asked again.
    Refused(Way),
    /// The agent forwards too many connections.
    Busy,
    /// The agent cannot forward connections at all.
    TooOld,
    /// The agent was not reached, or the connection to it has ended.
    Lost,
    /// The daemon does not serve any more.
    Unneeded,
}

impl Way {
    /// Starts to connect to the agent.
    pub(super) fn begin(number: u64, address: &Address) -> io::Result<Self> {
        Ok(Self { number, port: None, step: Step::Dialling(Dial::begin(address)?) })
    }

    /// Returns whether the dial is over. Before, a way must not be given up: see [`Dial`].
    pub(super) fn is_connected(&self) -> bool {
        !matches!(self.step, Step::Dialling(_))
    }

    /// Returns the dial whose socket must stay open: its number and its socket.
    pub(super) fn to_keep(&self) -> Option<(u64, BorrowedFd<'_>)> {
        match &self.step {
            Step::Dialling(dial) => dial.to_keep(),
            Step::Greeted { .. } | Step::Asking { .. } => None,
        }
    }

    /// Returns the descriptor to poll and the events to poll for.
    pub(super) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        match &self.step {
            Step::Dialling(dial) => dial.interest(),
            Step::Greeted { stream, .. } | Step::Asking { stream, .. } => (stream.as_fd(), stream.interest()),
        }
    }

    /// Returns the time at which the agent has to have answered.
    pub(super) fn until(&self) -> Option<Instant> {
        match &self.step {
            Step::Asking { until, .. } => Some(*until),
            Step::Dialling(_) | Step::Greeted { .. } => None,
        }
    }

    /// Asks the agent for a connection with the daemon at once if it was greeted, and otherwise when it is reached.
    /// Returns `None` when the connection to the agent has ended.
    pub(super) fn ask(self, publish: &Publish, serving: Serving, now: Instant) -> Option<Self> {
        let Self { number, port, step } = self;
        let (mut stream, lines, id) = match step {
            Step::Dialling(_) => return Some(Self { number, port, step }),
            Step::Greeted { stream, lines, .. } => (stream, lines, 1),
            Step::Asking { stream, lines, id, .. } => (stream, lines, id + 1),
        };
        stream.send(&question(id, publish, serving)).ok()?;
        let step = Step::Asking { stream, lines, id, until: now + ANSWER_DEADLINE };
        Some(Self { number, port, step })
    }

    /// Continues when the descriptor is ready. `publish` is the port of its client, if it is for one.
    pub(super) fn advance(
        self,
        publish: Option<&Publish>,
        serving: Serving,
        greeting: Greeting<'_>,
        now: Instant,
    ) -> Outcome {
        let Self { number, port, step } = self;
        let goes = |step| Outcome::Goes(Self { number, port, step });
        match step {
            Step::Dialling(dial) => match dial.advance() {
                Ok(Progress::Pending(dial)) => goes(Step::Dialling(dial)),
                Ok(Progress::Connected(_)) if serving == Serving::No => Outcome::Unneeded,
                Ok(Progress::Connected(fd)) => {
                    let (mut stream, lines, id) = (Stream::new(fd), Lines::new(), 1);
                    let question = publish.map(|publish| question(id, publish, serving));
                    let words = [greeting.hello_for_stream(), question.unwrap_or_default()].concat();
                    match (stream.send(&words), publish) {
                        (Ok(()), Some(_)) => {
                            goes(Step::Asking { stream, lines, id, until: now + ANSWER_DEADLINE })
                        }
                        (Ok(()), None) => goes(Step::Greeted { stream, lines, has_answered: false }),
                        (Err(_), _) => Outcome::Lost,
                    }
                }
                Err(_) => Outcome::Lost,
            },
            Step::Greeted { mut stream, mut lines, has_answered } => {
                match hello_alone(&mut stream, &mut lines, has_answered) {
                    Ok(has_answered) => goes(Step::Greeted { stream, lines, has_answered }),
                    Err(_) => Outcome::Lost,
                }
            }
            Step::Asking { mut stream, mut lines, id, until } => {
                match stream.pump_into(&mut lines).and_then(|()| heard(&mut lines, id)) {
                    Ok(Said::Nothing) => goes(Step::Asking { stream, lines, id, until }),
                    Ok(Said::Accepted) => Outcome::Accepted(stream.into(), lines.into_rest()),
                    Ok(Said::Refused) => {
                        let step = Step::Asking { stream, lines, id, until };
                        Outcome::Refused(Self { number, port, step })
                    }
                    Ok(Said::Busy) => Outcome::Busy,
                    Ok(Said::TooOld) => Outcome::TooOld,
                    Err(_) => Outcome::Lost,
                }
            }
        }
    }
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

fn question(id: u64, publish: &Publish, serving: Serving) -> Vec<u8> {
    let wait_ms = match serving {
        Serving::Starting => WAIT_MS,
        Serving::Ready | Serving::Paused | Serving::No => 0,
    };
    let (method, params) = Ask::Dial(DialAsk { to: publish.guest.clone(), wait_ms }).into_parts();
    ToGuest::request(id, method, params).encode()
}

/// Reads what an agent says that was greeted and not asked. Returns whether it has answered the greeting.
///
/// # Errors
/// At the end of the stream, and when it says more than that.
fn hello_alone(stream: &mut Stream, lines: &mut Lines, mut has_answered: bool) -> io::Result<bool> {
    stream.pump_into(lines)?;
    while let Some(line) = lines.next_line() {
        match ToHost::decode(line.map_err(io::Error::other)?).map_err(io::Error::other)? {
            ToHost::Hello(_) if !has_answered => has_answered = true,
            ToHost::Hello(_) | ToHost::Answer { .. } | ToHost::Event { .. } => {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }
    Ok(has_answered)
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
