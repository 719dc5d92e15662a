//! What must never be, whatever a test is about.

use super::World;
use pepita_supervisor::group::Order;
use pepita_supervisor::journal::Wanted;
use pepita_supervisor::observe::VmPhase;
use pepita_supervisor::spec::{Restart, Strategy, VmName};

impl World {
    /// Before a VM is launched: somebody wants it, and nobody before it is still on its way (semantics 5, 7).
    pub(super) fn check_launch(&self, vm: &VmName) {
        use VmPhase::{Backoff, Failed, Running, Starting, Waiting};
        assert!(!self.halted, "{vm} starts after a stop");
        assert_eq!(
            self.roster.view(vm).expect("it is in the group").wanted,
            Wanted::Up,
            "{vm} is not wanted"
        );
        let waited = self.changes.last().is_some_and(|change| change.from == Waiting);
        let names = self.roster.names();
        for before in names.iter().take_while(|before| *before != vm) {
            let never = self.roster.vm(before).is_some_and(|spec| spec.restart.policy == Restart::Never);
            let in_the_way = match (self.strategy, &self.shown.get(before)) {
                (Strategy::OneForOne, Some(Waiting)) => waited,
                (Strategy::OneForOne, _) => false,
                (Strategy::RestForOne, Some(Failed(_))) => !never,
                (_, Some(Waiting | Starting | Running | Backoff { .. })) => true,
                (_, _) => false,
            };
            assert!(!in_the_way, "{vm} starts before {before}");
        }
    }

    /// What is stopped without anybody having asked for this VM is stopped last first, one at a time (semantics 5, 7),
    /// but for those that only start: they are ended at once.
    pub(super) fn check_stops(&self, orders: &[Order]) {
        let stops = orders.iter().filter_map(|order| match order {
            Order::Stop { vm, .. } if self.shown.get(vm) != Some(&VmPhase::Starting) => Some(vm),
            _ => None,
        });
        for (index, vm) in stops.enumerate() {
            assert_eq!(index, 0, "two stops at once");
            let names = self.roster.names();
            let mut after = names.iter().skip_while(|after| *after != vm).skip(1);
            // A new configuration may have put others behind the members of a group restart.
            let last = self.reloaded || !after.any(|vm| self.actors.contains_key(vm));
            assert!(last, "{vm} is stopped before those after it");
            // One that the operator stops outside of a rest_for_one set is nobody's turn.
            let all = self.halted || self.strategy == Strategy::OneForAll;
            let another = self.actors.iter().any(|(other, actor)| actor.stopping && other != vm);
            assert!(self.reloaded || !all || !another, "{vm} is stopped while another one is");
        }
    }

    pub(super) fn check(&self) {
        for (vm, phase) in self.roster.phases() {
            let actor = self.actors.get(vm);
            assert_eq!(phase.is_live(), actor.is_some(), "{vm} is {phase}");
            assert_eq!(self.roster.epoch(vm), actor.map(|actor| actor.epoch));
            let stopping = actor.is_some_and(|actor| actor.stopping);
            assert_eq!(phase == VmPhase::Stopping, stopping, "{vm} is {phase}");
            if let VmPhase::Stopped | VmPhase::Completed | VmPhase::Failed(_) = phase {
                assert!(!self.leased.contains(vm), "{vm} is {phase} and holds its CID");
            }
        }
        for vm in self.roster.names() {
            if let Some(memory) = self.journal.get(&vm) {
                assert_eq!(Some(memory), self.roster.remember(&vm).as_ref(), "{vm}: the journal is behind");
            }
        }
        let known = |vm: &VmName| self.roster.phases().any(|(name, _)| name == vm);
        assert!(self.actors.keys().all(known), "somebody was forgotten alive");
        assert!(!self.roster.is_down() || self.waits || self.actors.is_empty());
    }
}
