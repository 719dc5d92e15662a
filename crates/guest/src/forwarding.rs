//! The connections that this agent forwards: one thread carries them all, from the first of them on.

use pepita_ports::{Closes, Relay};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The thread that carries forwarded connections, once there was one.
#[derive(Debug, Default)]
pub(crate) struct Forwarding {
    relay: Mutex<Option<Relay>>,
}

impl Forwarding {
    fn relay(&self) -> MutexGuard<'_, Option<Relay>> {
        self.relay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether no further connection can be forwarded.
    pub(crate) fn is_full(&self) -> bool {
        self.relay().as_ref().is_some_and(Relay::is_full)
    }

    /// Carries a connection between a program of the guest and the host.
    ///
    /// # Errors
    /// When the thread cannot be started. Both sockets are closed then, which resets the connection.
    pub(crate) fn carry(&self, plain: OwnedFd, carrier: OwnedFd) -> io::Result<()> {
        let mut relay = self.relay();
        let relay = match &mut *relay {
            Some(relay) => relay,
            none => none.insert(Relay::start()?),
        };
        relay.carry(plain, carrier, &[], Closes::There)
    }
}
