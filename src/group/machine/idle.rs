//! Puts VMs to sleep, and wakes them when a client comes (semantics 20). A sleeping VM needs no turn, holds up no other
//! VM, and its start is no restart: it has no attempt and no entry in the window.

use super::child::{Child, Phase, Run, RunState, Start};
use super::{Roster, Stage};
use crate::group::order::Order;
use crate::policy::{At, Ending};
use crate::spec::{StartOn, VmName};
use crate::vm::Transition;
use std::time::Instant;

impl Child {
    /// Returns whether the configuration lets the child sleep.
    pub(super) fn may_be_idle(&self) -> bool {
        self.spec.start.on == StartOn::Connection || self.spec.idle.is_set()
    }

    /// Returns whether the start of the group leaves the child asleep.
    pub(super) fn sleeps_at_start(&self) -> bool {
        self.spec.start.on == StartOn::Connection || self.is_drowsy && self.spec.idle.is_set()
    }

    /// Returns whether the child sleeps after a clean end by itself, in place of being completed. A significant child has
    /// ended then, and its group may have, too.
    pub(super) fn sleeps_at_end(&self) -> bool {
        self.spec.start.on == StartOn::Connection && !self.spec.significant
    }
}

impl Roster {
    /// Records that a client waits at a port of a VM.
    pub fn client_came(&mut self, at: At, vm: &VmName) -> Vec<Order> {
        if let Some(index) = self.find(vm)
            && let Phase::Idle { is_called, .. } = &mut self.children[index].phase
        {
            *is_called = true;
        }
        self.finish(at.now)
    }

    /// Makes a child that is to be up wait for its turn, or sleep until a client comes.
    pub(super) fn enqueue_or_sleep(&mut self, index: usize, first_start: bool) {
        match self.children[index].sleeps_at_start() {
            true => self.sleep(index),
            false => self.enqueue(index, first_start),
        }
    }

    fn sleep(&mut self, index: usize) {
        self.children[index].is_drowsy = false;
        self.set(index, Phase::Idle { not_before: None, is_called: false }, None, None);
    }

    /// Lets a child sleep that has ended so.
    pub(super) fn sleep_after(&mut self, index: usize, ending: Ending) {
        self.set(index, Phase::Idle { not_before: None, is_called: false }, Some(ending), None);
    }

    /// Has a child that is paused for its sleep wake up.
    pub(super) fn wake(&mut self, index: usize) {
        let child = &self.children[index];
        if let Phase::Live(Run { epoch, state: RunState::Paused { is_asleep: true, .. }, .. }) = child.phase {
            self.orders.push(Order::Wake { vm: child.name().clone(), epoch });
        }
    }

    /// Applies a report about whether a VM is used; `None` for another report. A VM of a group that is going down, or restarts, is
    /// not put to sleep.
    pub(super) fn drowsiness(&mut self, at: At, index: usize, transition: Transition) -> Option<Vec<Order>> {
        let goes_on = match self.stage {
            Stage::Up { .. } | Stage::Waiting { .. } => !self.is_restarting(&self.children[index]),
            Stage::GoingDown { .. } | Stage::Down { .. } => false,
        };
        let child = &mut self.children[index];
        match transition {
            Transition::Idle => {
                if let Phase::Live(Run { epoch, state: RunState::Ready { .. }, .. }) = child.phase
                    && goes_on
                    && child.may_be_idle()
                {
                    child.is_drowsy = true;
                    let vm = child.name().clone();
                    self.orders.push(Order::Sleep { vm, epoch });
                }
            }
            Transition::StayedAwake => child.is_drowsy = false,
            Transition::SpareReady
            | Transition::Running
            | Transition::Ready
            | Transition::Unhealthy
            | Transition::Healthy
            | Transition::GoesToSleep
            | Transition::Asleep
            | Transition::Paused
            | Transition::Resumed
            | Transition::Unreachable
            | Transition::Reached => return None,
        }
        Some(self.finish(at.now))
    }

    /// Starts the sleeping children for which clients wait. In a group restart they wait for its end.
    pub(super) fn wake_what_is_called(&mut self, now: Instant) {
        for index in 0..self.children.len() {
            let child = &self.children[index];
            let is_due = child.phase.wakes_at().is_some_and(|at| at.is_none_or(|at| at <= now));
            if is_due && !self.is_restarting(child) {
                self.start_or_queue(index, Start::Alone);
            }
        }
    }

    /// Starts the sleeping children that a new configuration does not let sleep. The ports of the others may have changed.
    pub(super) fn reload_sleepers(&mut self) {
        for index in 0..self.children.len() {
            let child = &self.children[index];
            match &child.phase {
                Phase::Live(_) if !child.spec.idle.is_set() => self.wake(index),
                Phase::Idle { .. } if child.may_be_idle() => {
                    self.orders.push(Order::AwaitClient(child.name().clone()));
                }
                Phase::Idle { .. } => self.enqueue(index, false),
                Phase::Stopped
                | Phase::AwaitingGroup
                | Phase::AwaitingTurn { .. }
                | Phase::Live(_)
                | Phase::Backoff { .. }
                | Phase::Completed
                | Phase::Failed(_) => {}
            }
        }
    }
}

impl Phase {
    /// Returns when a sleeping child that was called is to be started; `Some(None)` is at once.
    pub(super) fn wakes_at(&self) -> Option<Option<Instant>> {
        match self {
            Self::Idle { not_before, is_called: true } => Some(*not_before),
            Self::Idle { is_called: false, .. }
            | Self::Stopped
            | Self::AwaitingGroup
            | Self::AwaitingTurn { .. }
            | Self::Live(_)
            | Self::Backoff { .. }
            | Self::Completed
            | Self::Failed(_) => None,
        }
    }
}
