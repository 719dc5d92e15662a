//! Makes connections to the guest agent, over either transport, without blocking.
//!
//! ```text
//!  AF_VSOCK:  connect ──► Connecting ── writable ──► connected
//!  hybrid:    connect, write `CONNECT <port>` ──► Asked ── `OK <digits>` read ──► connected
//! ```

use super::stream::{connect_unix, read};
use rustix::event::PollFlags;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// The most bytes of the answer to `CONNECT`.
const ANSWER_CAP: usize = 32;

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

/// A connection that is being made. Nothing limits its time: vhost-device-vsock does not survive a client that goes away
/// before the guest has answered it.
#[derive(Debug)]
pub(super) enum Dial {
    /// The kernel connects.
    Connecting(OwnedFd),
    /// `CONNECT` is written. The answer is read byte by byte, because what follows it belongs to the conversation.
    Asked { fd: OwnedFd, answer: Vec<u8> },
}

/// What a dial has come to.
#[derive(Debug)]
pub(super) enum Progress {
    Connected(OwnedFd),
    Pending(Dial),
}

impl Dial {
    /// Begins to connect.
    pub(super) fn begin(address: &Address) -> io::Result<Self> {
        match address {
            Address::Hybrid { path, port } => {
                let fd = connect_unix(path)?;
                // The empty buffer of a new socket takes a line at once.
                rustix::io::write(&fd, format!("CONNECT {port}\n").as_bytes())?;
                Ok(Self::Asked { fd, answer: Vec::new() })
            }
            Address::Vhost { cid, port } => begin_vsock(*cid, *port).map(Self::Connecting),
        }
    }

    /// Returns what to wait for.
    pub(super) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        match self {
            Self::Connecting(fd) => (fd.as_fd(), PollFlags::OUT),
            Self::Asked { fd, .. } => (fd.as_fd(), PollFlags::IN),
        }
    }

    /// Goes on with what has come.
    pub(super) fn advance(self) -> io::Result<Progress> {
        let (fd, mut answer) = match self {
            Self::Connecting(fd) => {
                rustix::net::sockopt::socket_error(&fd)??;
                return Ok(Progress::Connected(fd));
            }
            Self::Asked { fd, answer } => (fd, answer),
        };
        let mut byte = [0];
        while byte != *b"\n" && answer.len() < ANSWER_CAP {
            match read(&fd, &mut byte)? {
                None => return Ok(Progress::Pending(Self::Asked { fd, answer })),
                // No agent listens in the guest yet.
                Some(0) => return Err(io::ErrorKind::ConnectionRefused.into()),
                Some(_) => answer.push(byte[0]),
            }
        }
        match answer.starts_with(b"OK ") && answer.ends_with(b"\n") {
            true => Ok(Progress::Connected(fd)),
            false => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn begin_vsock(cid: u32, port: u32) -> io::Result<OwnedFd> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
    match connect(fd.as_raw_fd(), &VsockAddr::new(cid, port)) {
        Ok(()) | Err(nix::errno::Errno::EINPROGRESS) => Ok(fd),
        Err(e) => Err(e.into()),
    }
}
