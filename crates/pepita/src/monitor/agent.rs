//! The monitor's conversation with the guest agent: dials over either transport, greets, asks, hears; never blocks.
//! Decides nothing about the VM.

use super::conn::{Conn, read, unix};
use pepita_wire::frame::Outcome;
use pepita_wire::{Ask, GENERATION, GuestEvent, Hello, MAX_BAD_LINES, ToGuest, ToHost};
use rustix::event::PollFlags;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Before the first redial; doubles up to [`REDIAL_MAX`].
const REDIAL_MIN: Duration = Duration::from_millis(20);
const REDIAL_MAX: Duration = Duration::from_secs(2);

/// For the agent's hello.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);

/// Requests that may wait for their answer at once.
const PENDING_CAP: usize = 256;

/// Where the agent listens.
#[derive(Debug, Clone)]
pub enum Address {
    /// Behind a Unix socket that wants `CONNECT <port>` first.
    Hybrid {
        /// The socket.
        path: PathBuf,
        /// The agent's port.
        port: u32,
    },
    /// On the kernel's AF_VSOCK.
    Vhost {
        /// The guest.
        cid: u32,
        /// The agent's port.
        port: u32,
    },
}

/// Whose request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// The monitor's, and the answer does not matter.
    Nobody,
    /// The monitor's order to start the daemon.
    Start,
    /// A client's: its number and its request's id.
    Client(u64, u64),
}

/// What is heard.
#[derive(Debug)]
pub enum Heard {
    /// The hellos are exchanged.
    Up(u32),
    /// The conversation is over; it is dialled again.
    Down,
    /// News.
    Said(u64, GuestEvent),
    /// An answer.
    Answered(Asker, Outcome),
}

#[derive(Debug)]
enum State {
    /// Nobody wants to talk yet, or the next try is due later.
    Idle,
    /// AF_VSOCK's connect is under way.
    Connecting(OwnedFd),
    /// `CONNECT` is written; `OK` is read byte by byte, because what follows is the conversation.
    Asked(OwnedFd, Vec<u8>),
    /// Our hello is written.
    Greeting(Conn),
    /// The agent has said hello.
    Talking(Conn),
}

/// The conversation.
#[derive(Debug)]
pub struct Agent {
    address: Address,
    incarnation: u64,
    /// Good for the first hello after boot only.
    boot_token: Option<String>,
    token: String,
    state: State,
    redial: Duration,
    dial_at: Option<Instant>,
    bad_lines: u32,
    next_id: u64,
    pending: HashMap<u64, Asker>,
    seen: u64,
}

impl Agent {
    /// Not dialled yet. Without a boot token the VM has been greeted before.
    pub fn new(address: Address, incarnation: u64, boot_token: Option<String>, token: String) -> Self {
        Self {
            address,
            incarnation,
            boot_token,
            token,
            state: State::Idle,
            redial: REDIAL_MIN,
            dial_at: None,
            bad_lines: 0,
            next_id: 0,
            pending: HashMap::new(),
            seen: 0,
        }
    }

    /// The tokens by which the agent's notes on the console are known.
    pub fn tokens(&self) -> [&str; 2] {
        [self.token.as_str(), self.boot_token.as_deref().unwrap_or_default()]
    }

    /// The hellos are exchanged and nobody has hung up.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Talking(_))
    }

    /// What to wait for.
    pub fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match &self.state {
            State::Idle => None,
            State::Connecting(fd) => Some((fd.as_fd(), PollFlags::OUT)),
            State::Asked(fd, _) => Some((fd.as_fd(), PollFlags::IN)),
            State::Greeting(conn) | State::Talking(conn) => Some((conn.as_fd(), conn.interest())),
        }
    }

    /// When to dial again.
    pub fn wake_at(&self) -> Option<Instant> {
        self.dial_at
    }

    /// Dials, unless that is under way or done. Goes on trying until it succeeds.
    pub fn dial(&mut self, now: Instant) {
        if !matches!(self.state, State::Idle) {
            return;
        }
        self.dial_at = None;
        let connecting = match &self.address {
            Address::Hybrid { path, port } => unix(path).and_then(|fd| {
                // A fresh socket's buffer takes a line.
                rustix::io::write(&fd, format!("CONNECT {port}\n").as_bytes())?;
                Ok(State::Asked(fd, Vec::new()))
            }),
            Address::Vhost { cid, port } => vsock(*cid, *port).map(State::Connecting),
        };
        match connecting {
            Ok(state) => self.state = state,
            Err(_) => self.later(now),
        }
    }

    /// Dials if that is due; hangs up on an agent that does not say hello.
    pub fn tick(&mut self, now: Instant) {
        if self.dial_at.is_some_and(|at| now >= at) {
            match self.state {
                State::Greeting(_) => self.later(now),
                _ => self.dial(now),
            }
        }
    }

    fn later(&mut self, now: Instant) {
        self.state = State::Idle;
        self.dial_at = Some(now + self.redial);
        self.redial = (self.redial * 2).min(REDIAL_MAX);
    }

    /// Asks the agent. `false` when it cannot be asked now.
    pub fn ask(&mut self, ask: Ask, asker: Asker) -> bool {
        let (method, params) = ask.into_parts();
        self.request(method, params, asker)
    }

    fn request(&mut self, method: &str, params: serde_json::Value, asker: Asker) -> bool {
        let State::Talking(conn) = &mut self.state else { return false };
        if self.pending.len() >= PENDING_CAP {
            return false;
        }
        self.next_id += 1;
        // A connection that breaks here is noticed by the next read.
        let sent = conn.send(&ToGuest::request(self.next_id, method, params).encode()).is_ok();
        if sent && asker != Asker::Nobody {
            self.pending.insert(self.next_id, asker);
        }
        sent
    }

    /// Takes in what has come.
    pub fn ready(&mut self, now: Instant) -> Vec<Heard> {
        let mut heard = Vec::new();
        if self.advance(now, &mut heard).is_err() {
            let was_up = self.is_up();
            self.later(now);
            for (_, asker) in self.pending.drain() {
                let why = pepita_wire::WireError::new(pepita_wire::ErrorKind::Os, "the agent hung up");
                heard.push(Heard::Answered(asker, Err(why)));
            }
            if was_up {
                heard.push(Heard::Down);
            }
        }
        heard
    }

    fn advance(&mut self, now: Instant, heard: &mut Vec<Heard>) -> io::Result<()> {
        match &mut self.state {
            State::Idle => Ok(()),
            State::Connecting(fd) => {
                rustix::net::sockopt::socket_error(&*fd)??;
                let State::Connecting(fd) = std::mem::replace(&mut self.state, State::Idle) else {
                    return Ok(());
                };
                self.greet(now, fd)
            }
            State::Asked(fd, line) => {
                let mut byte = [0];
                loop {
                    match read(&*fd, &mut byte)? {
                        None => return Ok(()),
                        // Nobody listens in the guest yet.
                        Some(0) => return Err(io::ErrorKind::ConnectionRefused.into()),
                        Some(_) => line.push(byte[0]),
                    }
                    if byte == *b"\n" || line.len() >= 32 {
                        break;
                    }
                }
                if !(line.starts_with(b"OK ") && line.ends_with(b"\n")) {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                let State::Asked(fd, _) = std::mem::replace(&mut self.state, State::Idle) else {
                    return Ok(());
                };
                self.greet(now, fd)
            }
            State::Greeting(conn) | State::Talking(conn) => {
                conn.flush()?;
                let ended = conn.read();
                // What came before the end still counts.
                self.take_in(heard)?;
                ended
            }
        }
    }

    fn greet(&mut self, now: Instant, fd: OwnedFd) -> io::Result<()> {
        let hello = Hello {
            generation: GENERATION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            incarnation: self.incarnation,
            token: Some(self.boot_token.clone().unwrap_or_else(|| self.token.clone())),
            new_token: self.boot_token.is_some().then(|| self.token.clone()),
            ..Hello::default()
        };
        let mut conn = Conn::new(fd);
        conn.send(&ToGuest::Hello(hello).encode())?;
        self.state = State::Greeting(conn);
        self.dial_at = Some(now + HELLO_DEADLINE);
        Ok(())
    }

    fn take_in(&mut self, heard: &mut Vec<Heard>) -> io::Result<()> {
        loop {
            let (State::Greeting(conn) | State::Talking(conn)) = &mut self.state else { return Ok(()) };
            let Some(line) = conn.lines.next_line() else { return Ok(()) };
            match line.ok().and_then(|line| ToHost::decode(line).ok()) {
                Some(frame) => self.frame(frame, heard)?,
                None => {
                    self.bad_lines += 1;
                    if self.bad_lines >= MAX_BAD_LINES {
                        self.bad_lines = 0;
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                }
            }
        }
    }

    fn frame(&mut self, frame: ToHost, heard: &mut Vec<Heard>) -> io::Result<()> {
        let greeting = matches!(self.state, State::Greeting(_));
        match frame {
            ToHost::Hello(hello) if greeting => {
                if hello.incarnation != self.incarnation {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                let State::Greeting(conn) = std::mem::replace(&mut self.state, State::Idle) else {
                    return Ok(());
                };
                self.state = State::Talking(conn);
                self.boot_token = None;
                self.dial_at = None;
                self.redial = REDIAL_MIN;
                self.bad_lines = 0;
                heard.push(Heard::Up(hello.generation.min(GENERATION)));
                self.ask(Ask::Watch { since: self.seen }, Asker::Nobody);
            }
            // Refused. The boot token is void if an earlier hello, whose answer was lost, has replaced it.
            ToHost::Answer { outcome: Err(_), .. } if greeting => {
                self.boot_token = None;
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            ToHost::Answer { id, outcome } => {
                if let Some(asker) = self.pending.remove(&id) {
                    heard.push(Heard::Answered(asker, outcome));
                }
            }
            // `exited` comes again and again until it is acknowledged.
            ToHost::Event { seq, event } if !greeting => {
                if seq > self.seen || matches!(event, GuestEvent::Exited(_)) {
                    self.seen = self.seen.max(seq);
                    heard.push(Heard::Said(seq, event));
                }
            }
            // A second hello changes nothing, and nobody tells before it has said who it is.
            ToHost::Hello(_) | ToHost::Event { .. } => {}
        }
        Ok(())
    }
}

/// Begins to connect over AF_VSOCK.
fn vsock(cid: u32, port: u32) -> io::Result<OwnedFd> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
    match connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &VsockAddr::new(cid, port)) {
        Ok(()) | Err(nix::errno::Errno::EINPROGRESS) => Ok(fd),
        Err(e) => Err(e.into()),
    }
}
