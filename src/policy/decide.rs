//! The decision on the end of a VM, from the rules that look at the VM alone to those of its group (semantics 3 to 6).

use crate::policy::{Action, Decision, Ending, Reason, Verdict, Window};
use crate::spec::{
    GroupSpec, Intensity, OnGiveUp, OnIntensityExceeded, OnStartFailure, RestartSpec, Strategy, VmSpec,
};
use std::time::{Duration, Instant};

/// The moment and the random number that come with every question, so that decisions need no clock and no source of
/// chance.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// The moment, by the monotonic clock.
    pub now: Instant,
    /// A random number in `[0, 1)`, for the jitter of a delay.
    pub draw: f64,
}

/// The part of a VM's configuration that decides about its ends.
#[derive(Debug, Clone, Copy)]
pub struct VmPolicy<'a> {
    /// The `restart` table.
    pub restart: &'a RestartSpec,
    /// The consequence of a failed first start.
    pub on_start_failure: OnStartFailure,
}

/// The part of a group's configuration that decides about the ends of its VMs.
#[derive(Debug, Clone, Copy)]
pub struct GroupPolicy {
    /// Which siblings share a failure.
    pub strategy: Strategy,
    /// How many restarts are allowed within a period.
    pub intensity: Intensity,
    /// The consequence of more restarts than allowed.
    pub on_intensity_exceeded: OnIntensityExceeded,
}

/// The state of group and VM in which the end of the VM happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Situation {
    /// The group is up, and the VM is to be up.
    Up,
    /// The group waits for other groups; the VM ran already and was adopted.
    GroupWaiting,
    /// The operator wants the VM down.
    StoppedByOperator,
    /// The group is on its way down, or down.
    GroupStopping,
}

/// A group restart that is under way when a VM ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnderWay {
    /// Whether the restart has its entry in the window. A restart that only stops the VMs behind a VM that gave up has
    /// none.
    pub counted: bool,
    /// Whether the VM takes part in it already.
    pub includes_vm: bool,
}

/// The facts before the end that a decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct History<'a> {
    /// The state in which the end happens.
    pub situation: Situation,
    /// Consecutive counted failures of the VM before this end.
    pub attempts: u32,
    /// Whether the VM was started by the start of its group and has not become Ready since.
    pub first_start: bool,
    /// Whether the daemon of the VM has run before, in this incarnation or in an earlier one.
    pub has_run: bool,
    /// The group restart that is under way, if any.
    pub group_restart: Option<UnderWay>,
    /// The restart window of the group.
    pub window: &'a Window,
    /// Whether a warm spare can take the place of the VM at once.
    pub spare_is_ready: bool,
}

impl<'a> VmPolicy<'a> {
    /// Returns the part of a VM's specification that decides about its ends.
    pub fn of(spec: &'a VmSpec) -> Self {
        Self { restart: &spec.restart, on_start_failure: spec.start.on_failure }
    }
}

impl GroupPolicy {
    /// Returns the part of a group's specification that decides about the ends of its VMs.
    pub fn of(spec: &GroupSpec) -> Self {
        let GroupSpec { strategy, intensity, on_intensity_exceeded, .. } = *spec;
        Self { strategy, intensity, on_intensity_exceeded }
    }
}

/// Decides what follows the end of a VM. The first rule that matches wins.
pub fn decide(vm: &VmPolicy, group: &GroupPolicy, history: &History, ending: &Ending, at: At) -> Decision {
    let decided = |action, reason, attempt| Decision {
        action,
        reason,
        delay: None,
        attempt,
        max_attempts: vm.restart.max_retries,
        window: history.window.count(at.now, group.intensity),
        joined: false,
    };
    let verdict = vm.restart.verdict(ending, history.has_run);
    // A VM that may run on is given up alone, whatever its group: no other VM is stopped because of a file.
    if ending.may_run_on() {
        return decided(Action::GiveUp, Reason::Hopeless, history.attempts);
    }
    // A VM that is not wanted up, or that cannot start now, is neither restarted nor counted.
    match (history.situation, verdict) {
        (Situation::StoppedByOperator, _) => {
            return decided(Action::Leave, Reason::OperatorStop, history.attempts);
        }
        (Situation::GroupStopping, _) => {
            return decided(Action::Leave, Reason::GroupStopping, history.attempts);
        }
        (Situation::GroupWaiting, Verdict::Restart(_)) => {
            return decided(Action::Leave, Reason::GroupWaiting, history.attempts);
        }
        (Situation::GroupWaiting, Verdict::Fail(reason)) => {
            return decided(Action::GiveUp, reason, history.attempts);
        }
        (Situation::GroupWaiting | Situation::Up, Verdict::Complete(reason)) => {
            return decided(Action::Complete, reason, history.attempts);
        }
        (Situation::Up, Verdict::Fail(_) | Verdict::Restart(_)) => {}
    }
    // The budget of the VM itself.
    let (reason, attempt, gives_up) = match verdict {
        Verdict::Complete(reason) | Verdict::Fail(reason) => (reason, history.attempts, true),
        Verdict::Restart(reason) => {
            let (attempt, most) = (history.attempts.saturating_add(1), vm.restart.max_retries);
            if most > 0 && attempt > most {
                (Reason::RetriesExhausted, attempt, true)
            } else {
                (reason, attempt, false)
            }
        }
    };
    if history.first_start && vm.on_start_failure == OnStartFailure::Abort {
        return decided(Action::Escalate, Reason::StartFailed, attempt);
    }
    if gives_up {
        // Siblings do not depend on the return of a VM that is never restarted: such a VM gives up alone.
        let alone = !vm.restart.policy.ever_restarts();
        let action = match vm.restart.on_give_up {
            _ if alone => Action::GiveUp,
            OnGiveUp::Escalate => Action::Escalate,
            OnGiveUp::Fail if group.strategy.gives_up_as_one() => Action::StopGroup,
            OnGiveUp::Fail => Action::GiveUp,
        };
        return decided(action, reason, attempt);
    }
    // The budget of the group. A failure that joins a group restart is not counted a second time. A member of a group
    // restart stays a member, also when a reload has changed the strategy meanwhile.
    let with_siblings = group.strategy.first_affected(0).is_some()
        || history.group_restart.is_some_and(|restart| restart.includes_vm);
    let joined = with_siblings && history.group_restart.is_some_and(|restart| restart.counted);
    let room = match history.window.room(at.now, group.intensity) {
        _ if joined => at.now,
        Some(room) if room == at.now => room,
        room => match (group.on_intensity_exceeded, room) {
            (OnIntensityExceeded::Escalate, _) => {
                return decided(Action::Escalate, Reason::IntensityExceeded, attempt);
            }
            // A window with an intensity of 0 never has room.
            (OnIntensityExceeded::StopGroup, _) | (OnIntensityExceeded::Delay, None) => {
                return decided(Action::StopGroup, Reason::IntensityExceeded, attempt);
            }
            (OnIntensityExceeded::Delay, Some(room)) => room,
        },
    };
    // The first restart has nothing to wait for when a spare takes the place of the VM (semantics 8.2).
    let backoff = match (history.spare_is_ready, attempt) {
        (true, 0..=1) => Duration::ZERO,
        (true, _) | (false, _) => vm.restart.backoff.delay(attempt, at.draw),
    };
    let delay = backoff.max(room.saturating_duration_since(at.now));
    let mut decision = decided(Action::Restart, reason, attempt);
    (decision.delay, decision.joined) = (Some(delay), joined);
    decision.window.count += u32::from(!joined);
    decision
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Exit;
    use crate::spec::Restart;
    use std::time::Duration;

    struct Case {
        restart: RestartSpec,
        on_start_failure: OnStartFailure,
        group: GroupPolicy,
        window: Window,
        situation: Situation,
        attempts: u32,
        first_start: bool,
        group_restart: Option<UnderWay>,
        at: At,
    }

    impl Case {
        fn new() -> Self {
            let mut restart = RestartSpec::default();
            restart.backoff.jitter = 0.0;
            let intensity = Intensity { max_restarts: 2, period: Duration::from_secs(60) };
            Self {
                restart,
                on_start_failure: OnStartFailure::Retry,
                group: GroupPolicy {
                    strategy: Strategy::OneForOne,
                    intensity,
                    on_intensity_exceeded: OnIntensityExceeded::Escalate,
                },
                window: Window::new(),
                situation: Situation::Up,
                attempts: 0,
                first_start: false,
                group_restart: None,
                at: At { now: Instant::now(), draw: 0.0 },
            }
        }

        fn decide(&self, code: i32) -> Decision {
            let vm = VmPolicy { restart: &self.restart, on_start_failure: self.on_start_failure };
            let history = History {
                situation: self.situation,
                attempts: self.attempts,
                first_start: self.first_start,
                has_run: true,
                group_restart: self.group_restart,
                window: &self.window,
                spare_is_ready: false,
            };
            decide(&vm, &self.group, &history, &Exit::code(code).into(), self.at)
        }

        fn fill_window(&mut self) {
            for _ in 0..2 {
                self.window.enter(self.at.now, self.group.intensity).expect("room");
            }
        }
    }

    #[test]
    fn a_restart_tells_its_delay_attempt_and_window() {
        let mut case = Case::new();
        (case.attempts, case.restart.max_retries) = (2, 5);
        let decision = case.decide(3);
        assert_eq!((decision.action, decision.reason), (Action::Restart, Reason::Policy(Restart::OnFailure)));
        assert_eq!(decision.delay, Some(Duration::from_secs(4)));
        assert_eq!((decision.attempt, decision.max_attempts, decision.joined), (3, 5, false));
        assert_eq!((decision.window.count, decision.window.max), (1, 2));
    }

    #[test]
    fn what_is_not_to_be_up_is_left() {
        let mut case = Case::new();
        for (situation, reason) in [
            (Situation::StoppedByOperator, Reason::OperatorStop),
            (Situation::GroupStopping, Reason::GroupStopping),
            (Situation::GroupWaiting, Reason::GroupWaiting),
        ] {
            case.situation = situation;
            let decision = case.decide(3);
            assert_eq!((decision.action, decision.reason, decision.attempt), (Action::Leave, reason, 0));
        }
    }

    #[test]
    fn a_full_window_does_what_the_group_says() {
        let mut case = Case::new();
        case.fill_window();
        for (on, action) in [
            (OnIntensityExceeded::Escalate, Action::Escalate),
            (OnIntensityExceeded::StopGroup, Action::StopGroup),
        ] {
            case.group.on_intensity_exceeded = on;
            let decision = case.decide(3);
            assert_eq!((decision.action, decision.reason), (action, Reason::IntensityExceeded));
            assert_eq!(decision.window.count, 2);
        }
        case.group.on_intensity_exceeded = OnIntensityExceeded::Delay;
        assert_eq!(case.decide(3).delay, Some(Duration::from_secs(60) + Duration::from_nanos(1)));
        case.group.intensity.max_restarts = 0;
        assert_eq!(case.decide(3).action, Action::StopGroup);
        // A failure that joins a group restart needs no room.
        case.group_restart = Some(UnderWay { counted: true, includes_vm: true });
        let decision = case.decide(3);
        assert_eq!((decision.action, decision.joined), (Action::Restart, true));
    }

    #[test]
    fn giving_up_is_the_vms_or_the_groups_affair() {
        let mut case = Case::new();
        (case.attempts, case.restart.max_retries) = (1, 1);
        let decided = |case: &Case| (case.decide(3).action, case.decide(3).reason);
        assert_eq!(decided(&case), (Action::GiveUp, Reason::RetriesExhausted));
        case.group.strategy = Strategy::OneForAll;
        assert_eq!(decided(&case), (Action::StopGroup, Reason::RetriesExhausted));
        case.restart.on_give_up = OnGiveUp::Escalate;
        assert_eq!(decided(&case), (Action::Escalate, Reason::RetriesExhausted));
        case.restart.policy = Restart::Never;
        assert_eq!(decided(&case), (Action::GiveUp, Reason::Policy(Restart::Never)));
        (case.first_start, case.on_start_failure) = (true, OnStartFailure::Abort);
        assert_eq!(decided(&case), (Action::Escalate, Reason::StartFailed));
    }
}
