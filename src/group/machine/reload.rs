//! A new configuration for a running group: what applies at once, what waits for the next start, who comes and goes.

use super::{Roster, Stage};
use crate::group::machine::child::{Child, Phase, Then};
use crate::group::order::{At, Order};
use crate::journal::Wanted;
use crate::spec::{GroupSpec, Incarnation, Strategy, VmName, VmSpec};

impl Roster {
    /// Takes a new specification of the same group. Policies, budgets, timeouts and probes apply at once and keep their
    /// counters. A VM whose machine, command or environment differs goes on as it is and is marked; with `restart` it
    /// is restarted once. New VMs are started in order, removed ones stopped.
    pub fn reload(&mut self, at: At, mut spec: GroupSpec, restart: bool) -> Vec<Order> {
        let vms = std::mem::take(&mut spec.vms);
        self.spec = spec;
        let mut former = std::mem::take(&mut self.children);
        for vm in vms {
            match former.iter().position(|child| *child.name() == vm.name) {
                Some(place) => {
                    let child = self.renewed(former.remove(place), vm);
                    self.children.push(child);
                }
                None => self.add(vm),
            }
        }
        let kept = self.children.len();
        // Those to be removed stand last, and so are stopped first.
        self.children.extend(former);
        for index in (kept..self.children.len()).rev() {
            self.children[index].wanted = Wanted::Down;
            if self.children[index].phase.is_live() {
                self.order_stop(at.now, index, Then::Forget);
            } else {
                self.set(index, Phase::Stopped, None, None);
                self.forget(index);
            }
        }
        if restart && self.stage == Stage::Up {
            for index in 0..kept {
                let child = &self.children[index];
                // One that is on its way down comes back with the new configuration, or not at all.
                let stopping = matches!(child.phase, Phase::Stopping { .. });
                if child.needs_restart && child.phase.is_live() && !stopping {
                    self.order_stop(at.now, index, Then::Start);
                }
            }
        }
        self.finish(at.now)
    }

    /// A VM that is to be added was known elsewhere, up to this incarnation.
    pub(crate) fn recall(&mut self, vm: &VmName, incarnation: Incarnation) {
        let known = self.retired.entry(vm.clone()).or_default();
        *known = (*known).max(incarnation);
    }

    fn renewed(&mut self, mut child: Child, spec: VmSpec) -> Child {
        let differs = child.spec.fingerprint() != spec.fingerprint();
        child.needs_restart |= differs && child.phase.is_live();
        if child.phase == (Phase::Stopping { then: Then::Forget }) {
            // It was on its way out, and is to be there again as if it were new.
            let wanted = if spec.autostart { Wanted::Up } else { Wanted::Down };
            let then = if spec.autostart { Then::Start } else { Then::Stay };
            (child.phase, child.wanted, child.attempts) = (Phase::Stopping { then }, wanted, 0);
        }
        if child.spec != spec {
            self.orders.push(Order::Update(child.name().clone()));
        }
        child.spec = spec;
        child
    }

    fn add(&mut self, spec: VmSpec) {
        let mut child = Child::new(spec);
        child.incarnation = self.retired.remove(child.name()).unwrap_or_default();
        // It starts with those among which it stands.
        let among = self.spec.strategy == Strategy::OneForAll || self.children.iter().any(|c| c.in_round);
        child.in_round = self.round.is_some() && among;
        let starts = child.wanted == Wanted::Up && self.stage == Stage::Up;
        self.children.push(child);
        if starts {
            self.ready_told = false;
            self.enqueue(self.children.len() - 1, None);
        }
    }

    pub(super) fn forget(&mut self, index: usize) {
        let child = self.children.remove(index);
        self.retired.insert(child.name().clone(), child.incarnation);
        self.orders.push(Order::Forget(child.name().clone()));
    }

    /// The names of the VMs in start order.
    pub fn names(&self) -> Vec<VmName> {
        self.children.iter().map(|child| child.name().clone()).collect()
    }
}
