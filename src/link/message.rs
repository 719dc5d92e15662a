//! The messages of the link actor.

use super::dial::Dialled;
use crate::reply::Reply;
use pepita_wire::{Ask, Outcome, WireError};
use tokio::sync::OwnedSemaphorePermit;

/// A request to the link, or a message of the link's own tasks.
pub enum LinkMsg {
    /// Ask the guest agent a question. Refused as busy while the link is down.
    Ask {
        /// The question to the guest agent.
        ask: Ask,
        /// Gets the answer; is dropped together with the connection.
        reply: Reply<Outcome>,
    },
    /// Ask the guest agent whether the guest is well. An older such question is given up: a guest that was silent for a
    /// long time has to answer one of them, not all, to be well again.
    Probe {
        /// The question to the guest agent.
        ask: Ask,
        /// Gets the answer; is dropped together with the connection, or with the next probe.
        reply: Reply<Outcome>,
    },
    /// The link itself asks to connect.
    Dial,
    /// The dialling task has ended.
    Dialled(std::io::Result<Dialled>),
    /// The report of what the daemon has said of itself is due.
    HealthDue,
    /// The timer of a connection has expired: its hello is due.
    HelloDue {
        /// The number of the connection.
        connection: u64,
    },
    /// The task that moves the bytes of a connection has read.
    Read {
        /// The number of the connection.
        connection: u64,
        /// The bytes that were read; `None` = the guest agent closed the connection.
        bytes: Option<Vec<u8>>,
        /// The room for one more read, which is given back when these bytes are taken in.
        permit: OwnedSemaphorePermit,
    },
}

impl LinkMsg {
    /// Answers a request with this refusal; drops any other message.
    pub fn refuse(self, error: WireError) {
        match self {
            Self::Ask { reply, .. } | Self::Probe { reply, .. } => reply.send(Err(error)),
            Self::Dial | Self::Dialled(_) | Self::HealthDue | Self::HelloDue { .. } | Self::Read { .. } => {}
        }
    }
}
