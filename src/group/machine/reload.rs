//! Applies a new configuration to a running group: which changes apply at once, which wait for the next start of a VM, and
//! which VMs are added or removed (semantics 11).

use super::child::{AfterStop, Child, Phase, RunState, Start};
use super::{Roster, Stage};
use crate::group::order::Order;
use crate::journal::Wanted;
use crate::policy::At;
use crate::spec::{GroupSpec, Incarnation, VmName, VmSpec};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Roster {
    /// Takes a new specification of the same group. Policies, budgets, timeouts and probes apply at once and keep their
    /// counters. A VM whose machine, command or environment differs runs on unchanged and is marked; with `restart` the
    /// VM is restarted once. New VMs are started in order, and VMs that are no longer configured are stopped.
    pub fn reload(&mut self, at: At, mut spec: GroupSpec, restart: bool) -> Vec<Order> {
        let vms = std::mem::take(&mut spec.vms);
        self.spec = spec;
        let mut former = std::mem::take(&mut self.children);
        for vm in vms {
            match former.iter().position(|child| *child.name() == vm.name) {
                Some(index) => {
                    let child = self.update_spec(former.remove(index), vm.into());
                    self.children.push(child);
                }
                None => self.add(vm.into()),
            }
        }
        self.reload_sleepers();
        let kept = self.children.len();
        // The VMs that are to be removed stand last, and so are stopped first.
        self.children.extend(former);
        for index in (kept..self.children.len()).rev() {
            self.children[index].wanted = Wanted::Down;
            if self.children[index].may_run_on && !self.children[index].phase.is_live() && self.is_up() {
                self.seek(index, Start::Alone);
            }
            if self.children[index].phase.is_live() {
                self.order_stop(at.now, index, AfterStop::Remove);
            } else {
                self.set(index, Phase::Stopped, None, None);
                self.remove(index);
            }
        }
        if restart && self.is_up() {
            for index in 0..kept {
                // A VM that is on its way down comes back with the new configuration, or not at all.
                let run = self.children[index].phase.run();
                if run.is_some_and(|run| run.outdated && !run.state.is_stopping()) {
                    self.order_stop(at.now, index, AfterStop::Start);
                }
            }
        }
        self.finish(at.now)
    }

    /// Records how far the incarnations of VMs had been numbered before, in another group or by a former run: the numbers go on
    /// from there. The VMs are children of this group, or are about to be added to it.
    pub(crate) fn restore_incarnations(&mut self, known: impl IntoIterator<Item = (VmName, Incarnation)>) {
        let children = self.children.iter_mut().map(|child| (child.name().clone(), child));
        let mut children: BTreeMap<VmName, &mut Child> = children.collect();
        for (vm, incarnation) in known {
            match children.get_mut(&vm) {
                Some(child) => child.go_on_after(incarnation),
                None => {
                    let known = self.retired.entry(vm).or_default();
                    *known = (*known).max(incarnation);
                }
            }
        }
    }

    fn update_spec(&mut self, mut child: Child, spec: Arc<VmSpec>) -> Child {
        let differs = child.spec.fingerprint() != spec.fingerprint();
        if let Phase::Live(run) = &mut child.phase {
            run.outdated |= differs;
            if let RunState::Stopping { then: then @ AfterStop::Remove, .. } = &mut run.state {
                // The VM was being removed and is configured again: the VM is treated as if it were new.
                (child.wanted, *then) = if spec.autostart {
                    (Wanted::Up, AfterStop::Start)
                } else {
                    (Wanted::Down, AfterStop::StayDown)
                };
                child.attempts = 0;
            }
        }
        if child.spec != spec {
            self.orders.push(Order::Update(child.name().clone()));
        }
        child.spec = spec;
        child
    }

    fn add(&mut self, spec: Arc<VmSpec>) {
        let mut child = Child::new(spec);
        child.number(self.retired.remove(child.name()).unwrap_or_default());
        // A VM that is added among the members of a group restart starts together with them.
        let among =
            self.spec.strategy.restarts_all() || self.children.iter().any(|child| self.is_restarting(child));
        if let Some(restart) = &mut self.group_restart
            && among
        {
            restart.members.insert(child.name().clone());
        }
        let wanted = child.wanted == Wanted::Up;
        match &mut self.stage {
            Stage::Waiting { .. } => {
                child.await_group();
                self.children.push(child);
            }
            Stage::Up { ready_told } if wanted => {
                *ready_told = false;
                self.children.push(child);
                self.enqueue_or_sleep(self.children.len() - 1, false);
            }
            Stage::Up { .. } | Stage::GoingDown { .. } | Stage::Down { .. } => self.children.push(child),
        }
    }

    /// Removes a child that is down and no longer in the configuration.
    pub(super) fn remove(&mut self, index: usize) {
        let child = self.children.remove(index);
        if let Some(restart) = &mut self.group_restart {
            restart.members.remove(child.name());
        }
        self.retired.insert(child.name().clone(), child.newest);
        self.orders.push(Order::Remove(child.name().clone()));
    }
}
