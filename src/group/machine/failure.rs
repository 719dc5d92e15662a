//! What follows the end of a VM: nothing, a restart alone, a restart with its siblings, giving up, escalating.

use super::{Roster, Stage};
use crate::group::machine::child::{Phase, Then};
use crate::group::machine::group_restart::Round;
use crate::group::order::{At, End};
use crate::journal::Wanted;
use crate::observe::Action;
use crate::policy::{Ending, Exit, Judgement, Rule, first_affected, judge};
use crate::spec::{AutoShutdown, OnGiveUp, OnIntensityExceeded, OnStartFailure, Restart, Strategy};

impl Roster {
    /// A VM is gone, confirmed. Says what follows.
    pub(super) fn judge_end(&mut self, at: At, index: usize, ending: Ending) {
        self.window.age(at.now, self.spec.intensity.period);
        let child = &mut self.children[index];
        child.note_ready(at.now);
        // Computed here, from timestamps; no timer resets anything. An end that we caused counts for this like any other.
        if child.ready_for.is_some_and(|ready| ready >= child.spec.restart.reset_after) {
            child.attempts = 0;
        }
        match child.phase {
            Phase::Stopping { then: Then::Judge } if self.stage == Stage::Up => {
                self.judge_failure(at, index, Ending::ActorFailed);
            }
            Phase::Stopping { then } => self.stopped(index, then),
            _ if self.stage == Stage::Down && child.wanted == Wanted::Up => {
                self.judge_early_end(index, ending)
            }
            _ if self.stage != Stage::Up || child.wanted == Wanted::Down => {
                let rule = if self.stage == Stage::Up { "operator stop" } else { "the group stops" };
                let decision = self.decision(index, Action::Leave, rule.into());
                self.set(index, Phase::Stopped, Some(ending), Some(decision));
            }
            _ => self.judge_failure(at, index, ending),
        }
    }

    /// It was taken over before its group's turn, and ends before that. What is to be restarted starts with the group.
    fn judge_early_end(&mut self, index: usize, ending: Ending) {
        let (phase, action, rule) = match judge(&self.children[index].spec.restart, &ending) {
            Judgement::Complete(rule) => (Phase::Completed, Action::Complete, format!("{rule}, {ending}")),
            Judgement::Fail(rule) => {
                let reason = format!("{ending}; {rule}");
                (Phase::Failed { reason: reason.clone() }, Action::GiveUp, reason)
            }
            Judgement::Restart(_) => (Phase::Stopped, Action::Leave, "its group waits".to_owned()),
        };
        self.children[index].gave_up_early = action == Action::GiveUp;
        let decision = self.decision(index, action, rule);
        self.set(index, phase, Some(ending), Some(decision));
    }

    /// An end that nobody had asked for.
    fn judge_failure(&mut self, at: At, index: usize, ending: Ending) {
        let child = &mut self.children[index];
        match judge(&child.spec.restart, &ending) {
            Judgement::Complete(rule) => {
                let decision = self.decision(index, Action::Complete, format!("{rule}, {ending}"));
                self.set(index, Phase::Completed, Some(ending), Some(decision));
                self.ended_for_good(index);
            }
            Judgement::Fail(rule) => {
                let reason = match rule {
                    Rule::Policy(Restart::Never) => format!("{ending}; restart policy never"),
                    rule => format!("{ending}; {rule}"),
                };
                self.give_up(at, index, ending, reason);
            }
            Judgement::Restart(rule) => {
                child.attempts = child.attempts.saturating_add(1);
                let (attempts, most) = (child.attempts, child.spec.restart.max_retries);
                if most > 0 && attempts > most {
                    let reason = format!("{ending}; gave up after {most} attempts");
                    return self.give_up(at, index, ending, reason);
                }
                self.restart(at, index, ending, rule);
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
                self.enqueue(index, Some(Exit::StopRequested.into()));
            }
            Then::Stay | Then::Start | Then::Wait | Then::Judge => {
                self.set(index, Phase::Stopped, Some(Exit::StopRequested.into()), None);
            }
            Then::Forget => {
                self.set(index, Phase::Stopped, Some(Exit::StopRequested.into()), None);
                self.forget(index);
            }
        }
    }

    fn restart(&mut self, at: At, index: usize, ending: Ending, rule: Rule) {
        let child = &self.children[index];
        if child.first_start && child.spec.start.on_failure == OnStartFailure::Abort {
            let reason = format!("start of {} failed: {ending}", child.name());
            return self.escalate(index, &ending, reason);
        }
        let mut until = at.now + child.spec.restart.backoff.delay(child.attempts, at.draw);
        // A member of a group restart stays one, also when a reload has changed the strategy meanwhile.
        let first = first_affected(self.spec.strategy, index).or(child.in_round.then_some(index));
        let coalesced = first.is_some() && self.round.is_some_and(|round| round.counted);
        if !coalesced && let Err(exceeded) = self.window.admit(at.now, self.spec.intensity) {
            match self.spec.on_intensity_exceeded {
                OnIntensityExceeded::Escalate => return self.escalate(index, &ending, exceeded.to_string()),
                OnIntensityExceeded::StopGroup => {
                    return self.fail_group(index, ending, format!("too many restarts: {exceeded}"));
                }
                OnIntensityExceeded::Delay => match self.window.admit_later(at.now, self.spec.intensity) {
                    Some(room) => until = until.max(room),
                    None => {
                        return self.fail_group(index, ending, "an intensity of 0 allows no restart".into());
                    }
                },
            }
        }
        let mut decision = self.decision(index, Action::Restart, format!("{rule}, {ending}"));
        decision.coalesced = coalesced;
        decision.delay = Some(until.saturating_duration_since(at.now));
        let attempt = self.children[index].attempts;
        self.set(
            index,
            Phase::Backoff { until, attempt, ending: ending.clone() },
            Some(ending),
            Some(decision),
        );
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

    fn give_up(&mut self, at: At, index: usize, ending: Ending, reason: String) {
        let child = &self.children[index];
        // Nothing was given up in a VM that is not to be restarted: its siblings never depended on its return.
        let alone = child.spec.restart.policy == Restart::Never;
        if child.first_start && child.spec.start.on_failure == OnStartFailure::Abort {
            return self.escalate(index, &ending, format!("start of {} failed: {reason}", child.name()));
        }
        if !alone && child.spec.restart.on_give_up == OnGiveUp::Escalate {
            return self.escalate(index, &ending, reason);
        }
        if !alone && self.spec.strategy == Strategy::OneForAll {
            return self.fail_group(index, ending, reason);
        }
        let decision = self.decision(index, Action::GiveUp, reason.clone());
        self.set(index, Phase::Failed { reason }, Some(ending), Some(decision));
        if !alone && self.spec.strategy == Strategy::RestForOne {
            // Those after it depend on it: they are stopped and wait for it. That restarts nothing, so it is not counted.
            self.take_along(index + 1, Round { deadline: at.now, counted: false });
        }
        self.ended_for_good(index);
    }

    fn fail_group(&mut self, index: usize, ending: Ending, reason: String) {
        let decision = self.decision(index, Action::StopGroup, reason.clone());
        self.set(index, Phase::Failed { reason: reason.clone() }, Some(ending), Some(decision));
        let reason = format!("{}: {reason}", self.children[index].name());
        self.go_down(End::Failed { reason });
    }

    fn escalate(&mut self, index: usize, ending: &Ending, reason: String) {
        let decision = self.decision(index, Action::Escalate, reason.clone());
        self.set(index, Phase::Stopped, Some(ending.clone()), Some(decision));
        let reason = format!("{}: {reason}; last ending: {ending}", self.children[index].name());
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
