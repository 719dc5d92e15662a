//! Listens for hosts and answers them: one thread for each connection, so that no client can hold up another's ping.
//! Decides nothing about the daemon.

use crate::state::{Agent, Daemon, Mode};
use crate::stream::Stream;
use crate::{daemon, exec};
use pepita_wire::frame::Outcome;
use pepita_wire::{
    Ask, ErrorKind, Exit, GuestEvent, Hello, Lines, MAX_BAD_LINES, Request, ToGuest, ToHost, WireError,
};
use serde_json::{Value, json};
use std::io::{self, ErrorKind as Io, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VMADDR_CID_LOCAL, VsockListener};

/// For the whole of a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// A client that does not read for so long is hung up on.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections at once. One too many is closed.
const CONNECTIONS: usize = 16;

/// An `exited` that nobody acknowledged is told again after this.
const REPEAT: Duration = Duration::from_millis(200);

static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Listens on the guest's vsock port; only the host may connect.
///
/// # Errors
/// When the port cannot be had.
pub fn on_vsock(agent: Arc<Agent>) -> io::Result<()> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, agent.boot.port)?;
    std::thread::spawn(move || {
        loop {
            match listener.accept() {
                Ok((stream, peer)) if may_connect(&agent, peer.cid()) => serve(&agent, Stream::Vsock(stream)),
                Ok(_) => {}
                // Out of descriptors, for example: a moment later there may be one.
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    });
    Ok(())
}

fn may_connect(agent: &Agent, cid: u32) -> bool {
    cid == VMADDR_CID_HOST || (cid == VMADDR_CID_LOCAL && agent.boot.loopback)
}

/// Serves a Unix socket that speaks the hybrid protocol: `CONNECT <port>`, then as over vsock.
pub fn on_hybrid(agent: Arc<Agent>, listener: UnixListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let agent = Arc::clone(&agent);
            std::thread::spawn(move || {
                if connect(&agent, &stream).is_ok() {
                    serve(&agent, Stream::Unix(stream));
                }
            });
        }
    });
}

/// The hybrid protocol's first line. Read byte by byte: what comes after it belongs to the conversation.
fn connect(agent: &Agent, mut stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(HANDSHAKE))?;
    let (mut line, mut byte) = (Vec::new(), [0]);
    while line.len() < 32 && line.last() != Some(&b'\n') {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    let port =
        line.strip_prefix(b"CONNECT ").and_then(|rest| std::str::from_utf8(rest).ok()?.trim().parse().ok());
    if port != Some(agent.boot.port) {
        return Err(Io::ConnectionRefused.into());
    }
    stream.write_all(b"OK 1073741824\n")
}

fn serve(agent: &Arc<Agent>, stream: Stream) {
    if OPEN.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
        OPEN.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    let agent = Arc::clone(agent);
    std::thread::spawn(move || {
        if let Ok(mut connection) = Connection::new(&agent, stream) {
            // However it ended: the client is gone or is to go.
            let _ = connection.run();
            connection.close();
        }
        OPEN.fetch_sub(1, Ordering::Relaxed);
    });
}

/// The writing side, shared with the threads that answer later.
#[derive(Clone)]
struct Writer {
    stream: Arc<Mutex<Stream>>,
    closed: Arc<AtomicBool>,
}

impl Writer {
    fn send(&self, frame: &ToHost) -> io::Result<()> {
        self.bytes(&frame.encode())
    }

    fn bytes(&self, bytes: &[u8]) -> io::Result<()> {
        let written = self.stream.lock().unwrap_or_else(PoisonError::into_inner).write_all(bytes);
        if written.is_err() {
            self.closed.store(true, Ordering::Relaxed);
        }
        written
    }

    /// The connection itself, for whoever is to write to it alone; a reader may be as slow as it likes then.
    fn raw(&self) -> io::Result<OwnedFd> {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        stream.set_write_timeout(None)?;
        stream.as_fd().try_clone_to_owned()
    }

    fn shutdown(&self) {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner).shutdown();
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

struct Connection {
    agent: Arc<Agent>,
    reader: Stream,
    writer: Writer,
    lines: Lines,
    watched: bool,
}

/// What a request turns the connection into.
enum Next {
    Lines,
    /// It is a raw stream from now on, carried by another thread; no request is read any more.
    Bulk,
    /// It was a raw stream, and that is over. (Nobody read meanwhile: a reader would be woken by each of the host's credits.)
    Nothing,
}

impl Connection {
    fn new(agent: &Arc<Agent>, stream: Stream) -> io::Result<Self> {
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let writer = Writer { stream: Arc::new(Mutex::new(stream.try_clone()?)), closed: Arc::default() };
        Ok(Self { agent: Arc::clone(agent), reader: stream, writer, lines: Lines::new(), watched: false })
    }

    fn close(&self) {
        self.writer.closed.store(true, Ordering::Relaxed);
        self.reader.shutdown();
        // A watching thread waits for changes and looks whether it is still wanted.
        self.agent.change(|_| ());
    }

    fn run(&mut self) -> io::Result<()> {
        let hello = self.hello()?;
        if let Err(e) = self.agent.admit(&hello) {
            return self.writer.send(&ToHost::Answer { id: 0, outcome: Err(e) });
        }
        self.writer.send(&ToHost::Hello(self.agent.hello()))?;
        self.reader.set_read_timeout(None)?;
        let mut bad_lines = 0;
        while let Some(frame) = self.next(None)? {
            match frame {
                Ok(ToGuest::Request(request)) => match self.request(request)? {
                    Next::Lines => {}
                    Next::Bulk => return self.wait_for_hang_up(),
                    Next::Nothing => return Ok(()),
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

    /// The next frame, or why a line is none; `None` at the end.
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

    /// Answers a request. What takes time is answered by a thread of its own.
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
            Ask::Stop(stop) => self.answer(id, daemon::stop(&agent, &stop).map(|()| Value::Null)),
            Ask::Signal(signal) => self.answer(id, daemon::signal(&agent, signal).map(|()| Value::Null)),
            Ask::Status => self.answer(id, to_value(&agent.status())),
            Ask::SetTime { unix_ms } => self.answer(id, set_time(&agent, unix_ms)),
            Ask::Ack { seq } => {
                agent.change(|state| state.acked = state.acked.max(seq));
                self.answer(id, Ok(Value::Null))
            }
            Ask::PowerOff => {
                let answered = self.answer(id, Ok(Value::Null));
                agent.change(|state| state.power_off = true);
                answered
            }
            Ask::Watch { .. } if self.watched => {
                self.answer(id, Err(WireError::new(ErrorKind::Conflict, "this connection watches already")))
            }
            Ask::Watch { since } => {
                self.watched = true;
                let newest = agent.lock().seq;
                let answered = self.answer(id, Ok(json!({ "seq": newest })));
                std::thread::spawn(move || watch(&agent, &writer, since));
                answered
            }
            Ask::Exec(ask) if ask.bulk => match exec::look(&ask) {
                Ok(()) => {
                    let output = self.writer.raw()?;
                    self.answer(id, Ok(json!({ "bulk": true })))?;
                    exec::run_onto(&agent, &ask, output);
                    Ok(Next::Nothing)
                }
                Err(exit) => self.answer(id, Err(WireError::new(ErrorKind::Os, exit.to_string()))),
            },
            Ask::Exec(ask) => {
                std::thread::spawn(move || {
                    writer.send(&ToHost::Answer { id, outcome: to_value(&exec::run(&agent, &ask)) })
                });
                Ok(Next::Lines)
            }
            Ask::Logs { follow } => {
                self.answer(id, Ok(json!({ "bulk": true })))?;
                std::thread::spawn(move || logs(&agent, &writer, follow));
                Ok(Next::Bulk)
            }
        }
    }

    fn answer(&self, id: u64, outcome: Outcome) -> io::Result<Next> {
        self.writer.send(&ToHost::Answer { id, outcome })?;
        Ok(Next::Lines)
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

/// Tells events until the client is gone; `exited` again and again until someone has acknowledged it.
fn watch(agent: &Agent, writer: &Writer, since: u64) {
    let mut seen = since;
    loop {
        let mut state = agent.lock();
        let events = loop {
            let unacknowledged = match &state.daemon {
                Daemon::Exited { seq, .. } => state.acked < *seq,
                Daemon::Held | Daemon::Running { .. } => false,
            };
            let events = state.events_since(seen);
            if writer.is_closed() {
                return;
            }
            if !events.is_empty() {
                break events;
            }
            state = agent.wait(state, unacknowledged.then_some(REPEAT));
            if let (Daemon::Exited { exit, seq, .. }, true) = (&state.daemon, unacknowledged)
                && state.acked < *seq
            {
                break vec![(*seq, GuestEvent::Exited(Exit::clone(exit)))];
            }
        };
        drop(state);
        for (seq, event) in events {
            seen = seen.max(seq);
            if writer.send(&ToHost::Event { seq, event }).is_err() {
                return;
            }
        }
    }
}

fn logs(agent: &Agent, writer: &Writer, follow: bool) {
    let mut from = 0;
    loop {
        let mut state = agent.lock();
        let (bytes, to) = loop {
            let (bytes, to) = state.tail.since(from);
            let more = follow && !matches!(state.daemon, Daemon::Exited { .. });
            if !bytes.is_empty() || !more || writer.is_closed() {
                break (bytes, to);
            }
            state = agent.wait(state, None);
        };
        drop(state);
        from = to;
        if bytes.is_empty() || writer.bytes(&bytes).is_err() {
            break;
        }
    }
    writer.shutdown();
}

fn set_time(agent: &Agent, unix_ms: u64) -> Outcome {
    if agent.mode == Mode::Process {
        return Err(WireError::new(ErrorKind::Unsupported, "a plain process has the host's clock"));
    }
    let time = rustix::time::Timespec {
        tv_sec: i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(unix_ms % 1000).unwrap_or(0) * 1_000_000,
    };
    rustix::time::clock_settime(rustix::time::ClockId::Realtime, time)
        .map(|()| Value::Null)
        .map_err(|e| WireError::new(ErrorKind::Os, e.to_string()))
}
