//! A connection of a host, over vsock or over a Unix socket.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use vsock::VsockStream;

/// A connection of a host.
#[derive(Debug)]
pub(crate) enum Stream {
    /// A connection over the guest kernel's vsock.
    Vsock(VsockStream),
    /// A connection over a Unix socket, after the answer to the client's `CONNECT` line.
    Unix(UnixStream),
}

/// Applies an expression to a connection of either kind.
macro_rules! each {
    ($self:expr, $stream:ident => $do:expr) => {
        match $self {
            Self::Vsock($stream) => $do,
            Self::Unix($stream) => $do,
        }
    };
}

impl Stream {
    /// Duplicates the handle of the connection.
    ///
    /// # Errors
    /// When no file descriptor is left.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Vsock(stream) => Self::Vsock(stream.try_clone()?),
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
        })
    }

    /// Sets the time limit of each read.
    ///
    /// # Errors
    /// When setsockopt(2) fails.
    pub(crate) fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        each!(self, stream => stream.set_read_timeout(limit))
    }

    /// Sets the time limit of each write.
    ///
    /// # Errors
    /// When setsockopt(2) fails.
    pub(crate) fn set_write_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        each!(self, stream => stream.set_write_timeout(limit))
    }

    /// Sets whether a read or a write that would have to wait fails instead, for all handles of this connection.
    ///
    /// # Errors
    /// When ioctl(2) fails.
    pub(crate) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        each!(self, stream => stream.set_nonblocking(nonblocking))
    }

    /// Ends the connection in both directions. A connection that has ended already stays as it is.
    pub(crate) fn shutdown(&self) {
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
