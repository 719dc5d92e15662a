//! What follows the end of a VM: nothing, a restart alone, a restart with its siblings, giving up, escalating.

use super::{Roster, Stage};
use crate::group::child::{Phase, Then};
use crate::group::order::{At, End, Order};
use crate::group::round::Round;
use crate::journal::Wanted;
use crate::observe::Action;
use crate::policy::{Cause, Judgement, Rule, first_affected, judge};
use crate::spec::{AutoShutdown, OnGiveUp, OnIntensityExceeded, OnStartFailure, Restart, Strategy};
use std::time::{Duration, Instant};

impl Roster {
    /// A VM is gone, confirmed. Says what follows.
    pub(super) fn judge_end(&mut self, at: At, index: usize, cause: Cause) {
        if let Phase::Stopping { then } = self.children[index].phase {
            return self.stopped(index, then);
        }
        if self.stage != Stage::Up || self.children[index].wanted == Wanted::Down {
            let decision = self.decision(index, Action::Leave, "operator stop".into());
            self.set(index, Phase::Stopped, Some(cause), Some(decision));
            return self.release(index);
        }
        // Computed here, from timestamps; no timer resets anything.
        let child = &mut self.children[index];
        if child.ready_since().is_some_and(|since| at.now - since >= child.spec.restart.reset_after) {
            child.attempts = 0;
        }
        match judge(&child.spec.restart, &cause) {
            Judgement::Complete(rule) => {
                let decision = self.decision(index, Action::Complete, format!("{rule}, {cause}"));
                self.set(index, Phase::Completed, Some(cause), Some(decision));
                self.ended_for_good(index);
            }
            Judgement::Fail(rule) => {
                let reason = match rule {
                    Rule::Policy(Restart::Never) => format!("{cause}; restart policy never"),
                    rule => format!("{cause}; {rule}"),
                };
                self.give_up(at, index, cause, reason, rule);
            }
            Judgement::Restart(rule) => {
                child.attempts += 1;
                let (attempts, most) = (child.attempts, child.spec.restart.max_retries);
                if most > 0 && attempts > most {
                    let reason = format!("{cause}; gave up after {most} attempts");
                    return self.give_up(at, index, cause, reason, rule);
                }
                self.restart(at, index, cause, rule);
            }
        }
    }

    /// The stop that we had ordered is done. Not a failure, whatever the exit was.
    fn stopped(&mut self, index: usize, then: Then) {
        match then {
            Then::Stay => {
                self.set(index, Phase::Stopped, Some(Cause::Stopped), None);
                self.release(index);
            }
            Then::Start => {
                self.children[index].sequenced = false;
                self.launch(index, None);
            }
            Then::Wait if self.is_member(index) => {
                self.set(index, Phase::Waiting, Some(Cause::Stopped), None)
            }
            Then::Wait => {
                self.set(index, Phase::Stopped, Some(Cause::Stopped), None);
                self.release(index);
            }
            Then::Forget => {
                self.set(index, Phase::Stopped, Some(Cause::Stopped), None);
                self.release(index);
                self.forget(index);
            }
        }
    }

    fn restart(&mut self, at: At, index: usize, cause: Cause, rule: Rule) {
        let child = &self.children[index];
        if child.first_start
            && child.spec.start.on_failure == OnStartFailure::Abort
            && child.ready_since().is_none()
        {
            let reason = format!("start of {} failed: {cause}", child.name());
            return self.escalate(index, &cause, reason);
        }
        let delay = child.spec.restart.backoff.delay(child.attempts, at.draw);
        let mut until = at.now + delay;
        let first = first_affected(self.spec.strategy, index);
        let coalesced = first.is_some() && self.round.as_ref().is_some_and(Round::takes_in_failures);
        if !coalesced && let Err(exceeded) = self.window.admit(at.now, self.spec.intensity) {
            match self.spec.on_intensity_exceeded {
                OnIntensityExceeded::Escalate => return self.escalate(index, &cause, exceeded.to_string()),
                OnIntensityExceeded::StopGroup => {
                    return self.fail_group(index, cause, format!("too many restarts: {exceeded}"));
                }
                OnIntensityExceeded::Delay => match self.window.admit_later(at.now, self.spec.intensity) {
                    Some(room) => until = until.max(room),
                    None => {
                        return self.fail_group(index, cause, "an intensity of 0 allows no restart".into());
                    }
                },
            }
        }
        let mut decision = self.decision(index, Action::Restart, format!("{rule}, {cause}"));
        decision.coalesced = coalesced;
        decision.delay = Some(until.saturating_duration_since(at.now));
        let attempt = self.children[index].attempts;
        self.set(index, Phase::Backoff { until, attempt, cause: cause.clone() }, Some(cause), Some(decision));
        self.orders.push(Order::Save(self.children[index].name().clone()));
        if let Some(first) = first {
            self.restart_with_siblings(first, until);
        }
    }

    fn restart_with_siblings(&mut self, first: usize, mut deadline: Instant) {
        // One that waits for its own restart joins: its deadline counts, its timer does not.
        for child in &self.children[first..] {
            if let Phase::Backoff { until, .. } = child.phase {
                deadline = deadline.max(until);
            }
        }
        match &mut self.round {
            Some(round) if round.takes_in_failures() => round.join(first, deadline),
            _ => self.round = Some(Round::new(first, deadline)),
        }
    }

    fn give_up(&mut self, at: At, index: usize, cause: Cause, reason: String, rule: Rule) {
        let by_policy = rule == Rule::Policy(Restart::Never);
        if !by_policy && self.children[index].spec.restart.on_give_up == OnGiveUp::Escalate {
            return self.escalate(index, &cause, reason);
        }
        let child = &self.children[index];
        if child.first_start && child.spec.start.on_failure == OnStartFailure::Abort {
            return self.escalate(index, &cause, format!("start of {} failed: {reason}", child.name()));
        }
        if !by_policy && self.spec.strategy == Strategy::OneForAll {
            return self.fail_group(index, cause, reason);
        }
        self.fail_alone(index, cause, reason);
        if !by_policy && self.spec.strategy == Strategy::RestForOne {
            // Those after it depend on it: they are stopped and wait for it.
            self.restart_with_siblings(index, at.now + Duration::ZERO);
        }
        self.ended_for_good(index);
    }

    fn fail_alone(&mut self, index: usize, cause: Cause, reason: String) {
        let decision = self.decision(index, Action::GiveUp, reason.clone());
        self.set(index, Phase::Failed { reason }, Some(cause), Some(decision));
        self.release(index);
        self.orders.push(Order::Save(self.children[index].name().clone()));
    }

    fn fail_group(&mut self, index: usize, cause: Cause, reason: String) {
        let decision = self.decision(index, Action::StopGroup, reason.clone());
        self.set(index, Phase::Failed { reason: reason.clone() }, Some(cause), Some(decision));
        self.release(index);
        let reason = format!("{}: {reason}", self.children[index].name());
        self.go_down(End::Failed { reason });
    }

    pub(super) fn escalate(&mut self, index: usize, cause: &Cause, reason: String) {
        let decision = self.decision(index, Action::Escalate, reason.clone());
        // One whose actor has failed is still there, and goes down with the others.
        let to = if matches!(cause, Cause::ActorFailed) {
            self.children[index].phase.clone()
        } else {
            self.release(index);
            Phase::Stopped
        };
        self.set(index, to, Some(cause.clone()), Some(decision));
        let reason = format!("{}: {reason}; last cause: {cause}", self.children[index].name());
        self.go_down(End::Escalated { reason });
    }

    /// A VM ended by itself and stays down; its CID is free, and the group may end with it.
    fn ended_for_good(&mut self, index: usize) {
        self.release(index);
        self.orders.push(Order::Save(self.children[index].name().clone()));
        let done = |phase: &Phase| matches!(phase, Phase::Completed | Phase::Failed { .. });
        let mut significant = self.children.iter().filter(|child| child.spec.significant);
        let ends = self.children[index].spec.significant
            && match self.spec.auto_shutdown {
                AutoShutdown::Never => false,
                AutoShutdown::AnySignificant => true,
                AutoShutdown::AllSignificant => significant.all(|child| done(&child.phase)),
            };
        if ends {
            self.go_down(End::AutoShutdown);
        }
    }
}
