//! Brings the group, at a given moment, to where it belongs: who may start now, who is the next to stop.
//! Judges by the state alone, not by what led to it, so that no order of events can leave it behind.

use super::{Roster, Stage};
use crate::group::child::{Phase, Then};
use crate::group::order::{End, Order};
use crate::group::round::{Round, Stage as RoundStage};
use crate::journal::Wanted;
use crate::observe::VmPhase;
use crate::spec::{Restart, Strategy};
use std::time::Instant;

impl Roster {
    pub(super) fn settle(&mut self, now: Instant) {
        match &self.stage {
            Stage::Down => {}
            Stage::GoingDown(_) => self.settle_down(),
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
                    match self.children[index].phase {
                        Phase::Waiting | Phase::Backoff { .. } => {
                            self.set(index, Phase::Stopped, None, None);
                            self.release(index);
                        }
                        Phase::Stopping { then: Then::Start | Then::Wait } => {
                            self.children[index].phase = Phase::Stopping { then: Then::Stay };
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    fn settle_down(&mut self) {
        if self.stop_last_of(0, Then::Stay)
            && let Stage::GoingDown(end) = std::mem::replace(&mut self.stage, Stage::Down)
        {
            self.orders.push(Order::End(end));
        }
    }

    /// Stops the live children from `first` on, last first, one at a time; `true` when none is left.
    fn stop_last_of(&mut self, first: usize, then: Then) -> bool {
        let live = |phase: &Phase| phase.is_live();
        let Some(last) = (first..self.children.len()).rfind(|index| live(&self.children[*index].phase))
        else {
            return true;
        };
        // One that is on its way down already is awaited, whoever had asked for it.
        let under_way = (first..self.children.len())
            .any(|index| matches!(self.children[index].phase, Phase::Stopping { .. }));
        if !under_way {
            self.order_stop(last, then);
        }
        false
    }

    fn advance_round(&mut self, now: Instant) {
        let Some(round) = self.round.clone() else { return };
        if round.stage == RoundStage::Stopping {
            if !self.stop_last_of(round.first, Then::Wait) {
                return;
            }
            self.round = Some(Round { stage: RoundStage::Delay, ..round.clone() });
        }
        if self.round.as_ref().is_some_and(|r| r.stage == RoundStage::Delay) {
            if now < round.deadline {
                return;
            }
            for index in round.first..self.children.len() {
                // One that the operator started meanwhile is up already.
                if self.is_member(index) && !self.children[index].phase.is_live() {
                    self.enqueue(index);
                }
            }
            self.round = Some(Round { stage: RoundStage::Starting, ..round.clone() });
        }
        let busy = (round.first..self.children.len()).any(|index| {
            matches!(self.children[index].phase, Phase::Waiting | Phase::Starting | Phase::Running)
        });
        if !busy {
            self.round = None;
        }
    }

    /// Takes part in a group restart: is to be up, may be restarted, and has not given up.
    pub(super) fn is_member(&self, index: usize) -> bool {
        let child = &self.children[index];
        child.wanted == Wanted::Up
            && child.spec.restart.policy != Restart::Never
            && !matches!(child.phase, Phase::Failed { .. })
    }

    /// Those whose own delay is over.
    fn start_what_is_due(&mut self, now: Instant) {
        for index in 0..self.children.len() {
            match self.children[index].phase {
                Phase::Backoff { until, .. } if until <= now && !self.in_round(index) => {
                    self.children[index].sequenced = false;
                    self.launch(index, None);
                }
                _ => {}
            }
        }
    }

    /// Those whose turn it is: none before it is still on its way to Ready.
    fn start_in_turn(&mut self) {
        for index in 0..self.children.len() {
            let held = self.round.as_ref().is_some_and(|round| round.holds_back(index));
            if held {
                return;
            }
            if matches!(self.children[index].phase, Phase::Waiting) {
                self.launch(index, None);
            }
            if self.blocks_those_after(index) {
                return;
            }
        }
    }

    fn blocks_those_after(&self, index: usize) -> bool {
        let child = &self.children[index];
        let alone = self.spec.strategy == Strategy::OneForOne;
        match child.phase {
            Phase::Waiting | Phase::Starting | Phase::Running => child.sequenced || !alone,
            // With one_for_one the others do not depend on it: a child that cannot start holds up nobody.
            Phase::Backoff { .. } => !alone,
            Phase::Stopping { then } => !alone && matches!(then, Then::Start | Then::Wait),
            Phase::Failed { .. } => self.spec.strategy == Strategy::RestForOne,
            Phase::Stopped
            | Phase::Ready { .. }
            | Phase::Unhealthy
            | Phase::Paused { .. }
            | Phase::Completed => false,
        }
    }

    fn tell_ready(&mut self) {
        let ready = |phase: &Phase| matches!(phase.shown(), VmPhase::Ready | VmPhase::Completed);
        let all = self.children.iter().all(|child| child.wanted == Wanted::Down || ready(&child.phase));
        if all && !self.ready_told {
            self.ready_told = true;
            self.orders.push(Order::GroupReady);
        }
    }
}
