//! Brings a group and its VMs up: in start order, each VM after the VMs before it are Ready (semantics 1, 5).

use super::child::{Child, Origin, Phase, Run, RunState, Start};
use super::{Roster, Stage};
use crate::group::order::{Found, Order};
use crate::journal::Wanted;
use crate::policy::{At, Ending};
use crate::spec::VmName;
use crate::vm::Mode;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// The treatment, at the start of a group, of the VMs that gave up before.
enum GaveUp {
    /// The VMs that gave up are tried again, except the VMs of this set.
    TryAgainBut(BTreeSet<VmName>),
    /// The VMs that gave up stay down.
    Leave,
}

impl Child {
    /// Makes a child that is to be up wait for the start of its group.
    pub(super) fn await_group(&mut self) {
        if self.phase == Phase::Stopped && self.wanted == Wanted::Up {
            self.phase = Phase::AwaitingGroup;
        }
    }
}

impl Roster {
    /// Brings the group up: judges the ends that were found, adopts the VMs that run, and starts the rest in order. A
    /// VM that gave up is tried again with its group, unless the VM gave up while the group waited.
    pub fn start(&mut self, at: At) -> Vec<Order> {
        let (found, mut gave_up) = match &mut self.stage {
            Stage::Waiting { found, gave_up } => (std::mem::take(found), std::mem::take(gave_up)),
            Stage::Up { .. } | Stage::GoingDown { .. } | Stage::Down { .. } => Default::default(),
        };
        gave_up.extend(found.keys().cloned());
        self.come_up(at, &found, &GaveUp::TryAgainBut(gave_up))
    }

    /// Continues the work of a former actor of the group, which has failed. This is a start in which the VMs that had
    /// given up stay down.
    pub fn resume(&mut self, at: At, found: &BTreeMap<VmName, Found>) -> Vec<Order> {
        self.come_up(at, found, &GaveUp::Leave)
    }

    /// Brings the group up after an escalation, without failures and with an empty window. Every VM that is to be up is
    /// started, as by a restarted supervisor of OTP: also the VMs that had given up or had ended cleanly (semantics 6).
    pub fn start_afresh(&mut self, at: At) -> Vec<Order> {
        self.window.clear();
        for index in 0..self.children.len() {
            self.children[index].attempts = 0;
            match self.children[index].phase {
                Phase::Completed | Phase::Failed(_) | Phase::Backoff { .. } | Phase::AwaitingTurn { .. } => {
                    self.set(index, Phase::Stopped, None, None);
                }
                // The operator may have started a child while the group was down.
                Phase::Stopped | Phase::AwaitingGroup | Phase::Idle { .. } | Phase::Live(_) => {}
            }
        }
        self.come_up(at, &BTreeMap::new(), &GaveUp::Leave)
    }

    fn come_up(&mut self, at: At, found: &BTreeMap<VmName, Found>, gave_up: &GaveUp) -> Vec<Order> {
        self.stage = Stage::Up { ready_told: false };
        for index in 0..self.children.len() {
            // A live child was adopted, or started by the operator, while the group waited.
            if let Some(found) = found.get(self.children[index].name())
                && !self.children[index].phase.is_live()
            {
                self.take_over(at, index, found);
            }
        }
        for index in 0..self.children.len() {
            let child = &self.children[index];
            let starts = match (&child.phase, gave_up) {
                (Phase::Stopped | Phase::AwaitingGroup, GaveUp::TryAgainBut(_) | GaveUp::Leave) => true,
                (Phase::Failed(_), GaveUp::TryAgainBut(not_these)) => !not_these.contains(child.name()),
                (Phase::Failed(_), GaveUp::Leave)
                | (
                    Phase::AwaitingTurn { .. }
                    | Phase::Idle { .. }
                    | Phase::Live(_)
                    | Phase::Backoff { .. }
                    | Phase::Completed,
                    GaveUp::TryAgainBut(_) | GaveUp::Leave,
                ) => false,
            };
            // The end of a VM that was found may have taken the group down already.
            if starts && child.wanted == Wanted::Up && self.is_up() {
                self.enqueue_or_sleep(index, true);
            }
        }
        self.finish(at.now)
    }

    /// Makes a child wait for its turn.
    pub(super) fn enqueue(&mut self, index: usize, first_start: bool) {
        self.set(index, Phase::AwaitingTurn { first_start }, None, None);
    }

    /// Starts the children whose own delay is over.
    pub(super) fn start_what_is_due(&mut self, now: Instant) {
        for index in 0..self.children.len() {
            let child = &self.children[index];
            let due = match child.phase {
                Phase::Backoff { until, .. } => until <= now && !self.is_restarting(child),
                Phase::Stopped
                | Phase::AwaitingGroup
                | Phase::AwaitingTurn { .. }
                | Phase::Idle { .. }
                | Phase::Live(_)
                | Phase::Completed
                | Phase::Failed(_) => false,
            };
            if due {
                self.start_or_queue(index, Start::Alone);
            }
        }
    }

    /// Starts the children whose turn has come: no child before them is still on its way to Ready.
    pub(super) fn start_in_turn(&mut self) {
        for index in 0..self.children.len() {
            let start = match self.children[index].phase {
                Phase::AwaitingTurn { first_start: true } => Start::WithGroup,
                Phase::AwaitingTurn { first_start: false } => Start::InTurn,
                Phase::Stopped
                | Phase::AwaitingGroup
                | Phase::Idle { .. }
                | Phase::Live(_)
                | Phase::Backoff { .. }
                | Phase::Completed
                | Phase::Failed(_) => continue,
            };
            if !self.must_wait(index, start) {
                self.launch(index, start);
            }
        }
    }

    /// Starts a child, or makes the child wait for its turn if a child before it is in the way.
    pub(super) fn start_or_queue(&mut self, index: usize, start: Start) {
        if self.must_wait(index, start) {
            self.enqueue(index, start.is_first());
        } else {
            self.launch(index, start);
        }
    }

    fn launch(&mut self, index: usize, start: Start) {
        if self.children[index].may_run_on {
            return self.seek(index, start);
        }
        let next = self.children[index].newest.next();
        self.children[index].number(next);
        self.children[index].is_drowsy = false;
        if let Some(spare) = self.take_spare(index) {
            let (vm, epoch) = (self.children[index].name().clone(), spare.epoch);
            let state = RunState::Starting { origin: Origin::Promoted, start };
            self.set(index, Phase::Live(Run { epoch, state, ready_for: None, outdated: false }), None, None);
            return self.orders.push(Order::Promote { spare: spare.name, vm, incarnation: next, epoch });
        }
        self.give_place_back(index);
        let epoch = self.next_epoch();
        let state = RunState::Starting { origin: Origin::Booted, start };
        self.set(index, Phase::Live(Run { epoch, state, ready_for: None, outdated: false }), None, None);
        self.spawn(index, Mode::Launch);
    }

    /// Orders an actor that looks for a VM that was given up and may run on: the VM is taken over if it runs, and
    /// launched anew if it is gone (semantics 13.2).
    pub(super) fn seek(&mut self, index: usize, start: Start) {
        let epoch = self.next_epoch();
        let state = RunState::Starting { origin: Origin::Sought, start };
        self.set(index, Phase::Live(Run { epoch, state, ready_for: None, outdated: false }), None, None);
        self.spawn(index, Mode::Adopt);
    }

    /// Starts a VM that was sought and is gone, or whose spare could not take its place.
    pub(super) fn start_instead(&mut self, index: usize, start: Start, ending: Ending) {
        match self.stage {
            Stage::Up { .. } | Stage::Waiting { .. } => {
                let first_start = start.is_first();
                self.set(index, Phase::AwaitingTurn { first_start }, Some(ending), None);
                self.start_or_queue(index, start);
            }
            Stage::GoingDown { .. } | Stage::Down { .. } => {
                self.set(index, Phase::Stopped, Some(ending), None);
            }
        }
    }

    fn must_wait(&self, index: usize, start: Start) -> bool {
        // With one_for_one the children do not depend on each other: only children that are started in turn wait.
        let in_turn = start.is_in_turn() || self.spec.strategy.is_sequenced();
        self.is_restarting(&self.children[index])
            || in_turn && self.children[..index].iter().any(|before| self.holds_up(before))
    }

    /// Returns whether the children after `child` wait for it.
    fn holds_up(&self, child: &Child) -> bool {
        let on_its_way = child.phase.is_on_its_way();
        if !self.spec.strategy.is_sequenced() {
            // With one_for_one a child that cannot start does not hold up the others.
            return on_its_way && child.phase.run().is_none_or(|run| run.state.start().is_in_turn());
        }
        self.is_restarting(child)
            || match child.phase {
                Phase::Backoff { .. } => true,
                Phase::Failed(_) => {
                    self.spec.strategy.waits_behind_failed() && child.spec.restart.policy.ever_restarts()
                }
                Phase::Stopped
                | Phase::AwaitingGroup
                | Phase::AwaitingTurn { .. }
                | Phase::Idle { .. }
                | Phase::Live(_)
                | Phase::Completed => on_its_way,
            }
    }

    /// Reports, once, that all VMs of the group that are to be up are Ready.
    pub(super) fn tell_ready(&mut self) {
        // Stopped VMs are left out: the operator wants them down, or no rule will start them.
        let ready = |phase: &Phase| match phase {
            Phase::Completed | Phase::Stopped | Phase::Idle { .. } => true,
            Phase::Live(run) => matches!(run.state, RunState::Ready { .. }),
            Phase::AwaitingGroup | Phase::AwaitingTurn { .. } | Phase::Backoff { .. } | Phase::Failed(_) => {
                false
            }
        };
        let all = self.children.iter().all(|child| child.wanted == Wanted::Down || ready(&child.phase));
        if let Stage::Up { ready_told } = &mut self.stage
            && all
            && !std::mem::replace(ready_told, true)
        {
            self.orders.push(Order::GroupReady);
        }
    }
}
