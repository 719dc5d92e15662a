//! What follows the end of a VM: nothing, a restart alone, a restart with its siblings, giving up, escalating.

use super::{Roster, Stage};
use crate::group::machine::child::{Phase, Then};
use crate::group::machine::group_restart::Round;
use crate::group::order::{At, End};
use crate::journal::Wanted;
use crate::observe::Action;
use crate::policy::{Cause, Judgement, Rule, first_affected, judge};
use crate::spec::{AutoShutdown, OnGiveUp, OnIntensityExceeded, OnStartFailure, Restart, Strategy};

impl Roster {
    /// A VM is gone, confirmed. Says what follows.
    pub(super) fn judge_end(&mut self, at: At, index: usize, cause: Cause) {
        self.window.age(at.now, self.spec.intensity.period);
        let child = &mut self.children[index];
        child.note_ready(at.now);
        // Computed here, from timestamps; no timer resets anything. An end that we caused counts for this like any other.
        if child.ready_for.is_some_and(|ready| ready >= child.spec.restart.reset_after) {
            child.attempts = 0;
        }
        match child.phase {
            Phase::Stopping { then: Then::Judge } if self.stage == Stage::Up => {
                self.judge_failure(at, index, Cause::ActorFailed);
            }
            Phase::Stopping { then } => self.stopped(index, then),
            _ if self.stage == Stage::Down && child.wanted == Wanted::Up => {
                self.judge_early_end(index, cause)
            }
            _ if self.stage != Stage::Up || child.wanted == Wanted::Down => {
                let rule = if self.stage == Stage::Up { "operator stop" } else { "the group stops" };
                let decision = self.decision(index, Action::Leave, rule.into());
                self.set(index, Phase::Stopped, Some(cause), Some(decision));
            }
            _ => self.judge_failure(at, index, cause),
        }
    }

    /// It was taken over before its group's turn, and ends before that. What is to be restarted starts with the group.
    fn judge_early_end(&mut self, index: usize, cause: Cause) {
        let (phase, action, rule) = match judge(&self.children[index].spec.restart, &cause) {
            Judgement::Complete(rule) => (Phase::Completed, Action::Complete, format!("{rule}, {cause}")),
            Judgement::Fail(rule) => {
                let reason = format!("{cause}; {rule}");
                (Phase::Failed { reason: reason.clone() }, Action::GiveUp, reason)
            }
            Judgement::Restart(_) => (Phase::Stopped, Action::Leave, "its group waits".to_owned()),
        };
        self.children[index].gave_up_early = action == Action::GiveUp;
        let decision = self.decision(index, action, rule);
        self.set(index, phase, Some(cause), Some(decision));
    }

    /// An end that nobody had asked for.
    fn judge_failure(&mut self, at: At, index: usize, cause: Cause) {
        let child = &mut self.children[index];
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
                self.give_up(at, index, cause, reason);
            }
            Judgement::Restart(rule) => {
                child.attempts = child.attempts.saturating_add(1);
                let (attempts, most) = (child.attempts, child.spec.restart.max_retries);
                if most > 0 && attempts > most {
                    let reason = format!("{cause}; gave up after {most} attempts");
                    return self.give_up(at, index, cause, reason);
                }
                self.restart(at, index, cause, rule);
            }
        }
    }

    /// The stop that we had ordered is done. Not a failure, whatever the exit was.
    fn stopped(&mut self, index: usize, then: Then) {
        let up = self.stage == Stage::Up;
        match then {
            Then::Start if up => self.start_or_queue(index),
            // A group restart brings back only what may be restarted.
            Then::Wait if up && self.children[index].spec.restart.policy != Restart::Never => {
                self.enqueue(index, Some(Cause::Stopped));
            }
            Then::Stay | Then::Start | Then::Wait | Then::Judge => {
                self.set(index, Phase::Stopped, Some(Cause::Stopped), None);
            }
            Then::Forget => {
                self.set(index, Phase::Stopped, Some(Cause::Stopped), None);
                self.forget(index);
            }
        }
    }

    fn restart(&mut self, at: At, index: usize, cause: Cause, rule: Rule) {
        let child = &self.children[index];
        if child.first_start && child.spec.start.on_failure == OnStartFailure::Abort {
            let reason = format!("start of {} failed: {cause}", child.name());
            return self.escalate(index, &cause, reason);
        }
        let mut until = at.now + child.spec.restart.backoff.delay(child.attempts, at.draw);
        // A member of a group restart stays one, also when a reload has changed the strategy meanwhile.
        let first = first_affected(self.spec.strategy, index).or(child.in_round.then_some(index));
        let coalesced = first.is_some() && self.round.is_some_and(|round| round.counted);
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
        if let Some(first) = first {
            self.take_along(first, Round { deadline: until, counted: true });
        }
    }

    /// All from `first` on take part in a group restart: in the one under way, if there is one. Never two at a time.
    fn take_along(&mut self, first: usize, mut round: Round) {
        for child in self.children.iter_mut().skip(first) {
            child.in_round = true;
            // One that waits for its own restart joins: its deadline counts, its timer does not.
            if let Phase::Backoff { until, .. } = child.phase {
                round.deadline = round.deadline.max(until);
            }
        }
        self.round = Some(self.round.map_or(round, |under_way| under_way.join(round)));
    }

    fn give_up(&mut self, at: At, index: usize, cause: Cause, reason: String) {
        let child = &self.children[index];
        // Nothing was given up in a VM that is not to be restarted: its siblings never depended on its return.
        let alone = child.spec.restart.policy == Restart::Never;
        if child.first_start && child.spec.start.on_failure == OnStartFailure::Abort {
            return self.escalate(index, &cause, format!("start of {} failed: {reason}", child.name()));
        }
        if !alone && child.spec.restart.on_give_up == OnGiveUp::Escalate {
            return self.escalate(index, &cause, reason);
        }
        if !alone && self.spec.strategy == Strategy::OneForAll {
            return self.fail_group(index, cause, reason);
        }
        let decision = self.decision(index, Action::GiveUp, reason.clone());
        self.set(index, Phase::Failed { reason }, Some(cause), Some(decision));
        if !alone && self.spec.strategy == Strategy::RestForOne {
            // Those after it depend on it: they are stopped and wait for it. That restarts nothing, so it is not counted.
            self.take_along(index + 1, Round { deadline: at.now, counted: false });
        }
        self.ended_for_good(index);
    }

    fn fail_group(&mut self, index: usize, cause: Cause, reason: String) {
        let decision = self.decision(index, Action::StopGroup, reason.clone());
        self.set(index, Phase::Failed { reason: reason.clone() }, Some(cause), Some(decision));
        let reason = format!("{}: {reason}", self.children[index].name());
        self.go_down(End::Failed { reason });
    }

    fn escalate(&mut self, index: usize, cause: &Cause, reason: String) {
        let decision = self.decision(index, Action::Escalate, reason.clone());
        self.set(index, Phase::Stopped, Some(cause.clone()), Some(decision));
        let reason = format!("{}: {reason}; last cause: {cause}", self.children[index].name());
        self.go_down(End::Escalated { reason });
    }

    /// A VM ended by itself and stays down; the group may end with it.
    fn ended_for_good(&mut self, index: usize) {
        // As in OTP, one that the operator has stopped is not waited for.
        let all_rest =
            || self.children.iter().all(|child| !child.spec.significant || child.phase.is_at_rest());
        let ends = self.children[index].spec.significant
            && match self.spec.auto_shutdown {
                AutoShutdown::Never => false,
                AutoShutdown::AnySignificant => true,
                AutoShutdown::AllSignificant => all_rest(),
            };
        if ends {
            self.go_down(End::AutoShutdown);
        }
    }
}
