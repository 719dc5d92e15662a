//! Spawns the actors under the root, and spawns them again.

use super::{Home, RootMsg, RootState, Step, at};
use crate::cid::{CidAllocator, CidMsg, Pool};
use crate::executor::{ExecutorMsg, PepitaExecutor};
use crate::group::{Goal, Group, GroupArgs, GroupMsg, InitialState};
use crate::reply::Reply;
use crate::spec::{Cid, GroupName, GroupSpec, VmName};
use ractor::{Actor, ActorRef, SpawnErr};

/// A group's actor.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) actor: ActorRef<GroupMsg>,
    pub(super) epoch: u64,
    pub(super) slot: usize,
}

impl Member {
    /// One that has just failed does not hear it, and replies in the message are dropped, which answers.
    pub(super) fn tell(&self, msg: GroupMsg) {
        drop(self.actor.cast(msg));
    }
}

/// Which child an actor is.
#[derive(Debug)]
pub(super) enum Who {
    Cids,
    Executor,
    Group(GroupName, u64),
}

/// All CIDs that are known to be held: by VMs that run, then by those that the journal knows of.
pub(super) fn pool(supervisor: &str, running: &[(VmName, Cid)], home: &Home) -> Pool {
    let mut pool = Pool::new(supervisor);
    for (vm, cid) in running.iter().cloned().chain(home.journal.cids()) {
        let held = pool.holders().any(|(holder, _)| *holder == vm);
        // What cannot be reserved is found out by the launcher, which claims each CID of the host.
        if !held && let Err(e) = pool.reserve(&vm, cid) {
            tracing::warn!("{vm}: {e}");
        }
    }
    pool
}

impl RootState {
    /// Spawns the actor of a group.
    pub(super) async fn raise(
        &mut self,
        me: &ActorRef<RootMsg>,
        spec: GroupSpec,
        slot: usize,
        initial: InitialState,
        ended: Option<String>,
    ) -> Result<(), SpawnErr> {
        self.last_epoch += 1;
        let (name, epoch) = (spec.name.clone(), self.last_epoch);
        let shared = self.shared.clone();
        let args = GroupArgs { spec, slot, epoch, initial, ended, shared, report: me.get_derived() };
        // Its `pre_start` only asks and spawns: nothing is waited for here.
        let (actor, _) = Actor::spawn_linked(None, Group, args, me.get_cell()).await?;
        self.children.insert(actor.get_id(), Who::Group(name.clone(), epoch));
        self.groups.insert(name, Member { actor, epoch, slot });
        Ok(())
    }

    /// A group's actor has failed, and its VM actors with it. The VMs did not notice: a successor takes them over.
    pub(super) async fn group_gone(
        &mut self,
        me: &ActorRef<RootMsg>,
        group: GroupName,
        epoch: u64,
        why: &str,
    ) -> Result<Vec<Step>, SpawnErr> {
        let current = self.groups.get(&group).filter(|member| member.epoch == epoch);
        let (Some(slot), None) = (current.map(|member| member.slot), &self.ending) else {
            return Ok(Vec::new());
        };
        let status = self.shared.status_table.snapshot().groups.into_iter().find(|known| known.name == group);
        let (then, steps) = self.schedule.group_failed(at().now, &group, why);
        let Some(then) = then else { return Ok(steps) };
        let mut spec = self.spec.groups.iter().find(|known| known.name == group).cloned();
        if then == Goal::Down && spec.is_none() {
            // It was on its way out of the configuration.
            spec = Some(GroupSpec::new(group.clone(), Vec::new()));
        }
        let Some(spec) = spec else { return Ok(steps) };
        // VMs that were being removed from it are in no configuration any more: nobody else would end them.
        let leaving = status.iter().flat_map(|status| &status.vms).map(|vm| &vm.name);
        for vm in leaving.filter(|vm| !spec.vms.iter().any(|known| known.name == **vm)) {
            let (cids, name) = (self.shared.services.cids.clone(), vm.clone());
            // Its CID is free when it is confirmed gone, not before.
            let reply = Reply::new(move |done: Option<Result<(), _>>| {
                if let Some(Ok(())) = done {
                    cids.send(CidMsg::Release(name));
                }
            });
            self.shared.services.executor.send(ExecutorMsg::Destroy { vm: vm.clone(), reply });
            self.shared.journal.remove(vm);
        }
        let ended = status.and_then(|status| status.ended);
        self.raise(me, spec, slot, InitialState::Unknown(then), ended).await?;
        Ok(steps)
    }

    /// The allocator has failed. Its book was not its own.
    pub(super) async fn replace_cids(&mut self, me: &ActorRef<RootMsg>, why: &str) -> Result<(), SpawnErr> {
        let (actor, _) = Actor::spawn_linked(None, CidAllocator, self.ledger.clone(), me.get_cell()).await?;
        self.children.insert(actor.get_id(), Who::Cids);
        self.shared.services.cids.replace(actor);
        let steps = self.schedule.service_failed(at().now, &format!("the CID allocator failed: {why}"));
        self.carry_out(me, steps);
        Ok(())
    }

    /// The executor has failed. Calls under way come to their end; those that waited were answered with an error.
    pub(super) async fn replace_executor(
        &mut self,
        me: &ActorRef<RootMsg>,
        why: &str,
    ) -> Result<(), SpawnErr> {
        let (actor, _) =
            Actor::spawn_linked(None, PepitaExecutor, self.runner.clone(), me.get_cell()).await?;
        self.children.insert(actor.get_id(), Who::Executor);
        self.shared.services.executor.replace(actor);
        let steps = self.schedule.service_failed(at().now, &format!("the executor failed: {why}"));
        self.carry_out(me, steps);
        Ok(())
    }
}
