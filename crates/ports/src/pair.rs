//! One forwarded connection: a plain socket on one side, chunks to the other end on the other side.
//!
//! ```text
//!  plain ──read──► [chunk] ──write──► carrier        up
//!  plain ◄─write── [bytes] ◄──read─── carrier        down
//! ```
//!
//! A side that cannot be written stops the reading of the other: what is kept for it is at most one read.

use pepita_wire::chunk::{Chunks, HEADER, Piece, header};
use rustix::io::{Errno, read, write};
use rustix::net::{Shutdown, shutdown, sockopt};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// The maximum number of bytes of one read: what is kept in each direction for a side that does not read.
pub(crate) const READ_CAP: usize = 32 * 1024;

/// The maximum number of reads in a row, so that a busy connection does not delay the others.
const READS: usize = 8;

/// The maximum number of reads that empty a carrier before it is closed: more than the buffer of a socket holds.
const EMPTYING_READS: usize = 256;

/// The side that closes the carrier when both directions have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closes {
    /// This side. The host closes, because a back-end may drop what it has not delivered yet when the guest closes.
    Here,
    /// The other side: this one waits for it.
    There,
}

/// A count of connections: a clone of it goes with each of them, and is gone with it.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<()>);

impl Tally {
    /// Returns the number of connections that exist.
    pub fn count(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

/// What a socket may do, as far as is known. Events set it, and a call that would block resets it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ready {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) failed: bool,
}

/// The state of a connection after it was moved on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It waits for an event.
    Waits,
    /// It has more to do at once.
    Busy,
    /// It is over.
    Over,
}

/// A connection is over without the end of both directions.
struct Reset;

/// One forwarded connection.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) plain: OwnedFd,
    pub(crate) carrier: OwnedFd,
    pub(crate) plain_ready: Ready,
    pub(crate) carrier_ready: Ready,
    /// The chunks, or a part of one, that the carrier did not take yet.
    up: Vec<u8>,
    /// Whether the end of this direction was read from the plain socket.
    up_has_ended: bool,
    /// The bytes that the plain socket did not take yet.
    down: Vec<u8>,
    chunks: Chunks,
    /// Whether the plain socket was shut down for writing.
    is_shut: bool,
    closes: Closes,
    /// Counts this connection as long as it exists.
    _counted: Option<Tally>,
}

impl Pair {
    /// Returns the connection between two non-blocking sockets. `first` was read from the carrier already.
    pub(crate) fn new(
        plain: OwnedFd,
        carrier: OwnedFd,
        first: &[u8],
        closes: Closes,
        counted: Option<Tally>,
    ) -> Self {
        let mut pair = Self {
            plain,
            carrier,
            plain_ready: Ready::default(),
            carrier_ready: Ready::default(),
            up: Vec::new(),
            up_has_ended: false,
            down: Vec::new(),
            chunks: Chunks::default(),
            is_shut: false,
            closes,
            _counted: counted,
        };
        pair.unpack(first);
        pair
    }

    /// Moves as many bytes as possible. After a reset the plain socket is reset, too.
    pub(crate) fn advance(&mut self, scratch: &mut [u8; HEADER + READ_CAP]) -> State {
        let moved = self.move_up(scratch).and_then(|up| Ok(up | self.move_down(scratch)?));
        let has_ended = self.both_have_ended();
        match moved {
            Ok(_) if has_ended && self.closes == Closes::Here => {}
            Ok(true) => return State::Busy,
            Ok(false) => return State::Waits,
            // The other side has closed the carrier when it knew of both ends.
            Err(Reset) if has_ended => {}
            Err(Reset) => {
                // A close with data on its way, or with a lingering of nothing, is a reset (RST of TCP).
                let _ = sockopt::set_socket_linger(&self.plain, Some(Duration::ZERO));
            }
        }
        self.empty_carrier(scratch);
        State::Over
    }

    /// Ends the carrier and takes what has come, before the host closes it. For a Unix socket that is closed with unread
    /// bytes its peer gets an error in place of the end, and vhost-device-vsock 0.3.0 ignores that error: the guest would
    /// keep the connection for ever.
    fn empty_carrier(&self, scratch: &mut [u8; HEADER + READ_CAP]) {
        if self.closes == Closes::Here && shutdown(&self.carrier, Shutdown::Both).is_ok() {
            let mut reads = 0..EMPTYING_READS;
            while reads.next().is_some() && read(&self.carrier, &mut scratch[..]).is_ok_and(|n| n > 0) {}
        }
    }

    fn both_have_ended(&self) -> bool {
        self.up_has_ended && self.up.is_empty() && self.is_shut
    }

    /// Carries bytes from the plain socket to the carrier. Returns whether there may be more.
    fn move_up(&mut self, scratch: &mut [u8; HEADER + READ_CAP]) -> Result<bool, Reset> {
        // A client that is gone, and not only silent, ends the other direction, too.
        if self.plain_ready.failed && sockopt::socket_error(&self.plain).is_ok_and(|error| error.is_err()) {
            return Err(Reset);
        }
        for _ in 0..READS {
            flush(&self.carrier, &mut self.carrier_ready, &mut self.up)?;
            if !self.up.is_empty() || self.up_has_ended || !self.plain_ready.readable {
                return Ok(false);
            }
            match read(&self.plain, &mut scratch[HEADER..]) {
                Ok(0) => {
                    self.up_has_ended = true;
                    self.up.extend_from_slice(&header(0));
                }
                Ok(n) => {
                    scratch[..HEADER].copy_from_slice(&header(n));
                    let chunk = &scratch[..HEADER + n];
                    let written = put(&self.carrier, &mut self.carrier_ready, chunk)?;
                    self.up.extend_from_slice(&chunk[written..]);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.plain_ready.readable = false,
                Err(_) => return Err(Reset),
            }
        }
        Ok(true)
    }

    /// Carries bytes from the carrier to the plain socket. Returns whether there may be more.
    fn move_down(&mut self, scratch: &mut [u8; HEADER + READ_CAP]) -> Result<bool, Reset> {
        for _ in 0..READS {
            flush(&self.plain, &mut self.plain_ready, &mut self.down)?;
            if !self.down.is_empty() {
                return Ok(false);
            }
            if self.chunks.has_ended() && !self.is_shut {
                self.is_shut = true;
                // A peer that is gone already needs no shutdown.
                let _ = shutdown(&self.plain, Shutdown::Write);
            }
            if !self.carrier_ready.readable {
                return Ok(false);
            }
            match read(&self.carrier, &mut scratch[..READ_CAP]) {
                // Before the end of both directions, the other side has reset the connection.
                Ok(0) => return Err(Reset),
                Ok(n) => self.take(&scratch[..n])?,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.carrier_ready.readable = false,
                Err(_) => return Err(Reset),
            }
        }
        Ok(true)
    }

    /// Writes the bytes of the chunks in `bytes` to the plain socket, and keeps what it does not take.
    fn take(&mut self, mut bytes: &[u8]) -> Result<(), Reset> {
        while let Some(Piece::Bytes(piece)) = self.chunks.next(&mut bytes) {
            let written = match self.down.is_empty() {
                true => put(&self.plain, &mut self.plain_ready, piece)?,
                false => 0,
            };
            self.down.extend_from_slice(&piece[written..]);
        }
        Ok(())
    }

    /// Keeps the bytes of the chunks in `bytes` for the plain socket.
    fn unpack(&mut self, mut bytes: &[u8]) {
        while let Some(Piece::Bytes(piece)) = self.chunks.next(&mut bytes) {
            self.down.extend_from_slice(piece);
        }
    }
}

/// Writes what is kept for a socket. The memory is given back when all is written.
fn flush(to: impl AsFd, ready: &mut Ready, kept: &mut Vec<u8>) -> Result<(), Reset> {
    if !kept.is_empty() {
        let written = put(to, ready, kept)?;
        match written == kept.len() {
            true => *kept = Vec::new(),
            false => drop(kept.drain(..written)),
        }
    }
    Ok(())
}

/// Writes bytes, as many as the socket takes. Returns their number.
fn put(to: impl AsFd, ready: &mut Ready, bytes: &[u8]) -> Result<usize, Reset> {
    let mut written = 0;
    while written < bytes.len() && ready.writable {
        match write(&to, &bytes[written..]) {
            Ok(n) => written += n,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => ready.writable = false,
            Err(_) => return Err(Reset),
        }
    }
    Ok(written)
}
