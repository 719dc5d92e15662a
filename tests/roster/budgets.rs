//! Attempts and the window (semantics 4, 12.2, 12.7, 12.8).

use crate::world::{NS, SECOND, World, exit, group};
use pepita_supervisor::group::{Command, GroupEnd};
use pepita_supervisor::policy::{Action, Ending, Reason};
use pepita_supervisor::spec::{GroupSpec, Intensity, OnGiveUp, OnIntensityExceeded, Strategy};
use pepita_supervisor::vm::Transition;
use std::time::Duration;

const RESET: Duration = Duration::from_secs(600);

fn limited(strategy: Strategy, vms: &str, max_restarts: u32) -> GroupSpec {
    let mut spec = group(strategy, vms);
    spec.intensity = Intensity { max_restarts, period: SECOND * 60 };
    spec.vms.iter_mut().for_each(|vm| vm.restart.backoff.initial = Duration::ZERO);
    spec
}

/// Lets the VM fail, waits for its delay, and makes it Ready again.
fn flap(world: &mut World, vm: &str) {
    world.fail(vm);
    world.run_to_rest();
}

// semantics 4.1, 12.2: attempt 1 waits for initial_delay; a delayed restart that fails again is retried.
#[test]
fn each_failure_in_a_row_doubles_the_delay() {
    let mut world = World::up(group(Strategy::OneForOne, "a"));
    for (attempt, seconds) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16)] {
        world.fail("a");
        assert_eq!(world.attempts("a"), attempt);
        world.advance(SECOND * seconds - NS);
        assert!(world.started().is_empty());
        world.advance(NS);
        assert_eq!(world.started(), ["a"]);
    }
}

// semantics 4.4, 12.8: a VM that was Ready for reset_after has its failures cleared, a VM that was Ready for a
// nanosecond less does not.
#[test]
fn attempts_are_forgotten_after_exactly_reset_after() {
    for (ready, attempts) in [(RESET - NS, 2), (RESET, 1)] {
        let mut world = World::up(group(Strategy::OneForOne, "a"));
        flap(&mut world, "a");
        world.advance(ready);
        world.fail("a");
        assert_eq!(world.attempts("a"), attempts);
    }
}

// semantics 4.4, 12.8: a VM that was never Ready is never reset, also with reset_after = 0.
#[test]
fn what_was_never_ready_forgets_nothing() {
    let mut spec = group(Strategy::OneForOne, "a");
    spec.vms[0].restart.reset_after = Duration::ZERO;
    let mut world = World::starting(spec);
    for attempts in 1..4 {
        world.transition("a", Transition::Running);
        world.advance(RESET);
        world.fail("a");
        assert_eq!(world.attempts("a"), attempts);
        world.advance(SECOND * 60);
    }
}

// semantics 4.4: "without a break": being unhealthy is a break, and a pause is one, too.
#[test]
fn a_break_starts_the_time_to_reset_anew() {
    for (broken, whole) in
        [(Transition::Unhealthy, Transition::Healthy), (Transition::Paused, Transition::Resumed)]
    {
        let mut world = World::up(group(Strategy::OneForOne, "a"));
        flap(&mut world, "a");
        world.advance(RESET - NS);
        world.transition("a", broken);
        world.advance(RESET);
        world.transition("a", whole);
        world.advance(RESET - NS);
        world.fail("a");
        assert_eq!(world.attempts("a"), 2);
    }
}

// semantics 4.4: the VM "had been" Ready for so long. Every end by health comes after a report that the VM is unhealthy.
#[test]
fn a_long_time_ready_counts_when_it_was_unhealthy_at_the_end() {
    for last in [Transition::Unhealthy, Transition::Paused] {
        let mut world = World::up(group(Strategy::OneForOne, "a"));
        flap(&mut world, "a");
        world.advance(RESET);
        world.transition("a", last);
        world.end("a", Ending::Unhealthy);
        assert_eq!(world.attempts("a"), 1);
    }
}

// semantics 4.3: siblings taken down with a VM have not failed, and the time that they were Ready still counts.
#[test]
fn a_sibling_taken_down_keeps_its_own_account() {
    let mut world = World::up(group(Strategy::OneForAll, "a b"));
    flap(&mut world, "b");
    flap(&mut world, "a");
    assert_eq!((world.attempts("a"), world.attempts("b")), (1, 1));
    world.advance(RESET);
    flap(&mut world, "a");
    world.fail("b");
    assert_eq!((world.attempts("a"), world.attempts("b")), (1, 1));
}

// semantics 4.2: max_retries consecutive failures are allowed.
#[test]
fn one_failure_more_than_max_retries_is_the_end() {
    let mut spec = group(Strategy::OneForOne, "a b");
    spec.vms[0].restart.max_retries = 2;
    let mut world = World::up(spec);
    flap(&mut world, "a");
    flap(&mut world, "a");
    world.decisions();
    world.fail("a");
    let decision = world.decision();
    assert_eq!((decision.action, decision.reason), (Action::GiveUp, Reason::RetriesExhausted));
    assert_eq!((decision.attempt, decision.max_attempts), (3, 2));
    assert_eq!((world.phases().as_str(), world.holds_cid("a")), ("failed ready", false));
    // semantics 4.5: an operator's start clears the failures.
    world.order("a", Command::Start);
    world.run();
    flap(&mut world, "a");
    assert_eq!((world.phase("a"), world.attempts("a")), ("ready", 1));
}

// semantics 4.2: on_give_up = escalate.
#[test]
fn giving_up_can_be_the_groups_affair() {
    let mut spec = group(Strategy::OneForOne, "a b");
    (spec.vms[0].restart.max_retries, spec.vms[0].restart.on_give_up) = (1, OnGiveUp::Escalate);
    let mut world = World::up(spec);
    flap(&mut world, "a");
    flap(&mut world, "a");
    assert!(matches!(world.ended, Some(GroupEnd::Escalated { .. })));
}

// semantics 4.6, 4.7: exactly `intensity` restarts are allowed, another one is not; the entry is made when the failure
// is seen.
#[test]
fn one_restart_more_than_the_intensity_is_too_many() {
    let mut world = World::up(limited(Strategy::OneForOne, "a b", 2));
    flap(&mut world, "a");
    flap(&mut world, "b");
    assert_eq!((world.ended.clone(), world.window()), (None, (2, 2)));
    world.decisions();
    flap(&mut world, "a");
    let decision = world.decision();
    assert_eq!((decision.action, decision.reason), (Action::Escalate, Reason::IntensityExceeded));
    let Some(GroupEnd::Escalated { vm, failure }) = &world.ended else { panic!("{:?}", world.ended) };
    assert_eq!((vm.as_str(), &failure.decision), ("a", &decision));
    assert_eq!((decision.window.count, decision.window.max, decision.window.period), (2, 2, SECOND * 60));
}

// semantics 4.7: an entry exactly period old still counts.
#[test]
fn an_entry_leaves_the_window_just_after_its_period() {
    for (age, allowed) in [(SECOND * 60, false), (SECOND * 60 + NS, true)] {
        let mut world = World::up(limited(Strategy::OneForOne, "a", 1));
        flap(&mut world, "a");
        world.advance(age);
        flap(&mut world, "a");
        assert_eq!(world.ended.is_none(), allowed);
    }
}

// semantics 4.6, 4.10: a group restart makes a single entry; failures that join, operators and reloads make none.
#[test]
fn only_decisions_are_counted() {
    let mut spec = limited(Strategy::OneForAll, "a b c", 1);
    let mut world = World::up(spec.clone());
    world.fail("b");
    world.fail("a");
    world.run_to_rest();
    world.order("a", Command::Restart);
    world.run();
    spec.vms[2].env.insert("A".into(), "1".into());
    world.reload(spec, true);
    world.run_to_rest();
    assert_eq!((world.phases().as_str(), world.window()), ("ready ready ready", (1, 1)));
}

// semantics 4.8: on_intensity_exceeded = stop_group.
#[test]
fn a_group_can_stay_down_when_it_restarts_too_often() {
    let mut spec = limited(Strategy::OneForOne, "a b", 0);
    spec.on_intensity_exceeded = OnIntensityExceeded::StopGroup;
    let mut world = World::up(spec);
    world.fail("a");
    assert_eq!(world.decision().action, Action::StopGroup);
    world.run();
    assert_eq!(world.phases(), "failed stopped");
    assert!(matches!(world.ended, Some(GroupEnd::Failed { .. })));
}

// semantics 4.8: on_intensity_exceeded = delay: until the oldest entry has left the window.
#[test]
fn a_restart_can_wait_for_room_in_the_window() {
    for strategy in [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne] {
        let mut spec = limited(strategy, "a b", 2);
        spec.on_intensity_exceeded = OnIntensityExceeded::Delay;
        let mut world = World::up(spec);
        flap(&mut world, "a");
        world.advance(SECOND * 10);
        flap(&mut world, "a");
        world.advance(SECOND * 10);
        world.look_away();
        world.fail("a");
        assert_eq!(world.decision().delay, Some(SECOND * 40 + NS));
        // A second failure, of another VM, joins the group restart; with one_for_one it waits for the next entry to
        // leave.
        world.fail("b");
        world.run();
        world.advance(SECOND * 40);
        assert!(world.started().is_empty());
        world.advance(NS);
        assert_eq!(world.started(), ["a"]);
        world.run();
        if strategy == Strategy::OneForOne {
            world.advance(SECOND * 10);
        }
        assert_eq!(world.started(), ["b"], "{strategy:?}");
    }
}

// semantics 4.10: an end without a restart needs no room in the window.
#[test]
fn a_clean_end_is_not_counted() {
    let mut world = World::up(limited(Strategy::OneForOne, "a", 0));
    world.end("a", exit(0));
    assert_eq!((world.phase("a"), world.ended.clone()), ("completed", None));
}

// semantics 4.9, 9.10: the failure of an actor leads to a decision; its VM is not affected, and no sibling is
// restarted.
#[test]
fn a_failed_actor_is_replaced_and_counted() {
    for strategy in [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne] {
        let mut world = World::up(limited(strategy, "a b", 1));
        world.actor_fails("a");
        assert_eq!((world.adopted(), world.decision().action), (vec!["a".into()], Action::Adopt));
        assert_eq!((world.incarnation("a"), world.attempts("a"), world.stopped()), (1, 0, vec![]));
        world.ready("a");
        assert_eq!(world.window(), (1, 1));
        // Another failure exceeds the window: the new actor takes the VM down, and its end is judged like another
        // failure.
        world.actor_fails("a");
        assert_eq!((world.adopted(), world.stopped()), (vec!["a".into()], vec!["a".into()]));
        world.gone("a");
        assert_eq!(world.actions(), [Action::Escalate]);
        world.run();
        let Some(GroupEnd::Escalated { failure, .. }) = &world.ended else { panic!("{:?}", world.ended) };
        assert_eq!(failure.ending, Ending::ActorFailed { message: "a test".into() });
    }
}

// semantics 4.8, 4.9: on_intensity_exceeded holds for actors, too.
#[test]
fn actors_that_fail_too_often_do_what_the_group_says() {
    let mut spec = limited(Strategy::OneForOne, "a b", 1);
    spec.on_intensity_exceeded = OnIntensityExceeded::Delay;
    let mut world = World::up(spec.clone());
    world.actor_fails("a");
    world.actor_fails("a");
    world.run();
    assert_eq!((world.phases().as_str(), world.actions().len()), ("backoff ready", 2));
    world.run_to_rest();
    assert_eq!(world.phases(), "ready ready");
    spec.on_intensity_exceeded = OnIntensityExceeded::StopGroup;
    let mut world = World::up(spec);
    world.actor_fails("a");
    world.actor_fails("a");
    world.run();
    assert!(matches!(world.ended, Some(GroupEnd::Failed { .. })));
}
