//! The connections that a monitor carries: one thread for all of them, from the first one on, whoever has made them.

use pepita_ports::{Closes, Relay, Tally};
use std::cell::OnceCell;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;

/// The thread that carries connections, once there was one. All clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Carrier(Rc<OnceCell<Relay>>);

impl Carrier {
    /// Returns whether no further connection can be carried.
    pub(super) fn is_full(&self) -> bool {
        self.0.get().is_some_and(Relay::is_full)
    }

    /// Returns a descriptor that is readable when a connection has ended, as long as no further one can be carried.
    pub(super) fn room(&self) -> Option<BorrowedFd<'_>> {
        self.0.get().filter(|relay| relay.is_full()).map(Relay::ended)
    }

    /// Returns a descriptor that is readable when a connection has ended, if there was one.
    pub(super) fn ended(&self) -> Option<BorrowedFd<'_>> {
        self.0.get().map(Relay::ended)
    }

    /// Forgets that connections have ended.
    pub(super) fn forget_ended(&self) {
        if let Some(relay) = self.0.get() {
            relay.forget_ended();
        }
    }

    /// Carries a connection between a socket of the host and the agent. `first` was read from the agent already. A
    /// connection of a published port counts there as long as it exists.
    ///
    /// # Errors
    /// When the thread cannot be started. Both sockets are closed then, which resets the connection.
    pub(super) fn carry(
        &self,
        plain: OwnedFd,
        agent: OwnedFd,
        first: &[u8],
        tally: Option<&Tally>,
    ) -> io::Result<()> {
        let relay = match self.0.get() {
            Some(relay) => relay,
            None => {
                let relay = Relay::start()?;
                self.0.get_or_init(|| relay)
            }
        };
        match tally {
            Some(tally) => relay.carry_counted(plain, agent, first, Closes::Here, tally),
            None => relay.carry(plain, agent, first, Closes::Here),
        }
    }
}
