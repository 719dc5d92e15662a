//! A connection that never blocks: bytes in are cut into lines, bytes out wait their turn, both within bounds.

use pepita_wire::Lines;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// A peer that leaves so much unread is hung up on.
const OUT_CAP: usize = 1 << 20;

/// Reads in a row, so that a peer that floods does not keep the others waiting.
const READS: usize = 16;

/// The connection.
#[derive(Debug)]
pub struct Conn {
    fd: OwnedFd,
    /// What was read and not taken yet.
    pub lines: Lines,
    out: Vec<u8>,
}

impl Conn {
    /// Of a socket that does not block.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd, lines: Lines::new(), out: Vec::new() }
    }

    /// What to wait for.
    pub fn interest(&self) -> PollFlags {
        if self.out.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT }
    }

    /// Takes in what is there.
    ///
    /// # Errors
    /// At the end of the stream, or when the connection is broken.
    pub fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; 8192];
        for _ in 0..READS {
            match read(&self.fd, &mut buffer)? {
                Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(n) => self.lines.push(&buffer[..n]),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Says something, now or as soon as the peer reads.
    ///
    /// # Errors
    /// When it is broken, or the peer does not read.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.out.len() + bytes.len() > OUT_CAP {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "the peer does not read"));
        }
        self.out.extend_from_slice(bytes);
        self.flush()
    }

    /// Writes what waits, as far as the peer takes it.
    ///
    /// # Errors
    /// When it is broken.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match rustix::io::write(&self.fd, &self.out) {
                Ok(n) => drop(self.out.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Nothing waits to be written.
    pub fn is_flushed(&self) -> bool {
        self.out.is_empty()
    }
}

impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads from what does not block; `None` when there is nothing at the moment.
///
/// # Errors
/// When it is broken.
pub fn read(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match rustix::io::read(fd.as_fd(), &mut *buffer) {
            Ok(n) => return Ok(Some(n)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Connects to a Unix socket without waiting: its backlog takes us, or it is full.
///
/// # Errors
/// When nobody listens, or too many wait already.
pub fn unix(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&fd, &SocketAddrUnix::new(path)?)?;
    Ok(fd)
}
