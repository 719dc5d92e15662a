//! The actors under the root, as the root knows them.

use crate::actor::Service;
use crate::cid::{CidAllocator, CidMsg, Ledger};
use crate::executor::{ExecutorMsg, PepitaExecutor, Runner};
use crate::group::GroupMsg;
use crate::spec::GroupName;
use ractor::{Actor, ActorCell, ActorId, ActorRef, SpawnErr};
use std::collections::HashMap;

/// The actor of a group.
#[derive(Debug)]
pub(super) struct GroupHandle {
    pub(super) actor: ActorRef<GroupMsg>,
    pub(super) epoch: u64,
    pub(super) slot: usize,
}

impl GroupHandle {
    /// Sends the group a message. An actor that has just failed drops the message together with its reply, which
    /// answers.
    pub(super) fn tell(&self, msg: GroupMsg) {
        drop(self.actor.cast(msg));
    }
}

/// The kind of a child of the root.
#[derive(Debug)]
pub(super) enum ChildKind {
    Cids,
    Executor,
    Group { name: GroupName, epoch: u64 },
}

/// The actors that all groups use.
#[derive(Debug)]
pub(super) struct ServiceActors {
    pub(super) cids: Service<CidMsg>,
    pub(super) executor: Service<ExecutorMsg>,
    pub(super) children: HashMap<ActorId, ChildKind>,
}

impl ServiceActors {
    pub(super) async fn spawn(root: &ActorCell, ledger: Ledger, runner: Runner) -> Result<Self, SpawnErr> {
        let (cids, _) = Actor::spawn_linked(None, CidAllocator, ledger, root.clone()).await?;
        let (executor, _) = Actor::spawn_linked(None, PepitaExecutor, runner, root.clone()).await?;
        let children =
            HashMap::from([(cids.get_id(), ChildKind::Cids), (executor.get_id(), ChildKind::Executor)]);
        Ok(Self { cids: Service::new(cids), executor: Service::new(executor), children })
    }
}
