//! A blocking client of a VM's monitor: makes one request after the other over the control socket.

use crate::error::{CallError, Result, call_error};
use crate::host::process_id::ProcessId;
use crate::rundir::{files, layout};
use pepita_wire::conversation::ControlConversation;
use pepita_wire::monitor::REQUEST_PATIENCE;
use pepita_wire::record::CallErrorKind;
use pepita_wire::text::shown;
use pepita_wire::{Ask, Hello, MonitorRequest, Outcome, StatusRecord, ToGuest, ToHost, WireError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags,
    SocketType, recvmsg, socket_with,
};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A connection to a monitor.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    conversation: ControlConversation,
}

impl Client {
    /// Connects to the monitor of the VM with this run directory.
    ///
    /// # Errors
    /// When no monitor listens.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let stream = connect(&dir.join(layout::CONTROL), Some(REQUEST_PATIENCE))?;
        Ok(Self { stream, conversation: ControlConversation::default() })
    }

    /// Makes a request and waits for the answer, at most for `patience` (`None` = without limit).
    ///
    /// # Errors
    /// When the monitor is gone, does not answer in time, or does not speak the protocol.
    pub fn ask(&mut self, request: MonitorRequest, patience: Option<Duration>) -> io::Result<Outcome> {
        let (method, params) = request.into_parts();
        let (_, line) = self.conversation.ask(method, params);
        self.stream.set_read_timeout(patience)?;
        self.stream.write_all(&line)?;
        let mut buffer = [0; 8192];
        loop {
            if let Some(answer) = self.conversation.next_answer().map_err(io::Error::other)? {
                return Ok(answer);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.conversation.receive(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Waits for a status whose revision differs from `since`.
    ///
    /// # Errors
    /// When the monitor is gone.
    pub fn watch(&mut self, since: u64, patience: Option<Duration>) -> io::Result<StatusRecord> {
        let answer = self.ask(MonitorRequest::Watch { since }, patience)?;
        serde_json::from_value(answer.map_err(io::Error::other)?).map_err(io::Error::other)
    }
}

/// A connection to a guest agent for one stream, on which the hellos were exchanged.
#[derive(Debug)]
pub struct AgentStream {
    stream: UnixStream,
    conversation: ControlConversation,
}

impl AgentStream {
    /// Has the monitor of the VM with this run directory connect to the guest agent. Returns the refusal of the monitor, or
    /// of the agent, as it came.
    ///
    /// # Errors
    /// When there is no monitor, or it, or the agent, does not answer in time.
    pub fn open(dir: &Path) -> io::Result<Result<Self, WireError>> {
        let mut client = Client::open(dir)?;
        let (method, params) = MonitorRequest::Dial { greet: true }.into_parts();
        let (_, line) = client.conversation.ask(method, params);
        client.stream.set_read_timeout(Some(STREAM_PATIENCE))?;
        client.stream.write_all(&line)?;
        let mut connection = None;
        let answer = loop {
            match client.conversation.next_answer().map_err(io::Error::other)? {
                Some(Ok(answer)) => break answer,
                Some(Err(refusal)) => return Ok(Err(refusal)),
                None => {}
            }
            let mut buffer = [0; 4096];
            let (read, descriptor) = read_with_descriptor(&client.stream, &mut buffer)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            connection = connection.or(descriptor);
            client.conversation.receive(&buffer[..read]);
        };
        let missing = || io::Error::new(io::ErrorKind::InvalidData, "the monitor handed nothing over");
        // A connection over vsock is used like one over a Unix socket: nothing but reads and writes.
        let stream = UnixStream::from(connection.ok_or_else(missing)?);
        stream.set_nonblocking(false)?;
        let mut agent = Self { stream, conversation: ControlConversation::default() };
        if answer.get("hello").is_none()
            && let Err(refusal) = agent.greet(dir)?
        {
            return Ok(Err(refusal));
        }
        Ok(Ok(agent))
    }

    /// Exchanges the hellos, which a monitor of an earlier version leaves to its clients.
    fn greet(&mut self, dir: &Path) -> io::Result<Result<(), WireError>> {
        let state = files::state(dir).ok().ok_or(io::ErrorKind::NotFound)?;
        let hello = Hello {
            protocol_version: pepita_wire::PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            incarnation: state.status.incarnation,
            token: Some(std::fs::read_to_string(dir.join(layout::TOKEN))?.trim().to_owned()),
            stream: true,
            ..Hello::default()
        };
        self.limit(Some(REQUEST_PATIENCE))?;
        self.stream.write_all(&ToGuest::Hello(hello).encode())?;
        let (mut line, mut byte) = (Vec::new(), [0]);
        while line.last() != Some(&b'\n') && line.len() < HELLO_CAP {
            self.stream.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        match ToHost::decode(&line) {
            Ok(ToHost::Hello(_)) => Ok(Ok(())),
            Ok(ToHost::Answer { outcome: Err(refusal), .. }) => Ok(Err(refusal)),
            Ok(ToHost::Answer { .. } | ToHost::Event { .. }) | Err(_) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the guest agent says no hello"))
            }
        }
    }

    fn limit(&self, patience: Option<Duration>) -> io::Result<()> {
        set_socket_timeout(&self.stream, Timeout::Recv, patience)?;
        Ok(set_socket_timeout(&self.stream, Timeout::Send, patience)?)
    }

    /// Makes the request that turns the connection into a stream. Returns the connection, without a time limit, when the
    /// agent has accepted the request.
    ///
    /// # Errors
    /// When the agent is gone, or does not answer in time.
    pub fn ask(mut self, request: Ask) -> io::Result<Result<OwnedFd, WireError>> {
        let (method, params) = request.into_parts();
        let (_, line) = self.conversation.ask(method, params);
        self.limit(Some(REQUEST_PATIENCE))?;
        self.stream.write_all(&line)?;
        let mut byte = [0];
        loop {
            // The bytes behind the answer belong to the stream.
            self.stream.read_exact(&mut byte)?;
            self.conversation.receive(&byte);
            match self.conversation.next_answer().map_err(io::Error::other)? {
                Some(Ok(_)) => break,
                Some(Err(refusal)) => {
                    let message = shown(&refusal.message);
                    return Ok(Err(WireError { message, ..refusal }));
                }
                None => {}
            }
        }
        self.limit(None)?;
        Ok(Ok(self.stream.into()))
    }
}

/// The time limit for a connection to a guest agent. Many clients that come at the same time wait for each other.
const STREAM_PATIENCE: Duration = Duration::from_secs(30);

/// The longest hello of an agent, in bytes.
const HELLO_CAP: usize = 4096;

/// Reads bytes and the descriptor that comes with them, if one does.
fn read_with_descriptor(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let mut into = [io::IoSliceMut::new(buffer)];
        match recvmsg(stream, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received?,
        }
    };
    let mut descriptors = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
        // Other messages are not asked for.
        _ => Vec::new(),
    });
    let descriptor = descriptors.next();
    Ok((message.bytes, descriptor))
}

/// The maximum number of monitors that are asked at the same time.
const AT_ONCE: usize = 256;

/// The state of one question of [`ask_all`].
enum Asked {
    Waits,
    Under { client: Client, line: Vec<u8> },
    Answered(io::Result<Outcome>),
}

/// Makes the same request to the monitors of many VMs at the same time. Returns the answers in the order of `dirs`; a
/// monitor that has not answered by `deadline` counts as silent ([`io::ErrorKind::TimedOut`]).
pub fn ask_all(dirs: &[PathBuf], request: &MonitorRequest, deadline: Instant) -> Vec<io::Result<Outcome>> {
    let mut all: Vec<Asked> = dirs.iter().map(|_| Asked::Waits).collect();
    loop {
        let mut under_way = all.iter().filter(|one| matches!(one, Asked::Under { .. })).count();
        for (one, dir) in all.iter_mut().zip(dirs) {
            if matches!(one, Asked::Waits) && under_way < AT_ONCE {
                *one = begin(dir, request.clone());
                under_way += usize::from(matches!(one, Asked::Under { .. }));
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if under_way == 0 || left.is_zero() {
            break;
        }
        let mut fds: Vec<PollFd<'_>> = all.iter().filter_map(Asked::interest).collect();
        let limit = Timespec::try_from(left).ok();
        let _ = poll(&mut fds, limit.as_ref());
        let mut ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        ready.reverse();
        for one in all.iter_mut().filter(|one| matches!(one, Asked::Under { .. })) {
            if ready.pop() == Some(true) {
                one.advance();
            }
        }
    }
    let silent = || Err(io::ErrorKind::TimedOut.into());
    let answers = all.into_iter().map(|one| match one {
        Asked::Answered(answer) => answer,
        Asked::Waits | Asked::Under { .. } => silent(),
    });
    answers.collect()
}

fn begin(dir: &Path, request: MonitorRequest) -> Asked {
    let connected = connect(&dir.join(layout::CONTROL), None).and_then(|stream| {
        stream.set_nonblocking(true)?;
        Ok(Client { stream, conversation: ControlConversation::default() })
    });
    match connected {
        Ok(mut client) => {
            let (method, params) = request.into_parts();
            let (_, line) = client.conversation.ask(method, params);
            let mut asked = Asked::Under { client, line };
            asked.advance();
            asked
        }
        Err(e) => Asked::Answered(Err(e)),
    }
}

impl Asked {
    fn interest(&self) -> Option<PollFd<'_>> {
        let Self::Under { client, line } = self else { return None };
        let flags = if line.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        Some(PollFd::new(&client.stream, flags))
    }

    /// Writes and reads as much as is possible without waiting.
    fn advance(&mut self) {
        let Self::Under { client, line } = self else { return };
        match client.exchange(line) {
            Ok(None) => {}
            Ok(Some(outcome)) => *self = Self::Answered(Ok(outcome)),
            Err(e) => *self = Self::Answered(Err(e)),
        }
    }
}

impl Client {
    /// Writes the rest of a request and reads what there is of the answer, without waiting.
    fn exchange(&mut self, line: &mut Vec<u8>) -> io::Result<Option<Outcome>> {
        let is_early =
            |e: &io::Error| matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
        while !line.is_empty() {
            match self.stream.write(line) {
                Ok(written) => drop(line.drain(..written)),
                Err(e) if is_early(&e) => break,
                Err(e) => return Err(e),
            }
        }
        let mut buffer = [0; 8192];
        loop {
            if let Some(answer) = self.conversation.next_answer().map_err(io::Error::other)? {
                return Ok(Some(answer));
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.conversation.receive(&buffer[..n]),
                Err(e) if is_early(&e) => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }
}

/// Connects to a socket. The kernel lets a client wait when too many wait already for a process that accepts none:
/// for `patience` at most, or not at all when it is `None`.
fn connect(path: &Path, patience: Option<Duration>) -> io::Result<UnixStream> {
    let flags = match patience {
        Some(_) => SocketFlags::CLOEXEC,
        None => SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
    };
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    set_socket_timeout(&socket, Timeout::Send, patience)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// Makes one request to the monitor of the VM with this run directory.
///
/// # Errors
/// When there is no monitor, or the monitor does not answer in time.
pub fn ask(dir: &Path, request: MonitorRequest) -> io::Result<Outcome> {
    Client::open(dir)?.ask(request, Some(REQUEST_PATIENCE))
}

/// Returns the process that listens on the control socket of the VM with this run directory. The kernel takes the
/// connection even when the monitor is stopped, as long as not too many clients wait already.
pub fn listener(dir: &Path) -> Option<ProcessId> {
    let stream = connect(&dir.join(layout::CONTROL), None).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    ProcessId::of(u32::try_from(peer.pid.as_raw_nonzero().get()).ok()?)
}

/// Turns a monitor's refusal into the error of a call.
///
/// # Errors
/// The refusal, as an error of a call.
pub fn accepted(answer: Outcome) -> Result<Value> {
    answer.map_err(refused)
}

/// Returns a refusal as the error of a call.
pub fn refused(refusal: WireError) -> CallError {
    use pepita_wire::ErrorKind as E;
    let kind = match refusal.kind {
        E::BadRequest | E::Unsupported => CallErrorKind::Usage,
        E::Unauthorized => CallErrorKind::Permission,
        E::Conflict | E::Busy => CallErrorKind::TryAgain,
        E::NotFound => CallErrorKind::NoSuchVm,
        E::Timeout => CallErrorKind::Timeout,
        E::Os => CallErrorKind::Io,
        E::Other => CallErrorKind::Internal,
    };
    call_error(kind, refusal.message)
}
