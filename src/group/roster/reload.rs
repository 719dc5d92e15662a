//! A new configuration for a running group: what applies at once, what waits for the next start, who comes and goes.

use super::{Roster, Stage};
use crate::group::child::{Child, Phase, Then};
use crate::group::order::{At, Order};
use crate::journal::Wanted;
use crate::spec::{GroupSpec, VmName, VmSpec};

impl Roster {
    /// Takes a new specification of the same group. Policies, budgets, timeouts and probes apply at once and keep their
    /// counters. A VM whose machine, command or environment differs goes on as it is and is marked; with `restart` it
    /// is restarted once. New VMs are started in order, removed ones stopped.
    pub fn reload(&mut self, at: At, mut spec: GroupSpec, restart: bool) -> Vec<Order> {
        let vms = std::mem::take(&mut spec.vms);
        self.spec = spec;
        let mut former = std::mem::take(&mut self.children);
        // A round counts by place, and places move: it is told anew below.
        let round = self.round.take();
        let first = round.as_ref().and_then(|r| former.get(r.first)).map(|child| child.name().clone());
        for vm in vms {
            let child = match former.iter().position(|child| *child.name() == vm.name) {
                Some(place) => self.renewed(former.remove(place), vm),
                None => {
                    let mut child = Child::new(vm);
                    if child.wanted == Wanted::Up && self.stage == Stage::Up {
                        (child.phase, child.sequenced) = (Phase::Waiting, true);
                        self.ready_told = false;
                    }
                    child
                }
            };
            self.children.push(child);
        }
        let kept = self.children.len();
        // Those to be removed stand last, and so are stopped first.
        self.children.extend(former);
        if let (Some(mut round), Some(first)) = (round, first) {
            round.first = self.find(&first).unwrap_or(0).min(kept.saturating_sub(1));
            self.round = Some(round);
        }
        for index in (kept..self.children.len()).rev() {
            self.children[index].wanted = Wanted::Down;
            if self.children[index].phase.is_live() {
                self.order_stop(index, Then::Forget);
                self.children[index].phase = Phase::Stopping { then: Then::Forget };
            } else {
                self.set(index, Phase::Stopped, None, None);
                self.release(index);
                self.forget(index);
            }
        }
        if restart && self.stage == Stage::Up {
            for index in 0..kept.min(self.children.len()) {
                if self.children[index].needs_restart && self.children[index].phase.is_live() {
                    self.order_stop(index, Then::Start);
                }
            }
        }
        self.finish(at.now)
    }

    fn renewed(&mut self, mut child: Child, spec: VmSpec) -> Child {
        let differs = child.spec.fingerprint() != spec.fingerprint();
        child.needs_restart |= differs && child.phase.is_live();
        // It was on its way out, and is wanted again.
        if child.phase == (Phase::Stopping { then: Then::Forget }) {
            child.phase = Phase::Stopping { then: Then::Start };
            child.wanted = Wanted::Up;
        }
        if child.spec != spec {
            self.orders.push(Order::Update(child.name().clone()));
        }
        child.spec = spec;
        child
    }

    pub(super) fn forget(&mut self, index: usize) {
        let child = self.children.remove(index);
        if let Some(round) = &mut self.round
            && index < round.first
        {
            round.first -= 1;
        }
        self.orders.push(Order::Forget(child.name().clone()));
    }

    /// The names of the VMs in start order.
    pub fn names(&self) -> Vec<VmName> {
        self.children.iter().map(|child| child.name().clone()).collect()
    }
}
