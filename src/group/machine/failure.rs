//! What follows the end of a VM: the decision of [`policy::decide`](crate::policy::decide), applied.

use super::child::{AfterStop, Phase, RunState};
use super::{Roster, Stage};
use crate::group::order::Order;
use crate::journal::Wanted;
use crate::policy::{
    Action, At, Decision, Ending, Failure, GroupEnd, GroupPolicy, History, Situation, UnderWay, VmPolicy,
    decide,
};
use crate::spec::{AutoShutdown, VmName};

impl Roster {
    /// Takes in that a VM is gone, confirmed.
    pub fn vm_ended(&mut self, at: At, vm: &VmName, epoch: u64, ending: Ending) -> Vec<Order> {
        if let Some(index) = self.current(vm, epoch) {
            self.end_run(at, index, ending);
        }
        self.finish(at.now)
    }

    fn end_run(&mut self, at: At, index: usize, ending: Ending) {
        let up = self.is_up();
        let child = &mut self.children[index];
        let Phase::Live(run) = &mut child.phase else { return };
        run.note_ready(at.now);
        let (ready_for, state) = (run.ready_for, run.state.clone());
        // Computed here, from timestamps; no timer resets anything. An end that we caused counts for this like any other.
        if child.spec.restart.forgets_failures(ready_for) {
            child.attempts = 0;
        }
        let first_start = state.start().is_first();
        match state {
            RunState::Stopping { then: AfterStop::Fail { message }, .. } if up => {
                self.judge(at, index, Ending::ActorFailed { message }, first_start);
            }
            RunState::Stopping { then, start } => self.stopped(index, &then, start, ending),
            RunState::Starting { .. }
            | RunState::Running { .. }
            | RunState::Ready { .. }
            | RunState::Unhealthy
            | RunState::Paused { .. } => self.judge(at, index, ending, first_start),
        }
    }

    /// Judges an end that the group had not ordered.
    pub(super) fn judge(&mut self, at: At, index: usize, ending: Ending, first_start: bool) {
        let child = &self.children[index];
        let situation = match (&self.stage, child.wanted) {
            (Stage::Up { .. }, Wanted::Up) => Situation::Up,
            (Stage::Waiting { .. }, Wanted::Up) => Situation::GroupWaiting,
            (Stage::Up { .. } | Stage::Waiting { .. }, Wanted::Down) => Situation::StoppedByOperator,
            (Stage::GoingDown { .. } | Stage::Down { .. }, Wanted::Up | Wanted::Down) => {
                Situation::GroupStopping
            }
        };
        let history = History {
            situation,
            attempts: child.attempts,
            first_start,
            group_restart: self.group_restart.as_ref().map(|restart| UnderWay {
                counted: restart.counted,
                includes_vm: restart.members.contains(child.name()),
            }),
            window: &self.window,
        };
        let decision =
            decide(&VmPolicy::of(&child.spec), &GroupPolicy::of(&self.spec), &history, &ending, at);
        self.apply(at, index, ending, decision);
    }

    fn apply(&mut self, at: At, index: usize, ending: Ending, decision: Decision) {
        let child = &mut self.children[index];
        let vm = child.name().clone();
        child.attempts = decision.attempt;
        let told = (Some(ending.clone()), Some(decision.clone()));
        let failure = Failure { ending: ending.clone(), decision: decision.clone() };
        match decision.action {
            Action::Restart => {
                if !decision.joined {
                    self.window.enter_when_room(at.now, self.spec.intensity);
                }
                let until = at.now + decision.delay.unwrap_or_default();
                let affected = self.spec.strategy.first_affected(index);
                // A member of a group restart stays one, also when a reload has changed the strategy meanwhile.
                let member = self.is_restarting(&self.children[index]);
                self.set(index, Phase::Backoff { until, attempt: decision.attempt, ending }, told.0, told.1);
                if let Some(first) = affected.or(member.then_some(index)) {
                    self.take_along(first, until, true);
                }
            }
            Action::Complete => {
                self.set(index, Phase::Completed, told.0, told.1);
                self.ended_for_good(index);
            }
            Action::GiveUp => {
                self.set(index, Phase::Failed(failure), told.0, told.1);
                let waits = self.spec.strategy.waits_behind_failed();
                match &mut self.stage {
                    Stage::Waiting { gave_up, .. } => drop(gave_up.insert(vm)),
                    Stage::Up { .. } if waits && self.children[index].spec.restart.policy.ever_restarts() => {
                        // Those after it depend on it: they are stopped and wait for it. That restarts nothing, so it is
                        // not counted.
                        self.take_along(index + 1, at.now, false);
                    }
                    Stage::Up { .. } | Stage::GoingDown { .. } | Stage::Down { .. } => {}
                }
                self.ended_for_good(index);
            }
            Action::StopGroup => {
                self.set(index, Phase::Failed(failure.clone()), told.0, told.1);
                self.go_down(GroupEnd::Failed { vm, failure });
            }
            Action::Escalate => {
                self.set(index, Phase::Stopped, told.0, told.1);
                self.go_down(GroupEnd::Escalated { vm, failure });
            }
            Action::Leave => {
                let waits =
                    matches!(self.stage, Stage::Waiting { .. }) && self.children[index].wanted == Wanted::Up;
                let phase = if waits { Phase::AwaitingGroup } else { Phase::Stopped };
                self.set(index, phase, told.0, told.1);
            }
            // Decided on the failure of an actor, not on an end; see `adopt`.
            Action::Adopt => {}
        }
    }

    /// Ends the group with a significant VM that has ended by itself and stays down, if the group says so.
    fn ended_for_good(&mut self, index: usize) {
        // As in OTP, a VM that the operator has stopped is not waited for.
        let all_rest =
            || self.children.iter().all(|child| !child.spec.significant || child.phase.is_at_rest());
        let ends = self.is_up()
            && self.children[index].spec.significant
            && match self.spec.auto_shutdown {
                AutoShutdown::Never => false,
                AutoShutdown::AnySignificant => true,
                AutoShutdown::AllSignificant => all_rest(),
            };
        if ends {
            self.go_down(GroupEnd::AutoShutdown);
        }
    }
}
