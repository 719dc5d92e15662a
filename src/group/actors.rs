//! The VM actors of a group: which actor owns which VM. Decides nothing.

use crate::spec::VmName;
use crate::vm::VmMsg;
use ractor::{ActorId, ActorRef};
use std::collections::{BTreeMap, HashMap};

/// The VM actors of a group.
#[derive(Debug, Default)]
pub(crate) struct Actors {
    owners: BTreeMap<VmName, Owner>,
    /// All actors that have been spawned and not yet been reported gone: an actor may have a successor by then.
    ids: HashMap<ActorId, (VmName, u64)>,
}

/// The actor that owns a VM.
#[derive(Debug)]
struct Owner {
    epoch: u64,
    actor: ActorRef<VmMsg>,
}

impl Actors {
    /// Makes an actor the owner of a VM.
    pub(crate) fn insert(&mut self, vm: &VmName, epoch: u64, actor: ActorRef<VmMsg>) {
        self.ids.insert(actor.get_id(), (vm.clone(), epoch));
        self.owners.insert(vm.clone(), Owner { epoch, actor });
    }

    /// Removes an actor that is gone, and returns its VM and its number.
    pub(crate) fn remove(&mut self, id: ActorId) -> Option<(VmName, u64)> {
        let (vm, epoch) = self.ids.remove(&id)?;
        if self.owners.get(&vm).is_some_and(|owner| owner.epoch == epoch) {
            self.owners.remove(&vm);
        }
        Some((vm, epoch))
    }

    /// Makes the actor of a spare the owner of the VM that the spare becomes.
    pub(crate) fn promote(&mut self, spare: &VmName, vm: &VmName) {
        if let Some(owner) = self.owners.remove(spare) {
            self.ids.insert(owner.actor.get_id(), (vm.clone(), owner.epoch));
            self.owners.insert(vm.clone(), owner);
        }
    }

    /// Sends a message to a VM's actor, if the actor has this number. An actor that has just failed does not receive
    /// the message; the roster gives the same order to its successor.
    pub(crate) fn send(&self, vm: &VmName, epoch: u64, msg: VmMsg) {
        if let Some(owner) = self.owners.get(vm)
            && owner.epoch == epoch
        {
            drop(owner.actor.cast(msg));
        }
    }

    /// Sends a message to the actor that owns a VM at the moment. Without such an actor the message is dropped together
    /// with its reply, which tells the asker.
    pub(crate) fn send_to_owner(&self, vm: &VmName, msg: VmMsg) {
        if let Some(owner) = self.owners.get(vm) {
            drop(owner.actor.cast(msg));
        }
    }
}
