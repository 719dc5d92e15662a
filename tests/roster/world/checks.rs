//! The invariants that hold in every test.

use super::World;
use pepita_supervisor::group::Order;
use pepita_supervisor::journal::Wanted;
use pepita_supervisor::observe::VmPhase;
use pepita_supervisor::spec::{Restart, Strategy, VmName};

impl World {
    /// Asserts, before a VM is launched, that the VM is wanted, and that no VM before it is still on its way
    /// (semantics 5, 7).
    pub(super) fn check_launch(&self, vm: &VmName) {
        use VmPhase::{Backoff, Failed, Running, Starting, Waiting};
        assert!(!self.halted, "{vm} starts after a stop");
        assert_eq!(
            self.roster.view(vm).expect("the VM is in the group").wanted,
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

    /// Asserts that VMs that are stopped without a command for them are stopped in reverse order, one at a time
    /// (semantics 5, 7), except VMs that are only starting: they are ended at once.
    pub(super) fn check_stops(&self, orders: &[Order]) {
        let stops = orders.iter().filter_map(|order| match order {
            Order::Stop { vm, .. } if self.shown.get(vm) != Some(&VmPhase::Starting) => Some(vm),
            _ => None,
        });
        for (index, vm) in stops.enumerate() {
            assert_eq!(index, 0, "two stops at once");
            let names = self.roster.names();
            let mut after = names.iter().skip_while(|after| *after != vm).skip(1);
            // A new configuration may have put other VMs behind the members of a group restart.
            let last = self.reloaded || !after.any(|vm| self.actors.contains_key(vm));
            assert!(last, "{vm} is stopped before those after it");
            // A VM that the operator stops outside of a rest_for_one set has no turn.
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
            let may_run_on = match &phase {
                VmPhase::Failed(failure) => failure.ending.may_run_on(),
                _ => false,
            };
            assert!(
                phase != (VmPhase::Idle { is_paused: false }) || self.awaited.contains(vm),
                "{vm} sleeps and nobody can wake it"
            );
            if let VmPhase::Stopped | VmPhase::Completed | VmPhase::Failed(_) = phase {
                let holds = self.leased.contains(vm);
                assert!(!holds || may_run_on, "{vm} is {phase} and holds its CID");
                assert!(may_run_on || !self.awaited.contains(vm), "{vm} is {phase} and its ports are open");
            }
        }
        for vm in self.roster.names() {
            let spares = self.spares.values().filter(|spare| spare.of == vm && !spare.ending).count();
            let most = self.roster.vm(&vm).map_or(0, |spec| spec.standby);
            assert!(spares <= most as usize, "{vm} has {spares} spares instead of {most}");
            if let Some(memory) = self.journal.get(&vm) {
                assert_eq!(Some(memory), self.roster.remember(&vm).as_ref(), "{vm}: the journal is behind");
            }
        }
        let known = |vm: &VmName| self.roster.phases().any(|(name, _)| name == vm);
        assert!(self.actors.keys().all(known), "a VM that lives was removed from the group");
        assert!(!self.roster.is_down() || self.waits || self.actors.is_empty());
    }
}
