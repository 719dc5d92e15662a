//! The connection with QEMU's monitor protocol.

use super::qmp::CAPABILITIES;
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

    /// Begins the conversation.
    pub(super) fn greet(&mut self) {
        // A connection that is broken already says so when it is read.
        let _ = self.stream.send(CAPABILITIES);
    }
}
