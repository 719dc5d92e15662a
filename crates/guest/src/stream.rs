//! A connection, whichever of the two kinds it is.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use vsock::VsockStream;

/// A connection of a host.
#[derive(Debug)]
pub enum Stream {
    /// From the guest kernel's vsock.
    Vsock(VsockStream),
    /// From a Unix socket, after its `CONNECT`.
    Unix(UnixStream),
}

macro_rules! each {
    ($self:expr, $stream:ident => $do:expr) => {
        match $self {
            Self::Vsock($stream) => $do,
            Self::Unix($stream) => $do,
        }
    };
}

impl Stream {
    /// Another handle of the same connection.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Vsock(stream) => Self::Vsock(stream.try_clone()?),
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
        })
    }

    /// Bounds each read.
    ///
    /// # Errors
    /// As the system call.
    pub fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        each!(self, stream => stream.set_read_timeout(limit))
    }

    /// Bounds each write.
    ///
    /// # Errors
    /// As the system call.
    pub fn set_write_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        each!(self, stream => stream.set_write_timeout(limit))
    }

    /// Ends the connection, both ways.
    pub fn shutdown(&self) {
        // One that is over already is fine.
        let _ = each!(self, stream => stream.shutdown(Shutdown::Both));
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        each!(self, stream => stream.as_fd())
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        each!(self, stream => stream.read(buffer))
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        each!(self, stream => stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        each!(self, stream => stream.flush())
    }
}
