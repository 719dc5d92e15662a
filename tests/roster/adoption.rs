//! The treatment of VMs that a new group finds (semantics 9, 1).

use crate::world::{SECOND, World, exit, group, name};
use pepita_supervisor::group::{Command, Found, GroupEnd};
use pepita_supervisor::journal::{Remembered, Wanted};
use pepita_supervisor::policy::{Ending, Exit, Reason};
use pepita_supervisor::spec::{
    AutoShutdown, GroupSpec, Incarnation, Intensity, OnStartFailure, Restart, Strategy, VmName,
};
use pepita_supervisor::vm::Transition;
use std::collections::BTreeMap;

fn remembered(incarnation: u64, wanted: Wanted) -> Remembered {
    Remembered {
        incarnation: Incarnation(incarnation),
        wanted,
        attempts: 2,
        has_run: true,
        completed: false,
        idle: false,
        failed: None,
    }
}

fn running(incarnation: u64) -> Found {
    Found { incarnation: Incarnation(incarnation), unchanged: true, reachable: true, ended: None }
}

fn over(incarnation: u64, ending: Ending) -> Found {
    Found { ended: Some(ending), ..running(incarnation) }
}

fn world(spec: GroupSpec, memory: &[(&str, Remembered)], found: &[(&str, Found)]) -> World {
    let memory: BTreeMap<VmName, _> = memory.iter().map(|(vm, memory)| (name(vm), memory.clone())).collect();
    let found = found.iter().map(|(vm, found)| (name(vm), found.clone())).collect();
    let mut world = World::remembering(spec, &memory);
    world.start(&found);
    world
}

fn strings(vms: &[&str]) -> Vec<String> {
    vms.iter().map(|vm| (*vm).to_owned()).collect()
}

// semantics 9.4, 5.9: a VM that is wanted and unchanged is adopted. The VMs after it start when it is Ready, as always.
#[test]
fn what_runs_and_is_unchanged_is_taken_over() {
    for strategy in [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne] {
        let memory = [("a", remembered(7, Wanted::Up))];
        let mut world = world(group(strategy, "a b"), &memory, &[("a", running(7))]);
        assert_eq!((world.adopted(), world.started()), (strings(&["a"]), vec![]));
        assert_eq!((world.incarnation("a"), world.attempts("a")), (7, 2));
        world.ready("a");
        assert_eq!(world.started(), ["b"]);
        world.ready("b");
        assert_eq!((world.stopped(), world.group_ready), (vec![], 1));
    }
}

// semantics 9.4, 2.2: what runs has its own number, also when a later one was given and never launched; that one is not given
// again.
#[test]
fn what_runs_under_an_older_number_keeps_it_and_its_successor_gets_a_new_one() {
    let mut world =
        world(group(Strategy::OneForOne, "a"), &[("a", remembered(8, Wanted::Up))], &[("a", running(7))]);
    world.ready("a");
    assert_eq!((world.phase("a"), world.incarnation("a")), ("ready", 7));
    world.fail("a");
    assert_eq!(world.incarnation("a"), 7, "its end is told under its number");
    world.run_to_rest();
    assert_eq!((world.started(), world.incarnation("a")), (strings(&["a"]), 9));
}

// semantics 9.5: a VM with a changed configuration is restarted, in its turn.
#[test]
fn what_has_changed_is_restarted() {
    let found = [("a", running(7)), ("b", Found { unchanged: false, ..running(3) })];
    let mut world = world(group(Strategy::OneForOne, "a b"), &[], &found);
    assert_eq!((world.adopted(), world.stopped()), (strings(&["a", "b"]), strings(&["b"])));
    world.gone("b");
    assert!(world.started().is_empty(), "a is not Ready yet");
    world.ready("a");
    assert_eq!((world.started(), world.incarnation("b")), (strings(&["b"]), 4));
}

// semantics 9.8, 9.5: VMs that the operator had stopped are not started again, and are stopped when they run; with
// policy "always" they come back.
#[test]
fn what_the_operator_had_stopped_stays_down() {
    let mut spec = group(Strategy::OneForOne, "a b c d");
    spec.vms[1].restart.policy = Restart::UnlessStopped;
    spec.vms[2].restart.policy = Restart::Always;
    let down = remembered(1, Wanted::Down);
    let memory = ["a", "b", "c", "d"].map(|vm| (vm, down.clone()));
    let mut world = world(spec, &memory, &[("d", running(1))]);
    assert_eq!((world.started(), world.stopped()), (strings(&["c"]), strings(&["d"])));
    world.run();
    assert_eq!(world.phases(), "stopped stopped ready stopped");
}

// semantics 9.8: completed VMs are not started again, and their traces are not judged again.
#[test]
fn what_had_completed_stays_completed() {
    let memory = ["a", "b"].map(|vm| (vm, Remembered { completed: true, ..remembered(4, Wanted::Up) }));
    let mut world = world(group(Strategy::OneForOne, "a b"), &memory, &[("a", over(4, exit(0)))]);
    assert_eq!(
        (world.phases().as_str(), world.changes.len(), world.group_ready),
        ("completed completed", 0, 1)
    );
    world.run_to_rest();
    assert!(world.started().is_empty());
}

// semantics 9.7: an end that no supervisor saw is judged like any other end.
#[test]
fn what_ended_meanwhile_is_judged() {
    let memory = [("a", remembered(4, Wanted::Up)), ("b", remembered(4, Wanted::Up))];
    let found = [("a", over(4, Exit::Unknown.into())), ("b", over(4, exit(0)))];
    let mut world = world(group(Strategy::OneForOne, "a b"), &memory, &found);
    assert_eq!((world.phases().as_str(), world.attempts("a")), ("backoff completed", 3));
    world.run_to_rest();
    assert_eq!((world.started(), world.incarnation("a")), (strings(&["a"]), 5));
}

// semantics 9.7: an end is judged exactly once: a later incarnation has its number already, so that the end of this one
// was judged before.
#[test]
fn what_was_judged_before_is_just_started() {
    let mut world = world(
        group(Strategy::OneForOne, "a"),
        &[("a", remembered(5, Wanted::Up))],
        &[("a", over(4, exit(1)))],
    );
    assert_eq!((world.started(), world.attempts("a"), world.incarnation("a")), (strings(&["a"]), 2, 6));
}

// semantics 9.7, 5.2: such an end affects the siblings, both the siblings that run and the siblings that were to be
// started.
#[test]
fn an_end_that_was_missed_takes_its_siblings_along() {
    let found = [("b", over(1, exit(1))), ("c", running(1))];
    let mut world = world(group(Strategy::OneForAll, "a b c"), &[], &found);
    assert_eq!((world.started(), world.stopped()), (vec![], strings(&["c"])));
    world.run();
    assert_eq!(world.phases(), "waiting backoff waiting");
    world.advance(SECOND);
    world.run();
    assert_eq!(world.started(), ["a", "b", "c"]);
}

// semantics 1.8: a VM that had been started long ago has no failed first start.
#[test]
fn an_end_that_was_missed_aborts_no_start() {
    let mut spec = group(Strategy::OneForOne, "a");
    spec.vms[0].start.on_failure = OnStartFailure::Abort;
    let world = world(spec, &[], &[("a", over(1, exit(1)))]);
    assert_eq!(world.phase("a"), "backoff");
}

// semantics 6.1: an escalation while a group is taken over takes all its VMs down and starts none.
#[test]
fn an_escalation_during_the_take_over_leaves_nothing_behind() {
    for strategy in [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne] {
        let mut spec = group(strategy, "a b c d e");
        spec.intensity = Intensity { max_restarts: 0, period: SECOND };
        let changed = Found { unchanged: false, ..running(1) };
        let found = [("a", over(1, exit(1))), ("c", running(1)), ("d", changed), ("e", over(1, exit(0)))];
        let mut world = world(spec, &[], &found);
        world.run();
        assert!(matches!(world.ended, Some(GroupEnd::Escalated { .. })));
        assert_eq!(
            (world.started(), world.phases().as_str()),
            (vec![], "stopped stopped stopped stopped stopped")
        );
    }
}

// semantics 9.9, 3.10: a VM that ends while its group waits for another one is judged, but started with its group.
#[test]
fn what_ends_while_its_group_waits_is_judged() {
    for (policy, code, then) in [
        (Restart::OnFailure, 0, "completed"),
        (Restart::OnFailure, 3, "waiting"),
        (Restart::Never, 3, "failed"),
        (Restart::Always, 0, "waiting"),
    ] {
        let mut spec = group(Strategy::OneForOne, "a b");
        spec.vms[0].restart.policy = policy;
        let mut world = World::remembering(spec, &BTreeMap::new());
        world.adopt(&[(name("a"), running(7))].into());
        world.end("a", exit(code));
        assert_eq!(world.phase("a"), then, "{policy:?} {code}");
        world.start(&BTreeMap::new());
        let again = if then == "waiting" { strings(&["a"]) } else { strings(&["b"]) };
        assert_eq!(world.started(), again, "{policy:?} {code}");
    }
}

// semantics 3.10: in a group that waits an operator's start brings up one VM alone, and its end restarts nothing yet.
#[test]
fn an_operator_starts_one_vm_of_a_group_that_waits() {
    for strategy in [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne] {
        let mut world = World::down(group(strategy, "a b c"));
        world.adopt(&BTreeMap::new());
        world.order("b", Command::Start);
        world.run();
        assert_eq!((world.started(), world.phases().as_str()), (strings(&["b"]), "waiting ready waiting"));
        world.fail("b");
        world.run_to_rest();
        assert_eq!((world.phases().as_str(), world.attempts("b")), ("waiting waiting waiting", 0));
        assert_eq!((world.decision().reason, world.group_ready), (Reason::GroupWaiting, 0));
        world.start(&BTreeMap::new());
        world.run();
        assert_eq!((world.started(), world.group_ready), (strings(&["a", "b", "c"]), 1), "{strategy:?}");
    }
}

// semantics 6.6: a significant VM that is still to be started has not ended.
#[test]
fn an_end_that_was_missed_ends_no_group_that_has_yet_to_start() {
    let mut spec = group(Strategy::OneForOne, "a b");
    spec.auto_shutdown = AutoShutdown::AllSignificant;
    spec.vms.iter_mut().for_each(|vm| vm.significant = true);
    let mut world = world(spec, &[], &[("a", over(1, exit(0)))]);
    assert_eq!((world.started(), world.phases().as_str()), (strings(&["b"]), "completed starting"));
    assert_eq!(world.ended, None);
}

// semantics 13.2, 2.5: a VM whose files cannot be read is given up alone, whatever its group: it may run on, so it keeps
// its CID, and no sibling is stopped because of it.
#[test]
fn a_vm_that_may_run_on_is_given_up_alone_and_keeps_its_cid() {
    let unreadable = || Ending::Unreadable { message: "state.json".into() };
    for strategy in [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne] {
        let mut spec = group(strategy, "a b c");
        spec.auto_shutdown = AutoShutdown::AnySignificant;
        spec.vms.iter_mut().for_each(|vm| vm.significant = true);
        let found = ["a", "b", "c"].map(|vm| (vm, running(7)));
        let mut world = world(spec, &[], &found);
        ["a", "c"].into_iter().for_each(|vm| world.ready(vm));
        world.end("b", unreadable());
        world.run_to_rest();
        assert_eq!(world.phases(), "ready failed ready", "{strategy:?}");
        assert!(world.stopped().is_empty() && world.holds_cid("b"), "{strategy:?}");
        // An order to stop it does not make it gone either.
        world.order("c", Command::Stop);
        world.end("c", unreadable());
        assert_eq!(world.phase("c"), "failed", "{strategy:?}");
        assert!(world.holds_cid("c"), "{strategy:?}");
    }
}

// semantics 13.2: a VM that was given up and may run on is looked for before it is launched anew, whoever starts it.
#[test]
fn a_vm_that_may_run_on_is_sought_before_it_is_launched() {
    let given_up = || {
        let unreadable = Ending::Unreadable { message: "state.json".into() };
        let mut world = world(group(Strategy::OneForOne, "a"), &[], &[("a", running(7))]);
        world.end("a", unreadable);
        assert_eq!(world.phase("a"), "failed");
        world.look_away();
        world
    };
    // It runs: it is taken over, and no other one is launched.
    for command in [Command::Start, Command::Reset] {
        let mut world = given_up();
        world.order("a", command);
        assert_eq!((world.adopted(), world.started()), (strings(&["a"]), vec![]));
        world.ready("a");
        assert_eq!((world.phase("a"), world.incarnation("a")), ("ready", 7));
        world.fail("a");
        world.run_to_rest();
        assert_eq!(world.started(), ["a"], "from now on it is a VM like any other");
    }
    // It is gone: it is launched, and its end is no failure.
    let mut world = given_up();
    world.order("a", Command::Start);
    world.end("a", Exit::Unknown.into());
    assert_eq!((world.started(), world.attempts("a"), world.incarnation("a")), (strings(&["a"]), 0, 8));
    // It still cannot be read.
    let mut world = given_up();
    world.order("a", Command::Start);
    world.end("a", Ending::Unreadable { message: "state.json".into() });
    assert_eq!((world.phase("a"), world.started()), ("failed", vec![]));
    assert!(world.holds_cid("a"));
    // A restart and a stop find it first, too.
    let mut world = given_up();
    world.order("a", Command::Restart);
    assert_eq!(
        (world.adopted(), world.stopped(), world.started()),
        (strings(&["a"]), strings(&["a"]), vec![])
    );
    world.gone("a");
    assert_eq!((world.started(), world.incarnation("a")), (strings(&["a"]), 8));
    let mut world = given_up();
    world.order("a", Command::Stop);
    assert_eq!((world.adopted(), world.stopped()), (strings(&["a"]), strings(&["a"])));
    world.gone("a");
    assert_eq!(world.phase("a"), "stopped");
    assert!(!world.holds_cid("a"));
}

// semantics 13.2, 6.3: so does a group that starts afresh.
#[test]
fn a_group_that_starts_afresh_launches_no_vm_that_may_run_on() {
    let mut spec = group(Strategy::OneForOne, "a b");
    spec.intensity = Intensity { max_restarts: 0, period: SECOND };
    let mut world = world(spec, &[], &[("a", running(7)), ("b", running(7))]);
    world.end("a", Ending::Unreadable { message: "state.json".into() });
    world.ready("b");
    world.fail("b");
    assert!(matches!(world.ended, Some(GroupEnd::Escalated { .. })));
    world.look_away();
    world.start_afresh();
    assert_eq!((world.adopted(), world.started()), (strings(&["a"]), vec![]));
    world.ready("a");
    assert_eq!((world.started(), world.incarnation("a")), (strings(&["b"]), 7));
}

// semantics 9.14: a VM that cannot be reached is left as it is, and holds up no other VM.
#[test]
fn a_vm_that_cannot_be_reached_holds_up_no_other() {
    for strategy in [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne] {
        let silent = Found { reachable: false, ..running(7) };
        let mut world = world(group(strategy, "a b c"), &[], &[("a", silent), ("b", running(7))]);
        assert_eq!(world.adopted(), ["a", "b"]);
        world.ready("b");
        assert_eq!((world.started(), world.phases().as_str()), (strings(&["c"]), "unknown ready starting"));
        world.ready("c");
        assert_eq!((world.stopped(), world.group_ready), (vec![], 0), "{strategy:?}");
        world.transition("a", Transition::Reached);
        assert_eq!(world.phase("a"), "starting");
        world.ready("a");
        assert_eq!((world.phases().as_str(), world.group_ready), ("ready ready ready", 1), "{strategy:?}");
        // Later, too.
        world.transition("b", Transition::Unreachable);
        assert_eq!((world.phase("b"), world.stopped()), ("unknown", vec![]));
        world.end("b", exit(1));
        assert_eq!(world.phase("b"), "backoff", "an end is an end");
    }
}

// semantics 2.5, 9.5: a VM with a changed configuration runs on while its group waits. An operator's stop meanwhile is a
// real stop, by an actor, and so is the stop of the group.
#[test]
fn a_vm_that_waits_for_its_group_to_restart_it_is_stopped_by_an_actor() {
    let changed = Found { unchanged: false, ..running(7) };
    let waiting = || {
        let mut world = World::remembering(group(Strategy::OneForOne, "a"), &BTreeMap::new());
        world.adopt(&BTreeMap::from([(name("a"), changed.clone())]));
        assert!(world.adopted().is_empty() && world.stopped().is_empty());
        world
    };
    let mut by_operator = waiting();
    by_operator.order("a", Command::Stop);
    let mut with_group = waiting();
    with_group.stop();
    for mut world in [by_operator, with_group] {
        assert_eq!((world.adopted(), world.stopped()), (strings(&["a"]), strings(&["a"])));
        assert_eq!(world.phase("a"), "stopping");
        world.gone("a");
        assert_eq!(world.phase("a"), "stopped");
        assert!(!world.holds_cid("a"));
    }
}
