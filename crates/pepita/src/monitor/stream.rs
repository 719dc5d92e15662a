//! A byte stream that never blocks: output that cannot be written at once is kept, up to a limit.

use pepita_wire::port::PORTS_CAP;
use pepita_wire::{LINE_CAP, Lines};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg,
    socket_with,
};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The maximum number of bytes that are kept for a peer that does not read.
const OUTPUT_CAP: usize = 1 << 20;

/// The maximum number of reads in a row, so that a flood of one peer does not delay the others.
const READS: usize = 16;

/// A connected stream, and the output that is kept for it.
#[derive(Debug)]
pub(super) struct Stream {
    fd: OwnedFd,
    output: Vec<u8>,
}

impl Stream {
    /// Returns the stream of a connected non-blocking descriptor.
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { fd, output: Vec::new() }
    }

    /// Returns the events to poll for.
    pub(super) fn interest(&self) -> PollFlags {
        if self.is_flushed() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT }
    }

    /// Writes the kept output, then reads the available input and passes it to `take`, piece by piece.
    ///
    /// # Errors
    /// At the end of the stream, when the stream is broken, and the errors of `take`. Input before the end has been
    /// passed on.
    pub(super) fn pump<E: From<io::Error>>(
        &mut self,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.flush()?;
        let mut buffer = [0; 8192];
        for _ in 0..READS {
            match read(&self.fd, &mut buffer)? {
                Some(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Some(n) => take(&buffer[..n])?,
                None => break,
            }
        }
        Ok(())
    }

    /// Writes the kept output, then reads the available input into `lines`.
    ///
    /// # Errors
    /// The errors of [`Stream::pump`].
    pub(super) fn pump_into(&mut self, lines: &mut Lines) -> io::Result<()> {
        self.pump(|bytes| {
            lines.push(bytes);
            Ok(())
        })
    }

    /// Writes the kept output, then reads the available input into `lines` and the descriptors that come with it into
    /// `descriptors`, which takes at most [`PORTS_CAP`]; further ones are closed.
    ///
    /// # Errors
    /// The errors of [`Stream::pump`].
    pub(super) fn receive_into(
        &mut self,
        lines: &mut Lines,
        descriptors: &mut Vec<OwnedFd>,
    ) -> io::Result<()> {
        self.flush()?;
        let mut buffer = [0; 8192];
        for _ in 0..READS {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PORTS_CAP))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let read = {
                let mut slices = [io::IoSliceMut::new(&mut buffer)];
                match recvmsg(&self.fd, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
                    Ok(message) => message.bytes,
                    Err(Errno::INTR) => continue,
                    Err(Errno::AGAIN) => break,
                    Err(e) => return Err(e.into()),
                }
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = message {
                    received.for_each(|descriptor| {
                        if descriptors.len() < PORTS_CAP {
                            descriptors.push(descriptor);
                        }
                    });
                }
            }
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            lines.push(&buffer[..read]);
        }
        Ok(())
    }

    /// Writes `bytes` at once, or keeps them until the peer reads.
    ///
    /// # Errors
    /// When the stream is broken, or more than [`OUTPUT_CAP`] bytes would be kept.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.output.len() + bytes.len() > OUTPUT_CAP {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "the peer does not read"));
        }
        self.output.extend_from_slice(bytes);
        self.flush()
    }

    /// Writes `bytes`, and with their first byte descriptors for the peer, at most [`PORTS_CAP`].
    ///
    /// # Errors
    /// When the stream is broken, or the peer does not read: descriptors are not kept for it.
    pub(super) fn send_with(&mut self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if !self.is_flushed() {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "the peer does not read"));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PORTS_CAP))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(descriptors));
        let sent = sendmsg(&self.fd, &[io::IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
        self.send(&bytes[sent..])
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match rustix::io::write(&self.fd, &self.output) {
                Ok(n) => drop(self.output.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Returns whether no output is kept.
    pub(super) fn is_flushed(&self) -> bool {
        self.output.is_empty()
    }

    /// Returns whether two more lines of the maximum length can be kept.
    pub(super) fn has_room(&self) -> bool {
        self.output.len() <= OUTPUT_CAP - 2 * LINE_CAP
    }
}

impl From<Stream> for OwnedFd {
    fn from(stream: Stream) -> Self {
        stream.fd
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads from a non-blocking descriptor; `None` when no input is available.
///
/// # Errors
/// When the descriptor cannot be read.
pub(super) fn read(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match rustix::io::read(fd.as_fd(), &mut *buffer) {
            Ok(n) => return Ok(Some(n)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Connects to a Unix socket without blocking.
///
/// # Errors
/// When no process listens there, or the socket's backlog is full.
pub(crate) fn connect_unix(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&fd, &SocketAddrUnix::new(path)?)?;
    Ok(fd)
}
