//! Takes VMs and the group down: the VM that was started last stops first, one at a time, and never twice
//! (semantics 7).

use super::child::{AfterStop, Child, Origin, Phase, Run, RunState, Start};
use super::{Roster, Stage};
use crate::group::order::Order;
use crate::policy::{At, Ending, GroupEnd};
use std::time::Instant;

impl Roster {
    /// Takes the group down, in reverse start order.
    pub fn stop(&mut self, at: At) -> Vec<Order> {
        self.take_over_what_waits(at);
        self.go_down(GroupEnd::Stopped);
        self.finish(at.now)
    }

    /// Kills every VM of the group at once.
    pub fn kill(&mut self, at: At) -> Vec<Order> {
        self.take_over_what_waits(at);
        self.go_down(GroupEnd::Stopped);
        for index in 0..self.children.len() {
            let leaving = self.children[index].phase.is_leaving();
            let Phase::Live(run) = &self.children[index].phase else { continue };
            let then = if leaving { AfterStop::Remove } else { AfterStop::StayDown };
            let run = stopping(run, at.now, then);
            let (vm, epoch) = (self.children[index].name().clone(), run.epoch);
            self.set(index, Phase::Live(run), None, None);
            self.orders.push(Order::Kill { vm, epoch });
        }
        self.finish(at.now)
    }

    /// Has actors take over the VMs that were found running and wait for the group's start: they are to be stopped, too.
    fn take_over_what_waits(&mut self, at: At) {
        let Stage::Waiting { found, .. } = &mut self.stage else { return };
        let mut found = std::mem::take(found);
        found.retain(|_, found| found.ended.is_none());
        self.take_over_all(at, &found);
    }

    /// Begins the way down: from here on no VM starts, before the list of VMs to stop is made.
    pub(super) fn go_down(&mut self, end: GroupEnd) {
        match (&self.stage, &end) {
            // The first reason holds, except that an order to stop makes an escalation pointless.
            (Stage::GoingDown { end: GroupEnd::Stopped }, _)
            | (
                Stage::GoingDown { .. },
                GroupEnd::AutoShutdown | GroupEnd::Failed { .. } | GroupEnd::Escalated { .. },
            ) => return,
            (Stage::GoingDown { .. }, GroupEnd::Stopped)
            | (Stage::Waiting { .. } | Stage::Up { .. } | Stage::Down { .. }, _) => {}
        }
        self.group_restart = None;
        self.stage = Stage::GoingDown { end };
        for index in 0..self.children.len() {
            self.children[index].is_drowsy = false;
            match self.children[index].phase {
                Phase::AwaitingGroup
                | Phase::AwaitingTurn { .. }
                | Phase::Idle { .. }
                | Phase::Backoff { .. } => {
                    self.set(index, Phase::Stopped, None, None);
                }
                Phase::Stopped | Phase::Live(_) | Phase::Completed | Phase::Failed(_) => {}
            }
        }
    }

    /// Stops the next child on the way down; when no child is left, the group is down.
    pub(super) fn stop_next(&mut self, now: Instant) {
        if self.stop_last(now, |_| true, &AfterStop::StayDown)
            && self.spares.is_empty()
            && let Stage::GoingDown { end } = &self.stage
        {
            let end = end.clone();
            self.stage = Stage::Down { end: end.clone() };
            self.orders.push(Order::End(end));
        }
    }

    /// Stops the live VMs among these children, in reverse order, one at a time, and returns whether none is left. A VM
    /// that is still being booted does not have to come up first: no other VM depends on it yet, and it is destroyed at
    /// once.
    pub(super) fn stop_last(&mut self, now: Instant, of: impl Fn(&Child) -> bool, then: &AfterStop) -> bool {
        for index in (0..self.children.len()).rev() {
            let child = &self.children[index];
            let booting = child.phase.run().is_some_and(|run| {
                matches!(run.state, RunState::Starting { origin: Origin::Booted | Origin::Promoted, .. })
            });
            if of(child) && booting {
                self.order_stop(now, index, then.clone());
            }
        }
        let mut live =
            self.children.iter().enumerate().filter(|(_, child)| of(child) && child.phase.is_live());
        // A stop that is under way already is awaited, whatever its purpose.
        let under_way = live.clone().any(|(_, child)| child.phase.is_stopping());
        let Some((last, _)) = live.next_back() else { return true };
        if !under_way {
            self.order_stop(now, last, then.clone());
        }
        false
    }

    /// Orders the stop of a live child. A child that is stopping already is not told again; only the action after the
    /// stop changes, unless the child is being removed from the configuration.
    pub(super) fn order_stop(&mut self, now: Instant, index: usize, then: AfterStop) {
        let Phase::Live(run) = &mut self.children[index].phase else { return };
        match &mut run.state {
            RunState::Stopping { then: AfterStop::Remove, .. } => {}
            RunState::Stopping { then: AfterStop::Sleep, .. } if then == AfterStop::AwaitTurn => {}
            RunState::Stopping { then: after, .. } => *after = then,
            RunState::Starting { .. }
            | RunState::Running { .. }
            | RunState::Ready { .. }
            | RunState::Unhealthy
            | RunState::Paused { .. }
            | RunState::Unknown { .. } => {
                // What sleeps goes on sleeping after a group restart.
                let sleeps_on = then == AfterStop::AwaitTurn
                    && matches!(run.state, RunState::Paused { is_asleep: true, .. });
                let run = stopping(run, now, if sleeps_on { AfterStop::Sleep } else { then });
                self.set(index, Phase::Live(run), None, None);
                self.tell_to_stop(index);
            }
        }
    }

    pub(super) fn tell_to_stop(&mut self, index: usize) {
        let child = &self.children[index];
        if let Some(run) = child.phase.run() {
            self.orders.push(Order::Stop { vm: child.name().clone(), epoch: run.epoch });
        }
    }

    /// Records that a stop is done. Such an end is no failure, whatever the exit was (semantics 3).
    pub(super) fn stopped(&mut self, index: usize, then: &AfterStop, start: Start, ending: Ending) {
        let starts = match self.stage {
            Stage::Waiting { .. } | Stage::Up { .. } => true,
            Stage::GoingDown { .. } | Stage::Down { .. } => false,
        };
        match then {
            AfterStop::Start if starts => self.start_or_queue(index, start),
            AfterStop::Sleep if starts && self.children[index].may_be_idle() => {
                self.sleep_after(index, ending)
            }
            AfterStop::Sleep if starts => self.start_or_queue(index, start),
            // A group restart brings back only children that may be restarted.
            AfterStop::AwaitTurn if starts && self.children[index].spec.restart.policy.ever_restarts() => {
                let first_start = start.is_first();
                self.set(index, Phase::AwaitingTurn { first_start }, Some(ending), None);
            }
            AfterStop::StayDown
            | AfterStop::Start
            | AfterStop::AwaitTurn
            | AfterStop::Sleep
            | AfterStop::Fail { .. } => {
                self.set(index, Phase::Stopped, Some(ending), None);
            }
            AfterStop::Remove => {
                self.set(index, Phase::Stopped, Some(ending), None);
                self.remove(index);
            }
        }
    }
}

/// Returns the run in the state of being stopped.
pub(super) fn stopping(run: &Run, now: Instant, then: AfterStop) -> Run {
    let mut run = run.clone();
    run.note_ready(now);
    run.state = RunState::Stopping { then, start: run.state.start() };
    run
}
