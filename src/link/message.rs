//! The messages of the link actor.

use super::dial::Dialled;
use crate::reply::Reply;
use pepita_wire::{Ask, Outcome, WireError};
use tokio::sync::OwnedSemaphorePermit;

/// What the link can be asked, and what its own tasks tell it.
pub enum LinkMsg {
    /// Ask the guest agent. Refused as busy while the link is down.
    Ask {
        /// What the guest agent is asked.
        ask: Ask,
        /// Gets the answer; is dropped with the connection.
        reply: Reply<Outcome>,
    },
    /// Ask the guest agent whether the guest is well. An older such question is given up: a guest that was silent for
    /// long has to answer one of them, not all, to be well again.
    Probe {
        /// What the guest agent is asked.
        ask: Ask,
        /// Gets the answer; is dropped with the connection, or with the next probe.
        reply: Reply<Outcome>,
    },
    /// From the link itself: try to connect.
    Dial,
    /// From the dialling task.
    Dialled(std::io::Result<Dialled>),
    /// From the timer of a connection: its hello is due.
    HelloDue {
        /// The number of the connection.
        connection: u64,
    },
    /// From the task that moves the bytes of a connection.
    Read {
        /// The number of the connection.
        connection: u64,
        /// The bytes that were read; `None` = the guest agent hung up.
        bytes: Option<Vec<u8>>,
        /// Room for one more read, given back when this one is taken in.
        permit: OwnedSemaphorePermit,
    },
}

impl LinkMsg {
    /// Answers a request with this refusal; drops any other message.
    pub fn refuse(self, error: WireError) {
        match self {
            Self::Ask { reply, .. } | Self::Probe { reply, .. } => reply.send(Err(error)),
            Self::Dial | Self::Dialled(_) | Self::HelloDue { .. } | Self::Read { .. } => {}
        }
    }
}
