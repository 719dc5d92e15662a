//! The effects about published ports: who listens when, and who is told of clients.

use super::GroupState;
use super::message::GroupMsg;
use super::order::Order;
use crate::ports::TellPortNews;
use crate::spec::VmName;
use ractor::ActorRef;

impl GroupState {
    /// Releases the CIDs of VMs that stay down: a former actor, or a former supervisor, may have failed before that. The
    /// ports of VMs that are to come are opened, so that their clients wait from now on.
    pub(super) fn settle_what_is_down(&mut self) {
        for vm in self.roster.at_rest() {
            self.shared.services.ports.close(&vm);
            self.release(vm);
        }
        for spec in self.roster.to_come().filter(|spec| !spec.publish.is_empty()) {
            // A port that cannot be opened is told at the launch.
            let _ = self.shared.services.ports.open(&spec.name, &spec.publish);
        }
    }

    /// Opens the ports of VMs that fall asleep and closes those of VMs that are down for good, in the order of the orders. A
    /// client that is told that a VM is idle can connect to it, and one that is told of a stop is refused.
    pub(super) fn settle_ports(&self, me: &ActorRef<GroupMsg>, orders: &[Order]) {
        for order in orders {
            if let Order::AwaitClient(vm) = order {
                self.await_client(me, vm);
            } else if let Order::Release(vm) = order {
                self.shared.services.ports.close(vm);
            }
        }
    }

    fn await_client(&self, me: &ActorRef<GroupMsg>, vm: &VmName) {
        let Some(ports) = self.roster.vm(vm).map(|spec| spec.publish.clone()) else { return };
        let (me, name) = (me.clone(), vm.clone());
        // This actor may have failed meanwhile; its successor waits anew.
        let tell = TellPortNews::new(move |news| drop(me.cast(GroupMsg::Port { vm: name.clone(), news })));
        self.shared.services.ports.await_client(vm.clone(), ports, tell);
    }
}
