//! Spawns the actors under the root, and their successors.

use super::children::{ChildKind, GroupHandle};
use super::{RootMsg, RootState, at};
use crate::cid::{CidAllocator, CidMsg};
use crate::executor::{ExecutorMsg, PepitaExecutor};
use crate::group::{Group, GroupArgs, GroupEnd, InitialState};
use crate::reply::Reply;
use crate::spec::{GroupName, GroupSpec, VmName};
use crate::tree::recovery::Recovery;
use crate::tree::schedule::Step;
use ractor::{Actor, ActorRef, SpawnErr};

impl RootState {
    /// Spawns the actor of a group.
    pub(super) async fn spawn_group(
        &mut self,
        me: &ActorRef<RootMsg>,
        spec: GroupSpec,
        slot: usize,
        initial: InitialState,
        ended: Option<GroupEnd>,
    ) -> Result<(), SpawnErr> {
        self.last_epoch += 1;
        let (name, epoch) = (spec.name.clone(), self.last_epoch);
        let shared = self.shared.clone();
        let args = GroupArgs { spec, slot, epoch, initial, ended, shared, report: me.get_derived() };
        // The actor's `pre_start` only asks and spawns, so that the wait is short.
        let (actor, _) = Actor::spawn_linked(None, Group, args, me.get_cell()).await?;
        self.children.insert(actor.get_id(), ChildKind::Group { name: name.clone(), epoch });
        self.groups.insert(name, GroupHandle { actor, epoch, slot });
        Ok(())
    }

    /// Spawns the successor of a group's actor that has failed, and its VM actors with it. The VMs are not affected:
    /// the successor takes them over.
    pub(super) async fn recover_group(
        &mut self,
        me: &ActorRef<RootMsg>,
        group: GroupName,
        epoch: u64,
        why: &str,
    ) -> Result<Vec<Step>, SpawnErr> {
        let current = self.groups.get(&group).filter(|handle| handle.epoch == epoch);
        let (Some(slot), None) = (current.map(|handle| handle.slot), &self.shutdown) else {
            return Ok(Vec::new());
        };
        let (goal, steps) = self.schedule.group_failed(at().now, &group, why);
        let status = self.shared.status_table.snapshot();
        let recovery = goal.and_then(|goal| Recovery::of(&group, goal, &self.spec, &status));
        let Some(Recovery { spec, goal, ended, abandoned }) = recovery else { return Ok(steps) };
        for vm in abandoned {
            self.remove_vm(&vm);
        }
        self.spawn_group(me, spec, slot, InitialState::Unknown(goal), ended).await?;
        Ok(steps)
    }

    /// Kills a VM that belongs to no group any more.
    fn remove_vm(&self, vm: &VmName) {
        let (cids, name) = (self.shared.services.cids.clone(), vm.clone());
        self.shared.services.ports.close(vm);
        // The CID of the VM is free when the VM is confirmed gone, not before.
        let reply = Reply::new(move |done: Option<Result<(), _>>| {
            if let Some(Ok(())) = done {
                cids.send(CidMsg::Release(name));
            }
        });
        self.shared.services.executor.send(ExecutorMsg::Destroy { vm: vm.clone(), reply });
        self.shared.journal.remove(vm);
    }

    /// Spawns the successor of the CID allocator. The ledger of the leases has survived.
    pub(super) async fn replace_cids(&mut self, me: &ActorRef<RootMsg>, why: &str) -> Result<(), SpawnErr> {
        let (actor, _) = Actor::spawn_linked(None, CidAllocator, self.ledger.clone(), me.get_cell()).await?;
        self.children.insert(actor.get_id(), ChildKind::Cids);
        self.shared.services.cids.replace(actor);
        let steps = self.schedule.service_failed(at().now, &format!("the CID allocator failed: {why}"));
        self.carry_out(me, steps);
        Ok(())
    }

    /// Spawns the successor of the executor. The runner has survived, with every call that the executor had submitted.
    pub(super) async fn replace_executor(
        &mut self,
        me: &ActorRef<RootMsg>,
        why: &str,
    ) -> Result<(), SpawnErr> {
        let (actor, _) =
            Actor::spawn_linked(None, PepitaExecutor, self.runner.clone(), me.get_cell()).await?;
        self.children.insert(actor.get_id(), ChildKind::Executor);
        self.shared.services.executor.replace(actor);
        let steps = self.schedule.service_failed(at().now, &format!("the executor failed: {why}"));
        self.carry_out(me, steps);
        Ok(())
    }
}
