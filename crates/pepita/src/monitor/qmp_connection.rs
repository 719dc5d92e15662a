//! The connection with QEMU's monitor protocol.
//!
//! ```text
//!  Full ── accepted ──► Up ── end of the stream ──► Closed
//!   ↺ backlog full
//! ```

use super::qmp::GREETING;
use super::stream::{Stream, connect_unix};
use crate::rundir::layout;
use pepita_wire::Lines;
use serde_json::json;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// The delay of the first new attempt to connect. The delay doubles with each attempt.
const FIRST_DELAY: Duration = Duration::from_millis(10);

/// The maximum delay between two attempts to connect.
const LAST_DELAY: Duration = Duration::from_secs(1);

/// The connection with QEMU's monitor protocol.
#[derive(Debug)]
pub(super) enum Qmp {
    /// There is no connection, and there will be none: the VMM is not QEMU, or has closed the connection.
    Closed,
    /// The backlog of QEMU's socket is full. QEMU gives it a length of one and accepts one client at a time, so a VMM
    /// that is stopped while its monitors are killed one after the other keeps the connections of the dead ones in it.
    Full {
        /// The time of the next attempt.
        retry_at: Instant,
        /// The delay after the next attempt.
        delay: Duration,
    },
    /// The connection is open.
    Up {
        /// The stream.
        stream: Stream,
        /// The lines that QEMU has sent.
        lines: Lines,
    },
}

impl Qmp {
    /// Returns the connection over a connected socket.
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self::Up { stream: Stream::new(fd), lines: Lines::new() }
    }

    /// Returns a connection that is made as soon as QEMU takes it.
    pub(super) fn full(now: Instant) -> Self {
        Self::Full { retry_at: now + FIRST_DELAY, delay: FIRST_DELAY }
    }

    /// Begins the conversation by sending the greeting.
    pub(super) fn greet(&mut self) {
        if let Self::Up { stream, .. } = self {
            // When the connection is broken already, the next read reports the error.
            let _ = stream.send(GREETING);
        }
    }

    /// Lets QEMU hold a descriptor open under a name, until [`Qmp::take_back`] or QEMU's end.
    ///
    /// # Errors
    /// When there is no connection, it is broken, or QEMU does not read.
    pub(super) fn deposit(&mut self, name: &str, descriptor: impl AsFd) -> io::Result<()> {
        let Self::Up { stream, .. } = self else { return Err(io::ErrorKind::NotConnected.into()) };
        let command = json!({ "execute": "getfd", "arguments": { "fdname": name } });
        stream.send_with(format!("{command}\n").as_bytes(), &[descriptor.as_fd()])
    }

    /// Lets QEMU close the descriptor that it holds under a name. QEMU refuses a name that it does not know.
    pub(super) fn take_back(&mut self, name: &str) {
        if let Self::Up { stream, .. } = self {
            let command = json!({ "execute": "closefd", "arguments": { "fdname": name } });
            // When the connection is broken, the next read reports the error.
            let _ = stream.send(format!("{command}\n").as_bytes());
        }
    }

    /// Has the guest give memory back, or take it again, until it has this much. A guest without a balloon does nothing.
    pub(super) fn give_memory(&mut self, bytes: u64) {
        if let Self::Up { stream, .. } = self {
            let command = json!({ "execute": "balloon", "arguments": { "value": bytes } });
            // When the connection is broken, the next read reports the error.
            let _ = stream.send(format!("{command}\n").as_bytes());
        }
    }

    /// Returns the time of the next attempt to connect.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        match self {
            Self::Full { retry_at, .. } => Some(*retry_at),
            Self::Closed | Self::Up { .. } => None,
        }
    }

    /// Expects that QEMU takes a connection soon, because the VMM was resumed.
    pub(super) fn hurry(&mut self, now: Instant) {
        if let Self::Full { .. } = self {
            *self = Self::full(now);
        }
    }

    /// Tries again to connect to the socket in the current directory when the time has come. Returns whether QEMU has
    /// taken the connection now.
    pub(super) fn tick(&mut self, now: Instant) -> bool {
        let Self::Full { retry_at, delay } = *self else { return false };
        if now < retry_at {
            return false;
        }
        *self = match connect_unix(Path::new(layout::QMP)) {
            Ok(fd) => Self::new(fd),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let delay = (delay * 2).min(LAST_DELAY);
                Self::Full { retry_at: now + delay, delay }
            }
            // The VMM is gone or ends, and its process is watched.
            Err(_) => Self::Closed,
        };
        matches!(self, Self::Up { .. })
    }
}
