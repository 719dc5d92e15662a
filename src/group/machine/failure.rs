//! Applies the decision of [`policy::decide`](crate::policy::decide) on the end of a VM.

use super::child::{AfterStop, Child, Origin, Phase, RunState, Start};
use super::{Roster, Stage};
use crate::group::order::Order;
use crate::journal::Wanted;
use crate::policy::{
    Action, At, Decision, Ending, Exit, Failure, GroupEnd, GroupPolicy, History, Situation, UnderWay,
    VmPolicy, decide,
};
use crate::spec::{AutoShutdown, VmName};

impl Roster {
    /// Records that a VM is confirmed gone.
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
        child.has_run |= ending.shows_that_the_daemon_ran();
        run.note_ready(at.now);
        let (ready_for, state) = (run.ready_for, run.state.clone());
        let is_drowsy = std::mem::take(&mut child.is_drowsy);
        child.may_run_on = ending.may_run_on();
        // The time is computed here, from timestamps, and no timer resets the failures. An end that the supervisor
        // caused counts for this like any other.
        if child.spec.restart.forgets_failures(ready_for) {
            child.attempts = 0;
        }
        let first_start = state.start().is_first();
        match state {
            // What was ordered has not happened: the VM may run on. Only what leaves the configuration is forgotten.
            RunState::Stopping {
                then:
                    AfterStop::StayDown
                    | AfterStop::Start
                    | AfterStop::AwaitTurn
                    | AfterStop::Sleep
                    | AfterStop::Fail { .. },
                ..
            } if ending.may_run_on() => {
                self.judge(at, index, ending, first_start);
            }
            RunState::Stopping { then: AfterStop::Fail { message }, .. } if up => {
                self.judge(at, index, Ending::ActorFailed { message }, first_start);
            }
            RunState::Stopping { then, start } => self.stopped(index, &then, start, ending),
            // Nobody needs a VM that sleeps: whatever has ended it, the next client starts it.
            RunState::Paused { is_asleep: true, .. } if !ending.may_run_on() => {
                self.stopped(index, &AfterStop::Sleep, Start::Alone, ending);
            }
            // It was put to sleep, and its end was told before that.
            RunState::Starting { .. }
            | RunState::Running { .. }
            | RunState::Ready { .. }
            | RunState::Unhealthy
                if is_drowsy && ending.exit() == Some(&Exit::StopRequested) =>
            {
                self.stopped(index, &AfterStop::Sleep, Start::Alone, ending);
            }
            // The VM that was to be started is confirmed gone: now it is launched.
            RunState::Starting { origin: Origin::Sought, start } if !ending.may_run_on() => {
                self.start_instead(index, start, ending);
            }
            // Its daemon was not started: that is no failure of the VM.
            RunState::Starting { origin: Origin::Promoted, start } if ending.was_not_launched() => {
                self.start_instead(index, start, ending);
            }
            RunState::Starting { .. }
            | RunState::Running { .. }
            | RunState::Ready { .. }
            | RunState::Unhealthy
            | RunState::Paused { .. }
            | RunState::Unknown { .. } => self.judge(at, index, ending, first_start),
        }
    }

    /// Judges an end that was not ordered by the group.
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
            has_run: child.has_run,
            group_restart: self.group_restart.as_ref().map(|restart| UnderWay {
                counted: restart.counted,
                includes_vm: restart.members.contains(child.name()),
            }),
            window: &self.window,
            spare_is_ready: self.has_ready_spare(index),
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
                // A member of a group restart stays a member, also when a reload has changed the strategy meanwhile.
                let member = self.is_restarting(&self.children[index]);
                self.set(index, Phase::Backoff { until, attempt: decision.attempt, ending }, told.0, told.1);
                if let Some(first) = affected.or(member.then_some(index)) {
                    self.take_along(first, until, true);
                }
            }
            Action::Complete if self.children[index].sleeps_at_end() => {
                // A daemon that ends at once, with clients that wait, is not started without a pause.
                let not_before = Some(at.now + self.children[index].spec.restart.backoff.initial);
                self.set(index, Phase::Idle { not_before, is_called: false }, told.0, told.1);
            }
            Action::Complete => {
                self.set(index, Phase::Completed, told.0, told.1);
                self.ended_for_good(index);
            }
            Action::GiveUp => {
                self.set(index, Phase::Failed(failure), told.0, told.1);
                let alone = ending.may_run_on();
                let waits = self.spec.strategy.waits_behind_failed() && !alone;
                match &mut self.stage {
                    Stage::Waiting { gave_up, .. } => drop(gave_up.insert(vm)),
                    Stage::Up { .. } if waits && self.children[index].spec.restart.policy.ever_restarts() => {
                        // The children after this one depend on it: they are stopped and wait for it. This restarts no
                        // child, so that no entry is made in the window.
                        self.take_along(index + 1, at.now, false);
                    }
                    Stage::Up { .. } | Stage::GoingDown { .. } | Stage::Down { .. } => {}
                }
                if !alone {
                    self.ended_for_good(index);
                }
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
            // The action follows the failure of an actor, not the end of a VM; see `adopt`.
            Action::Adopt => {}
        }
    }

    /// Ends the group when a significant VM has ended by itself and stays down, if `auto_shutdown` says so. A VM that the
    /// group restart under way brings back does not stay down.
    fn ended_for_good(&mut self, index: usize) {
        let rests = |child: &Child| child.phase.is_at_rest() && !self.comes_back(child);
        // As in OTP, the group does not wait for a VM that the operator has stopped.
        let all_rest = || self.children.iter().all(|child| !child.spec.significant || rests(child));
        let ends = self.is_up()
            && self.children[index].spec.significant
            && !self.comes_back(&self.children[index])
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
