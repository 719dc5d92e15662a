//! The VM actors of a group: who owns which VM. Keeps books, decides nothing.

use crate::spec::VmName;
use crate::vm::VmMsg;
use ractor::{ActorId, ActorRef};
use std::collections::{BTreeMap, HashMap};

/// The VM actors of a group.
#[derive(Debug, Default)]
pub(crate) struct Actors {
    actors: BTreeMap<VmName, (u64, ActorRef<VmMsg>)>,
    /// All that have been spawned and not yet been reported gone: an actor may have a successor by then.
    ids: HashMap<ActorId, (VmName, u64)>,
}

impl Actors {
    /// This actor owns the VM from now on.
    pub(crate) fn insert(&mut self, vm: &VmName, epoch: u64, actor: ActorRef<VmMsg>) {
        self.ids.insert(actor.get_id(), (vm.clone(), epoch));
        self.actors.insert(vm.clone(), (epoch, actor));
    }

    /// An actor is gone: which it was.
    pub(crate) fn remove(&mut self, id: ActorId) -> Option<(VmName, u64)> {
        let (vm, epoch) = self.ids.remove(&id)?;
        if self.actors.get(&vm).is_some_and(|(owner, _)| *owner == epoch) {
            self.actors.remove(&vm);
        }
        Some((vm, epoch))
    }

    /// Tells the VM's actor, if it is this one. One that has just failed does not hear it, and its successor is told anew.
    pub(crate) fn send(&self, vm: &VmName, epoch: u64, msg: VmMsg) {
        if let Some((owner, actor)) = self.actors.get(vm)
            && *owner == epoch
        {
            drop(actor.cast(msg));
        }
    }

    /// Tells whichever actor owns the VM; without one the message is dropped, and with it its reply.
    pub(crate) fn send_to_owner(&self, vm: &VmName, msg: VmMsg) {
        if let Some((_, actor)) = self.actors.get(vm) {
            drop(actor.cast(msg));
        }
    }
}
