//! Brings the group, at a given moment, to where it belongs: who may start now, who is the next to stop.
//! Judges by the state alone, not by what led to it, so that no order of events can leave it behind.

use super::{Roster, Stage};
use crate::group::machine::child::{Child, Phase, Then};
use crate::group::order::{End, Order};
use crate::journal::Wanted;
use crate::spec::{Restart, Strategy};
use std::time::Instant;

impl Roster {
    pub(super) fn settle(&mut self, now: Instant) {
        match &self.stage {
            Stage::Down => {}
            Stage::GoingDown(_) => self.settle_down(now),
            Stage::Up => {
                self.advance_round(now);
                self.start_what_is_due(now);
                self.start_in_turn();
                self.tell_ready();
            }
        }
    }

    /// Starts the way down: nothing starts any more, before the list of what to stop is made.
    pub(super) fn go_down(&mut self, end: End) {
        match &self.stage {
            // The first reason counts, except that an order to stop makes an escalation pointless.
            Stage::GoingDown(End::Stopped) => {}
            Stage::GoingDown(_) if end != End::Stopped => {}
            Stage::Up | Stage::GoingDown(_) | Stage::Down => {
                self.round = None;
                self.stage = Stage::GoingDown(end);
                for index in 0..self.children.len() {
                    self.children[index].in_round = false;
                    if matches!(self.children[index].phase, Phase::Waiting | Phase::Backoff { .. }) {
                        self.set(index, Phase::Stopped, None, None);
                    }
                }
            }
        }
    }

    fn settle_down(&mut self, now: Instant) {
        if self.stop_last(now, |_| true, Then::Stay)
            && let Stage::GoingDown(end) = std::mem::replace(&mut self.stage, Stage::Down)
        {
            self.orders.push(Order::End(end));
        }
    }

    /// Stops the live ones of these children, last first, one at a time; `true` when none is left. One that is still
    /// starting does not come up first: nobody depends on it yet, and it is destroyed at once.
    fn stop_last(&mut self, now: Instant, of: impl Fn(&Child) -> bool, then: Then) -> bool {
        for index in (0..self.children.len()).rev() {
            let child = &self.children[index];
            if of(child) && child.boots && matches!(child.phase, Phase::Starting) {
                self.order_stop(now, index, then);
            }
        }
        let mut live =
            self.children.iter().enumerate().filter(|(_, child)| of(child) && child.phase.is_live());
        // One that is on its way down already is awaited, whoever had asked for it.
        let under_way = live.clone().any(|(_, child)| matches!(child.phase, Phase::Stopping { .. }));
        let Some((last, _)) = live.next_back() else { return true };
        if !under_way {
            self.order_stop(now, last, then);
        }
        false
    }

    /// Stops the members of the group restart, waits for its deadline, and puts them in the queue.
    fn advance_round(&mut self, now: Instant) {
        let Some(round) = self.round else { return };
        if !self.stop_last(now, |child| child.in_round, Then::Wait) || now < round.deadline {
            return;
        }
        self.round = None;
        for index in 0..self.children.len() {
            let child = &mut self.children[index];
            let member = std::mem::take(&mut child.in_round);
            match child.phase {
                Phase::Backoff { .. } if member => self.enqueue(index, None),
                // What had ended cleanly comes back with its siblings, if it may be restarted at all.
                Phase::Completed if member && child.spec.restart.policy != Restart::Never => {
                    self.enqueue(index, None);
                }
                // Those that were stopped for it wait already. What the operator had stopped and what gave up stay down.
                _ => {}
            }
        }
    }

    /// Those whose own delay is over.
    fn start_what_is_due(&mut self, now: Instant) {
        for index in 0..self.children.len() {
            let child = &mut self.children[index];
            match child.phase {
                Phase::Backoff { until, .. } if until <= now && !child.in_round => {
                    child.sequenced = false;
                    self.start_or_queue(index);
                }
                _ => {}
            }
        }
    }

    /// Those whose turn it is: none before it is still on its way to Ready.
    fn start_in_turn(&mut self) {
        for index in 0..self.children.len() {
            if matches!(self.children[index].phase, Phase::Waiting) && !self.must_wait(index) {
                self.launch(index);
            }
        }
    }

    /// Starts it, unless it has to wait for its turn.
    pub(super) fn start_or_queue(&mut self, index: usize) {
        if self.must_wait(index) { self.enqueue(index, None) } else { self.launch(index) }
    }

    fn must_wait(&self, index: usize) -> bool {
        let child = &self.children[index];
        // With one_for_one they do not depend on each other, and only those that are started in turn wait.
        let in_turn = child.sequenced || self.spec.strategy != Strategy::OneForOne;
        child.in_round || in_turn && self.children[..index].iter().any(|before| self.holds_up(before))
    }

    /// Those after this child wait for it.
    fn holds_up(&self, child: &Child) -> bool {
        let in_the_way = match child.phase {
            Phase::Backoff { .. } => true,
            Phase::Failed { .. } => {
                self.spec.strategy == Strategy::RestForOne && child.spec.restart.policy != Restart::Never
            }
            _ => child.phase.is_on_its_way(),
        };
        match self.spec.strategy {
            // A child that cannot start holds up nobody.
            Strategy::OneForOne => child.sequenced && child.phase.is_on_its_way(),
            Strategy::OneForAll | Strategy::RestForOne => child.in_round || in_the_way,
        }
    }

    fn tell_ready(&mut self) {
        // Stopped ones have no part in it: the operator wants them down, or nothing will start them.
        let ready = |phase: &Phase| matches!(phase, Phase::Ready { .. } | Phase::Completed | Phase::Stopped);
        let all = self.children.iter().all(|child| child.wanted == Wanted::Down || ready(&child.phase));
        if all && !self.ready_told {
            self.ready_told = true;
            self.orders.push(Order::GroupReady);
        }
    }
}
