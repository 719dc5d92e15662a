//! Connects to the guest agent on behalf of clients, and hands the connections over to them.
//!
//! A dial is never given up before the guest has answered, because vhost-device-vsock does not survive that. A dial
//! whose client has gone serves the next client that asks.

use super::dial::{Address, Dial, Progress};
use pepita_wire::{ErrorKind, WireError};
use rustix::event::PollFlags;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{BorrowedFd, OwnedFd};

/// The maximum number of clients that wait for a connection.
const WAITING: usize = 16;

/// A request of a client for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    /// The client's number.
    pub(super) client: u64,
    /// The id of the client's request.
    pub(super) id: u64,
}

/// The dials under way, and the clients that wait for them, the oldest first.
#[derive(Debug)]
pub(super) struct Handover {
    address: Address,
    dials: BTreeMap<u64, Dial>,
    waiting: VecDeque<Asked>,
    last: u64,
    /// Whether no dial is begun, because a paused guest answers none.
    is_held: bool,
}

impl Handover {
    /// Returns a handover of connections to `address`; no client waits yet.
    pub(super) fn new(address: Address) -> Self {
        Self { address, dials: BTreeMap::new(), waiting: VecDeque::new(), last: 0, is_held: false }
    }

    /// Lets a client wait for a connection. `is_connected` tells which clients are still there.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when too many clients wait already; [`ErrorKind::Os`] when no connection can be begun.
    pub(super) fn ask(&mut self, asked: Asked, is_connected: impl Fn(u64) -> bool) -> Result<(), WireError> {
        self.waiting.retain(|other| is_connected(other.client));
        if self.waiting.len() >= WAITING {
            return Err(WireError::new(ErrorKind::Busy, "too many clients wait for the guest agent"));
        }
        if self.dials.len() <= self.waiting.len() && !self.is_held {
            self.begin()?;
        }
        self.waiting.push_back(asked);
        Ok(())
    }

    fn begin(&mut self) -> Result<(), WireError> {
        let dial = Dial::begin(&self.address).map_err(|e| WireError::new(ErrorKind::Os, e.to_string()))?;
        self.last += 1;
        self.dials.insert(self.last, dial);
        Ok(())
    }

    /// Begins no dial until [`Handover::release`]. Dials under way go on.
    pub(super) fn hold(&mut self) {
        self.is_held = true;
    }

    /// Begins the dials of the clients that have asked meanwhile and are still there. Returns the clients whose dial
    /// cannot be begun, which do not wait any more.
    pub(super) fn release(&mut self, is_connected: impl Fn(u64) -> bool) -> Vec<(Asked, WireError)> {
        self.is_held = false;
        self.waiting.retain(|asked| is_connected(asked.client));
        let mut refused = Vec::new();
        while self.dials.len() < self.waiting.len() {
            if let Err(refusal) = self.begin() {
                refused.extend(self.waiting.pop_back().map(|asked| (asked, refusal)));
            }
        }
        refused
    }

    /// Returns the descriptors to poll, each with the number of its dial.
    pub(super) fn interest(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>, PollFlags)> {
        self.dials.iter().map(|(number, dial)| {
            let (fd, flags) = dial.interest();
            (*number, fd, flags)
        })
    }

    /// Returns the dials whose sockets must stay open: their numbers and their sockets.
    pub(super) fn dialling(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        self.dials.values().filter_map(Dial::to_keep)
    }

    /// Continues a dial whose descriptor is ready. Returns its result when it is complete.
    pub(super) fn ready(&mut self, number: u64) -> Option<Result<OwnedFd, WireError>> {
        match self.dials.remove(&number)?.advance() {
            Ok(Progress::Pending(dial)) => {
                self.dials.insert(number, dial);
                None
            }
            Ok(Progress::Connected(fd)) => Some(Ok(fd)),
            Err(_) => Some(Err(WireError::new(ErrorKind::Busy, "the guest agent does not listen yet"))),
        }
    }

    /// Returns the client that has waited longest. It does not wait any more.
    pub(super) fn next_client(&mut self) -> Option<Asked> {
        self.waiting.pop_front()
    }
}
