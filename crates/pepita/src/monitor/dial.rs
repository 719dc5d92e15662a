//! Makes connections to the guest agent, over either transport, without blocking.
//!
//! ```text
//!  AF_VSOCK:  connect ──► Connecting ── writable ──► connected
//!  hybrid:    connect ──► Kept ── kept, `CONNECT <port>` written ──► Asked ── `OK <digits>` read ──► connected
//! ```

use super::stream::{connect_unix, read};
use rustix::event::PollFlags;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// The maximum length of the answer to `CONNECT`, in bytes.
const ANSWER_CAP: usize = 32;

/// The address on which the agent listens.
#[derive(Debug, Clone)]
pub enum Address {
    /// A Unix socket that expects the line `CONNECT <port>` first.
    Hybrid {
        /// The path of the socket.
        path: PathBuf,
        /// The agent's port.
        port: u32,
    },
    /// An AF_VSOCK address of the kernel.
    Vhost {
        /// The guest's CID.
        cid: u32,
        /// The agent's port.
        port: u32,
    },
}

/// A connection that is being made. There is no time limit for it: vhost-device-vsock does not survive a client that
/// hangs up before the guest has answered.
#[derive(Debug)]
pub(crate) enum Dial {
    /// The kernel is connecting.
    Connecting(OwnedFd),
    /// The socket is connected, and `CONNECT` is not written yet: before, the socket is kept open for the case that this
    /// process is killed.
    Kept { fd: OwnedFd, port: u32, number: u64 },
    /// `CONNECT` is written. The answer is read byte by byte, because the bytes after it belong to the conversation.
    Asked { fd: OwnedFd, answer: Vec<u8>, number: u64 },
}

/// The number of the last dial over a hybrid socket.
static LAST: AtomicU64 = AtomicU64::new(0);

/// The progress of a dial.
#[derive(Debug)]
pub(crate) enum Progress {
    Connected(OwnedFd),
    Pending(Dial),
}

impl Dial {
    /// Starts to connect to an address.
    pub(super) fn begin(address: &Address) -> io::Result<Self> {
        match address {
            Address::Hybrid { path, port } => {
                let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
                Ok(Self::Kept { fd: connect_unix(path)?, port: *port, number })
            }
            Address::Vhost { cid, port } => begin_vsock(*cid, *port).map(Self::Connecting),
        }
    }

    /// Returns the descriptor to poll and the events to poll for.
    pub(super) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        match self {
            Self::Connecting(fd) | Self::Kept { fd, .. } => (fd.as_fd(), PollFlags::OUT),
            Self::Asked { fd, .. } => (fd.as_fd(), PollFlags::IN),
        }
    }

    /// Returns the number of a dial that must not be given up before the guest has answered, and its socket.
    pub(super) fn to_keep(&self) -> Option<(u64, BorrowedFd<'_>)> {
        match self {
            Self::Connecting(_) => None,
            Self::Kept { fd, number, .. } | Self::Asked { fd, number, .. } => Some((*number, fd.as_fd())),
        }
    }

    /// Continues when the descriptor is ready.
    pub(crate) fn advance(self) -> io::Result<Progress> {
        let (fd, mut answer, number) = match self {
            Self::Connecting(fd) => {
                rustix::net::sockopt::socket_error(&fd)??;
                return Ok(Progress::Connected(fd));
            }
            Self::Kept { fd, port, number } => {
                // The buffer of a new socket is empty, so the write does not block.
                rustix::io::write(&fd, format!("CONNECT {port}\n").as_bytes())?;
                return Ok(Progress::Pending(Self::Asked { fd, answer: Vec::new(), number }));
            }
            Self::Asked { fd, answer, number } => (fd, answer, number),
        };
        let mut byte = [0];
        while byte != *b"\n" && answer.len() < ANSWER_CAP {
            match read(&fd, &mut byte)? {
                None => return Ok(Progress::Pending(Self::Asked { fd, answer, number })),
                // The end of the stream means that no agent listens in the guest yet.
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
