//! The effects about warm spares: their actors, their reports, what they hold.

use super::message::GroupMsg;
use super::order::Order;
use super::{GroupState, at};
use crate::cid::CidMsg;
use crate::executor::ExecutorMsg;
use crate::observe::EventKind;
use crate::policy::Ending;
use crate::spec::{Incarnation, VmName};
use crate::vm::{Mode, Promotion, Transition, Vm, VmArgs, VmEvent, VmMsg, VmReport};
use ractor::{Actor, ActorRef};

impl GroupState {
    /// Spawns the actor of a spare.
    pub(super) async fn spawn_spare(
        &mut self,
        me: &ActorRef<GroupMsg>,
        spare: VmName,
        of: &VmName,
        epoch: u64,
        mode: Mode,
    ) {
        let Some(spec) = self.roster.vm(of).map(|spec| spec.of_spare(spare.clone())) else { return };
        // A spare has no count of its own. The number of the VM before it tells it from what an earlier one has left.
        let incarnation = self.roster.view(of).map_or(Incarnation(1), |view| view.incarnation);
        let args = VmArgs {
            spec: spec.into(),
            spare_of: Some(of.clone()),
            incarnation,
            epoch,
            mode,
            services: self.shared.services.clone(),
            written: self.shared.journal.written(),
            report: me.get_derived(),
        };
        // The actor's `pre_start` only sends itself a message, so that the wait is short.
        match Actor::spawn_linked(None, Vm, args, me.get_cell()).await {
            Ok((actor, _)) => self.actors.insert(&spare, epoch, actor),
            // An error means only that this actor is about to end.
            Err(e) => drop(me.cast(GroupMsg::VmActorGone { vm: spare, epoch, why: e.to_string() })),
        }
    }

    /// Makes a spare the VM whose place it takes: its actor, and what it holds.
    pub(super) fn promote(&mut self, spare: VmName, vm: VmName, incarnation: Incarnation, epoch: u64) {
        let Some(spec) = self.roster.vm(&vm).cloned() else { return };
        self.actors.promote(&spare, &vm);
        self.probes.remove(&vm);
        let facts = self.facts.remove(&spare).unwrap_or_default();
        self.shared.journal.save_cid(&vm, facts.cid);
        self.facts.insert(vm.clone(), facts);
        // The executor may end the VM that the spare becomes, and the allocator gives its CID to no other.
        self.shared.services.cids.send(CidMsg::Pass { from: spare.clone(), to: vm.clone() });
        self.shared.services.executor.send(ExecutorMsg::Own { vm: vm.clone(), incarnation });
        let written = self.shared.journal.written();
        let promotion = Promotion { spec, incarnation, written };
        self.actors.send(&vm, epoch, VmMsg::Promote(promotion));
        let text = format!("{spare} takes its place");
        self.tell(EventKind::Notice { vm: Some(vm), text });
    }

    /// Releases what a spare held, which is gone.
    pub(super) fn forget_spare(&mut self, spare: VmName) {
        self.facts.remove(&spare);
        self.shared.services.cids.send(CidMsg::Release(spare));
    }

    /// Takes in the report of a spare's actor. Returns the orders that follow.
    pub(super) fn spare_reported(&mut self, of: VmName, report: VmReport) -> Vec<Order> {
        let VmReport { vm: spare, epoch, event } = report;
        match event {
            VmEvent::Transition(Transition::SpareReady) => {
                self.tell(EventKind::Notice { vm: Some(of), text: format!("its spare {spare} is ready") });
                return self.roster.spare_ready(at(), &spare, epoch);
            }
            VmEvent::Transition(_) | VmEvent::Probed(_) | VmEvent::Timings(_) => {}
            VmEvent::Ended(ending) => {
                let (by_itself, orders) = self.roster.spare_ended(at(), &spare, epoch);
                if by_itself {
                    let text = format!("its spare {spare} has ended ({ending}); another one is booted");
                    self.tell(EventKind::Notice { vm: Some(of), text });
                }
                return orders;
            }
            VmEvent::Facts(facts) => drop(self.facts.insert(spare, facts)),
            VmEvent::Notice(text) => {
                self.tell(EventKind::Notice { vm: Some(of), text: format!("its spare {spare}: {text}") });
            }
        }
        Vec::new()
    }

    /// Returns a report that the actor of a spare has made before it learned that the spare is a VM, as one about the VM.
    pub(super) fn as_promoted(&self, report: VmReport) -> Option<VmReport> {
        let vm = self.roster.owned_by(report.epoch)?.clone();
        let event = match report.event {
            VmEvent::Ended(ending) => VmEvent::Ended(Ending::NotLaunched {
                recoverable: true,
                refused: false,
                message: format!("its spare {} ended before: {ending}", report.vm),
            }),
            VmEvent::Facts(facts) => VmEvent::Facts(facts),
            VmEvent::Transition(_) | VmEvent::Probed(_) | VmEvent::Timings(_) | VmEvent::Notice(_) => {
                return None;
            }
        };
        Some(VmReport { vm, epoch: report.epoch, event })
    }
}
