//! The start of a group (semantics 1, 2, 5).

use crate::world::{World, exit, group};
use pepita_supervisor::group::{Command, GroupEnd};
use pepita_supervisor::policy::{Ending, Reason};
use pepita_supervisor::spec::{OnStartFailure, Restart, Strategy};
use pepita_supervisor::vm::Transition;
use std::time::Duration;

const STRATEGIES: [Strategy; 3] = [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne];

// semantics 1.4: the order of the file is the start order.
#[test]
fn each_vm_starts_when_the_one_before_it_is_ready() {
    for strategy in STRATEGIES {
        let mut world = World::starting(group(strategy, "a b c"));
        assert_eq!(
            (world.started(), world.phases().as_str()),
            (vec!["a".into()], "starting waiting waiting")
        );
        world.transition("a", Transition::Running);
        assert!(world.started().is_empty());
        world.transition("a", Transition::Ready);
        assert_eq!(world.started(), ["b"]);
        world.ready("b");
        assert_eq!((world.started(), world.group_ready), (vec!["c".into()], 0));
        world.ready("c");
        assert_eq!((world.phases().as_str(), world.group_ready), ("ready ready ready", 1));
    }
}

// semantics 1.9: autostart.
#[test]
fn a_vm_that_is_not_started_with_its_group_holds_up_no_other() {
    let mut spec = group(Strategy::RestForOne, "a b");
    spec.vms[0].autostart = false;
    let mut world = World::up(spec);
    assert_eq!((world.phases().as_str(), world.group_ready), ("stopped ready", 1));
    world.order("a", Command::Start);
    assert_eq!((world.started(), world.stopped()), (vec!["a".into()], vec![]));
}

// semantics 2.2, 2.4: each start is a new incarnation.
#[test]
fn reports_of_a_former_actor_are_dropped() {
    let mut world = World::up(group(Strategy::OneForOne, "a"));
    let former = world.actor("a").epoch;
    world.fail("a");
    world.advance(Duration::from_secs(1));
    assert_eq!((world.started(), world.incarnation("a")), (vec!["a".into()], 2));
    let vm = crate::world::name("a");
    let at = world.at();
    assert!(world.roster.transition(at, &vm, former, Transition::Ready).is_empty());
    assert!(world.roster.vm_ended(at, &vm, former, exit(1)).is_empty());
    assert!(world.roster.actor_failed(at, &vm, former, "late").is_empty());
    assert_eq!(world.phase("a"), "starting");
}

// semantics 5.9: with one_for_one a VM that cannot start holds up no other.
#[test]
fn with_one_for_one_a_failed_first_start_lets_the_next_one_go() {
    let mut world = World::starting(group(Strategy::OneForOne, "a b"));
    world.started();
    world.fail("a");
    assert_eq!((world.started(), world.phases().as_str()), (vec!["b".into()], "backoff starting"));
    world.advance(Duration::from_secs(1));
    assert_eq!(world.started(), ["a"], "its own delay, not its turn");
}

// semantics 1.8: start.on_failure = abort.
#[test]
fn a_first_start_that_must_not_fail_fails_the_group() {
    for strategy in STRATEGIES {
        let mut spec = group(strategy, "a b c");
        spec.vms[1].start.on_failure = OnStartFailure::Abort;
        let mut world = World::starting(spec);
        world.ready("a");
        world.transition("b", Transition::Running);
        world.fail("b");
        world.run();
        let Some(GroupEnd::Escalated { vm, failure }) = &world.ended else { panic!("{:?}", world.ended) };
        assert_eq!((vm.as_str(), failure.decision.reason), ("b", Reason::StartFailed));
        // semantics 6.3: the root starts the group afresh, and that counts as a first start again.
        world.start_afresh();
        world.ready("a");
        world.end("b", Ending::StartTimeout);
        world.run();
        assert!(matches!(world.ended, Some(GroupEnd::Escalated { .. })));
        // After the VM has been Ready, its failure is judged like any other.
        world.start_afresh();
        world.run();
        world.fail("b");
        world.run();
        assert_eq!((world.ended.clone(), world.phase("b")), (None, "backoff"));
    }
}

// semantics 1.8: abort concerns the start of the group; a later start by the operator is no part of it (OTP's
// start_child).
#[test]
fn a_failed_start_by_the_operator_does_not_abort_the_group() {
    let mut spec = group(Strategy::OneForOne, "a b");
    (spec.vms[1].start.on_failure, spec.vms[1].autostart) = (OnStartFailure::Abort, false);
    let mut world = World::up(spec);
    world.order("b", Command::Start);
    world.fail("b");
    assert_eq!((world.ended.clone(), world.phase("b")), (None, "backoff"));
}

// semantics 5.9: a job that has done its work counts like a Ready VM.
#[test]
fn what_ends_cleanly_before_it_was_ready_lets_the_next_one_start() {
    let mut spec = group(Strategy::RestForOne, "a b");
    spec.vms[0].restart.policy = Restart::Never;
    let mut world = World::starting(spec);
    world.started();
    world.end("a", exit(0));
    assert_eq!((world.started(), world.phases().as_str()), (vec!["b".into()], "completed starting"));
    world.ready("b");
    assert_eq!(world.group_ready, 1);
}

// semantics 2.6: a pause keeps the phase that it interrupts; VMs after a VM that was not Ready go on waiting.
#[test]
fn a_pause_keeps_what_it_interrupts() {
    let mut world = World::starting(group(Strategy::OneForOne, "a b"));
    world.transition("a", Transition::Running);
    world.transition("a", Transition::Paused);
    world.started();
    world.tick();
    assert!(world.started().is_empty());
    world.transition("a", Transition::Resumed);
    assert_eq!(world.phase("a"), "running");
    world.transition("a", Transition::Ready);
    world.transition("a", Transition::Unhealthy);
    world.transition("a", Transition::Paused);
    world.transition("a", Transition::Resumed);
    assert_eq!(world.phase("a"), "ready", "probes start anew after a pause");
}
