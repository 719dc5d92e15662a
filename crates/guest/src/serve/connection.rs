//! A conversation with a host: the host's hello, then requests and their answers.

use super::door::Stranger;
use super::follow::{Watcher, logs, watch};
use super::writer::Writer;
use crate::agent::{Agent, Mode};
use crate::mounts::mount_all;
use crate::stream::Stream;
use crate::usage::{free_memory, usage};
use crate::{daemon, exec, exec_stream, forward, preparation, probe};
use pepita_wire::agent::Accepted;
use pepita_wire::frame::Outcome;
use pepita_wire::{Ask, ErrorKind, Hello, Lines, MAX_BAD_LINES, Request, ToGuest, ToHost, WireError};
use rustix::net::sockopt;
use serde_json::{Value, json};
use std::io::{self, ErrorKind as Io, Read};
use std::sync::Arc;
use std::thread::Builder;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The time limit for the whole handshake.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(5);

pub(super) struct Connection {
    agent: Arc<Agent>,
    reader: Stream,
    writer: Writer,
    lines: Lines,
    /// Whether a `watch` runs on this connection.
    watched: bool,
    /// Whether the connection was turned into a forwarded one, which another thread carries.
    is_forwarded: bool,
    /// Whether the client has acknowledged the daemon's end.
    knows_end: bool,
    /// Whether the agent does not end before this client has its answer.
    holds_end: bool,
}

/// The state of a connection after a request.
enum Next {
    /// The conversation in lines continues.
    Lines,
    /// The connection is a raw stream that another thread writes. No further request is read.
    Bulk,
    /// The connection was a raw stream, which has ended. (There was no read during the stream, because each credit
    /// update of the host would have woken the reader.)
    Ended,
}

impl Connection {
    pub(super) fn new(agent: &Arc<Agent>, stream: Stream) -> io::Result<Self> {
        let writer = Writer::new(&stream)?;
        Ok(Self {
            agent: Arc::clone(agent),
            reader: stream,
            writer,
            lines: Lines::new(),
            watched: false,
            is_forwarded: false,
            knows_end: false,
            holds_end: false,
        })
    }

    /// Ends the connection.
    pub(super) fn close(&mut self) {
        self.writer.mark_closed();
        if !self.is_forwarded {
            self.reader.shutdown();
        }
        self.let_end();
        // The thread of a `watch` waits for changes. After this wake-up it notices that its client is gone. The state's lock
        // is taken for it: between the look and the wait of that thread, a wake-up without the lock would be lost. Clients of
        // ports come in great numbers, and no thread waits for them.
        if self.watched || !self.is_forwarded {
            self.agent.change(|_| ());
        }
    }

    /// Serves the client until the client is gone, has turned the connection into a raw stream, or sends bad lines.
    pub(super) fn run(&mut self, stranger: Stranger) -> io::Result<()> {
        let hello = self.hello()?;
        if let Err(e) = self.agent.admit(&hello) {
            return self.writer.send(&ToHost::Answer { id: 0, outcome: Err(e) });
        }
        // A host that is refused here must not take its token for a wrong one, so it gets no answer.
        let Some(_place) = stranger.admit(hello.stream) else { return Ok(()) };
        self.writer.send(&ToHost::Hello(self.agent.hello()))?;
        self.reader.set_read_timeout(None)?;
        let mut bad_lines = 0;
        while let Some(frame) = self.next(None)? {
            match frame {
                Ok(ToGuest::Request(request)) => match self.request(request)? {
                    Next::Lines => {}
                    Next::Bulk => return self.wait_for_hang_up(),
                    Next::Ended => return Ok(()),
                },
                // A second hello changes nothing.
                Ok(ToGuest::Hello(_)) => {}
                Err(why) => {
                    bad_lines += 1;
                    let error = WireError::new(ErrorKind::BadRequest, why);
                    self.writer.send(&ToHost::Answer { id: 0, outcome: Err(error) })?;
                    if bad_lines == MAX_BAD_LINES {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn hello(&mut self) -> io::Result<Hello> {
        match self.next(Some(Instant::now() + HANDSHAKE))? {
            Some(Ok(ToGuest::Hello(hello))) => Ok(hello),
            Some(_) => {
                let error = WireError::new(ErrorKind::Unauthorized, "the first line is not a hello");
                self.writer.send(&ToHost::Answer { id: 0, outcome: Err(error) })?;
                Err(Io::InvalidData.into())
            }
            None => Err(Io::UnexpectedEof.into()),
        }
    }

    /// Reads the next frame, or the reason why a line is not a frame; `None` at the end of the stream.
    fn next(&mut self, deadline: Option<Instant>) -> io::Result<Option<Result<ToGuest, String>>> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(line) = self.lines.next_line() {
                let frame = line.map_err(|e| e.to_string());
                return Ok(Some(frame.and_then(|line| ToGuest::decode(line).map_err(|e| e.to_string()))));
            }
            if let Some(deadline) = deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(Io::TimedOut.into());
                }
                self.reader.set_read_timeout(Some(left))?;
            }
            match self.reader.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(n) => self.lines.push(&buffer[..n]),
                Err(e) if e.kind() == Io::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Answers a request. A slow request is answered by a thread of its own.
    ///
    /// # Errors
    /// When the client is gone, or the system refuses a thread for what the client is sent from now on: the connection is
    /// closed then, so that the client does not wait for it.
    fn request(&mut self, request: Request) -> io::Result<Next> {
        let Request { id, method, params } = request;
        let (agent, writer) = (Arc::clone(&self.agent), self.writer.clone());
        let ask = match Ask::from_parts(&method, params) {
            Ok(ask) => ask,
            Err(e) => return self.answer(id, Err(e)),
        };
        match ask {
            Ask::Ping => self.answer(id, Ok(Value::Null)),
            Ask::Start(start) => {
                self.answer(id, daemon::start(&agent, &start).map(|pid| json!({ "pid": pid })))
            }
            Ask::Prepare(start) => {
                self.answer_later(id, move || preparation::prepare(&agent, &start).map(|()| Value::Null))
            }
            Ask::Stop(stop) => self.carry_out(id, || daemon::stop(&agent, &stop)),
            Ask::Signal(signal) => self.carry_out(id, || daemon::signal(&agent, signal)),
            Ask::Status => self.answer(id, to_value(&agent.status())),
            Ask::SetTime { unix_ms } => self.answer(id, set_time(&agent, unix_ms)),
            Ask::Ack { seq } => {
                self.knows_end |= agent.change(|state| state.acknowledged(seq));
                if self.knows_end {
                    self.let_end();
                }
                self.answer(id, Ok(Value::Null))
            }
            Ask::Mount(mounts) => self.answer(id, mount_all(&agent, &mounts).map(|()| Value::Null)),
            Ask::PowerOff => {
                let answered = self.answer(id, Ok(Value::Null));
                agent.change(|state| state.power_off = true);
                answered
            }
            Ask::Dial(dial) => match forward::connect(&agent, &dial, &self.reader) {
                Ok(plain) => {
                    let carrier = self.writer.raw()?;
                    self.answer(id, Ok(Value::Null))?;
                    self.is_forwarded = true;
                    agent.forwarding.carry(plain, carrier)?;
                    Ok(Next::Ended)
                }
                Err(e) => self.answer(id, Err(e)),
            },
            Ask::Accept if agent.forwarding.is_full() => {
                self.answer(id, Err(WireError::new(ErrorKind::Busy, "too many connections are forwarded")))
            }
            Ask::Accept => match agent.reach.accept(&self.reader) {
                Ok((at, plain)) => {
                    let carrier = self.writer.raw()?;
                    self.answer(id, to_value(&Accepted { at }))?;
                    sockopt::set_socket_linger(&plain, None)?;
                    self.is_forwarded = true;
                    agent.forwarding.carry(plain, carrier)?;
                    Ok(Next::Ended)
                }
                Err(e) => self.answer(id, Err(e)),
            },
            Ask::Watch { .. } if self.watched => {
                self.answer(id, Err(WireError::new(ErrorKind::Conflict, "this connection watches already")))
            }
            Ask::Watch { since } => {
                self.watched = true;
                let newest = agent.lock().seq;
                let answered = self.answer(id, Ok(json!({ "seq": newest })));
                let watcher = Watcher::new(&agent);
                Builder::new().spawn(move || watch(watcher, &writer, since))?;
                answered
            }
            Ask::Exec(ask) if ask.bulk => match exec::check_executable(&agent, &ask) {
                Ok(()) => {
                    let output = self.writer.raw()?;
                    self.answer(id, Ok(json!({ "bulk": true })))?;
                    exec::run_with_output(&agent, &ask, output);
                    Ok(Next::Ended)
                }
                Err(exit) => self.answer(id, Err(WireError::new(ErrorKind::Os, exit.to_string()))),
            },
            Ask::Exec(ask) => self.answer_later(id, move || to_value(&exec::run(&agent, &ask))),
            Ask::Probe(ask) => self.answer_later(id, move || to_value(&probe::run(&ask))),
            Ask::Usage => self.answer_later(id, move || usage(&agent).and_then(|usage| to_value(&usage))),
            Ask::FreeMemory => {
                self.answer_later(id, move || free_memory(&agent).and_then(|free| to_value(&free)))
            }
            Ask::ExecStream(ask) => {
                self.answer(id, Ok(json!({ "stream": true })))?;
                exec_stream::run(&agent, &ask, self.reader.try_clone()?);
                Ok(Next::Ended)
            }
            Ask::Copy(ask) => {
                self.answer(id, Ok(json!({ "stream": true })))?;
                exec_stream::copy(&agent, &ask, self.reader.try_clone()?);
                Ok(Next::Ended)
            }
            Ask::Logs { follow } => {
                self.answer(id, Ok(json!({ "bulk": true })))?;
                Builder::new().spawn(move || logs(&agent, &writer, follow))?;
                Ok(Next::Bulk)
            }
        }
    }

    /// Carries out a request that may end the daemon. The agent does not end before the client has the answer: the client
    /// would take a signal that was delivered for one that was not. A written answer is still lost when the VM ends before
    /// the vsock back-end has passed it on. A client that watches is told of the daemon's end after the answer, so it has
    /// the answer when it acknowledges the end.
    fn carry_out(&mut self, id: u64, work: impl FnOnce() -> Result<(), WireError>) -> io::Result<Next> {
        if !self.holds_end {
            self.holds_end = true;
            self.agent.change(|state| state.answering += 1);
        }
        self.writer.make_and_send(|| ToHost::Answer { id, outcome: work().map(|()| Value::Null) })?;
        if !self.watched || self.knows_end {
            self.let_end();
        }
        Ok(Next::Lines)
    }

    /// Lets the agent end without this client.
    fn let_end(&mut self) {
        if std::mem::take(&mut self.holds_end) {
            self.agent.change(|state| state.answering -= 1);
        }
    }

    fn answer(&self, id: u64, outcome: Outcome) -> io::Result<Next> {
        self.writer.send(&ToHost::Answer { id, outcome })?;
        Ok(Next::Lines)
    }

    /// Answers a request with the outcome of work that takes its time, from a thread of its own.
    fn answer_later(&self, id: u64, work: impl FnOnce() -> Outcome + Send + 'static) -> io::Result<Next> {
        let writer = self.writer.clone();
        match Builder::new().spawn(move || writer.send(&ToHost::Answer { id, outcome: work() })) {
            Ok(_) => Ok(Next::Lines),
            Err(e) => self.answer(id, Err(WireError::new(ErrorKind::Busy, e.to_string()))),
        }
    }

    fn wait_for_hang_up(&mut self) -> io::Result<()> {
        let mut buffer = [0; 512];
        while self.reader.read(&mut buffer)? > 0 {}
        Ok(())
    }
}

fn to_value(value: &impl serde::Serialize) -> Outcome {
    Ok(serde_json::to_value(value).expect("plain structs become JSON"))
}

/// The difference that a guest's clock may have to the host's. The time has been on its way for a while when it arrives, and
/// a daemon had better not see its clock go backwards for that.
const TOLERANCE: Duration = Duration::from_millis(500);

/// Returns whether a clock that was set before is right, or nearly.
fn is_near(unix_ms: u64) -> bool {
    let own = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    own.abs_diff(Duration::from_millis(unix_ms)) < TOLERANCE
}

/// Sets the guest's clock. After the first time a small difference is left as it is.
fn set_time(agent: &Agent, unix_ms: u64) -> Outcome {
    if agent.mode == Mode::Process {
        return Err(WireError::new(ErrorKind::Unsupported, "a plain process has the host's clock"));
    }
    let time = rustix::time::Timespec {
        tv_sec: i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(unix_ms % 1000).unwrap_or(0) * 1_000_000,
    };
    if agent.is_clock_set() && is_near(unix_ms) {
        return Ok(Value::Null);
    }
    rustix::time::clock_settime(rustix::time::ClockId::Realtime, time)
        .map(|()| {
            agent.clock_was_set();
            Value::Null
        })
        .map_err(|e| WireError::new(ErrorKind::Os, e.to_string()))
}
