//! The connection with QEMU's monitor protocol.

use super::qmp::GREETING;
use super::stream::Stream;
use pepita_wire::Lines;
use std::os::fd::OwnedFd;

/// The connection with QEMU's monitor protocol.
#[derive(Debug)]
pub(super) struct Qmp {
    pub(super) stream: Stream,
    pub(super) lines: Lines,
}

impl Qmp {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { stream: Stream::new(fd), lines: Lines::new() }
    }

    /// Begins the conversation by sending the greeting.
    pub(super) fn greet(&mut self) {
        // When the connection is broken already, the next read reports the error.
        let _ = self.stream.send(GREETING);
    }
}
