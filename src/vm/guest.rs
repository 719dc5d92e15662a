//! The connection of a VM actor to the guest agent: the link, and what a successor of the link needs.

use super::VmState;
use crate::link::dial::{Address, Guests};
use crate::link::{LinkArgs, LinkMsg, VsockLink};
use pepita_wire::{ErrorKind, StatusRecord, WireError, rundir};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The connection to the guest agent.
pub(super) struct Guest {
    pub(super) link: ActorRef<LinkMsg>,
    /// The place of the agent, for a successor when the link fails.
    pub(super) place: AgentPlace,
}

/// Where the guest agent is, and what it is greeted with.
#[derive(Clone)]
pub(super) struct AgentPlace {
    address: Address,
    token: PathBuf,
    incarnation: u64,
}

impl AgentPlace {
    pub(super) fn of(record: &StatusRecord) -> Self {
        Self {
            address: Address::of(record),
            token: Path::new(&record.dir).join(rundir::TOKEN),
            incarnation: record.agent.incarnation.unwrap_or(record.incarnation),
        }
    }
}

impl VmState {
    /// Has a link dial the agent.
    pub(super) async fn connect(&mut self, place: AgentPlace) -> Result<(), ActorProcessingErr> {
        let AgentPlace { address, token, incarnation } = place.clone();
        let args = LinkArgs {
            address,
            token,
            incarnation,
            guests: Arc::clone(&self.services.sockets) as Arc<dyn Guests>,
            report: self.me.get_derived(),
        };
        // The link's `pre_start` only sends a message, so that the wait is short.
        let (link, _) = Actor::spawn_linked(None, VsockLink, args, self.me.get_cell()).await?;
        self.guest = Some(Guest { link, place });
        Ok(())
    }

    /// Has the link ask the agent, or refuses the question when there is no link.
    pub(super) fn ask_guest(&self, msg: LinkMsg) {
        match &self.guest {
            // A link that has just failed drops the message together with its reply, which tells the asker.
            Some(guest) => drop(guest.link.cast(msg)),
            None => msg.refuse(WireError::new(ErrorKind::Busy, "the guest is not up")),
        }
    }
}
