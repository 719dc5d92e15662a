//! The connection of a VM actor to the guest agent: the link, and what a successor of the link needs.

use crate::link::dial::{Address, Guests};
use crate::link::{LinkArgs, LinkMsg, Report, VsockLink};
use pepita_wire::{StatusRecord, rundir};
use ractor::{Actor, ActorCell, ActorRef, DerivedActorRef, SpawnErr};
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

    /// Spawns a link that dials the agent, as a child of `parent`, which gets the reports.
    pub(super) async fn link(
        &self,
        guests: Arc<dyn Guests>,
        report: DerivedActorRef<Report>,
        parent: ActorCell,
    ) -> Result<ActorRef<LinkMsg>, SpawnErr> {
        let Self { address, token, incarnation } = self.clone();
        let args = LinkArgs { address, token, incarnation, guests, report };
        Ok(Actor::spawn_linked(None, VsockLink, args, parent).await?.0)
    }
}
