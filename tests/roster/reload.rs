//! A new configuration for a running group (semantics 11, 12.3).

use crate::world::{SECOND, World, exit, group, name, vm};
use pepita_supervisor::group::{Command, GroupEnd};
use pepita_supervisor::spec::{GroupSpec, Strategy};

fn changed(mut spec: GroupSpec, vm: usize) -> GroupSpec {
    spec.vms[vm].machine.memory_mb += 1;
    spec
}

// semantics 11.2: policies and budgets apply live, keep their counters and touch no running VM.
#[test]
fn a_new_policy_applies_at_once_and_touches_no_vm() {
    let mut spec = group(Strategy::OneForOne, "a b");
    let mut world = World::up(spec.clone());
    world.fail("a");
    world.run_to_rest();
    world.look_away();
    spec.vms[0].restart.max_retries = 1;
    spec.strategy = Strategy::RestForOne;
    spec.intensity.max_restarts = 1;
    world.reload(spec, true);
    assert_eq!((world.started(), world.stopped(), world.attempts("a")), (vec![], vec![], 1));
    assert_eq!(world.window(), (1, 1));
    world.fail("a");
    assert_eq!(world.phase("a"), "failed");
}

// semantics 11.3: machine, command and environment wait for the next start, or restart once.
#[test]
fn what_only_a_new_start_can_change_is_marked() {
    let spec = group(Strategy::OneForOne, "a b");
    let mut world = World::up(spec.clone());
    let needs_restart = |world: &World| world.roster.view(&name("a")).expect("there").needs_restart;
    world.reload(changed(spec.clone(), 0), false);
    assert!(needs_restart(&world) && world.stopped().is_empty());
    world.reload(changed(spec, 0), true);
    assert_eq!(world.stopped(), ["a"]);
    world.run();
    assert_eq!((world.started(), needs_restart(&world)), (vec!["a".into()], false));
    assert_eq!(world.attempts("a"), 0);
}

// semantics 11.5, 2.2: new VMs are started in order, removed ones stopped; the number of an incarnation only grows.
#[test]
fn vms_come_and_go_and_come_back() {
    let mut world = World::up(group(Strategy::OneForOne, "a b"));
    world.reload(group(Strategy::OneForOne, "x a y"), false);
    assert_eq!((world.started(), world.stopped()), (vec!["x".into()], vec!["b".into()]));
    world.run();
    assert_eq!((world.started(), world.phases().as_str()), (vec!["y".into()], "ready ready ready"));
    world.reload(group(Strategy::OneForOne, "a b"), false);
    world.run();
    assert_eq!((world.started(), world.incarnation("b")), (vec!["b".into()], 2));
}

// semantics 12.3: a VM is removed during its backoff.
#[test]
fn a_vm_that_is_removed_during_its_backoff_is_forgotten() {
    for strategy in [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne] {
        let mut world = World::up(group(strategy, "a b"));
        world.fail("b");
        world.reload(group(strategy, "a"), false);
        assert_eq!(world.roster.names(), [name("a")]);
        world.look_away();
        world.run_to_rest();
        world.advance(SECOND * 3600);
        let round = strategy == Strategy::OneForAll;
        assert_eq!((world.started().len(), world.phases().as_str()), (usize::from(round), "ready"));
    }
}

// semantics 11.2, 12.3: a reload during backoff keeps the deadline, and starts with the new configuration.
#[test]
fn a_reload_during_backoff_changes_no_deadline() {
    let spec = group(Strategy::OneForOne, "a");
    let mut world = World::up(spec.clone());
    world.fail("a");
    world.reload(changed(spec, 0), true);
    assert!(world.started().is_empty());
    world.advance(SECOND);
    assert_eq!(world.started(), ["a"]);
    assert!(!world.roster.view(&name("a")).expect("there").needs_restart);
}

// semantics 11.7: members of a group restart stay members, wherever they stand afterwards; no other VM is touched.
#[test]
fn a_group_restart_outlives_a_new_order() {
    let mut world = World::up(group(Strategy::RestForOne, "a b c d"));
    world.fail("b");
    world.look_away();
    world.reload(group(Strategy::RestForOne, "c d b a"), false);
    world.run();
    assert_eq!(
        (world.stopped(), world.phases().as_str()),
        (vec!["c".into()], "waiting waiting backoff ready")
    );
    world.advance(SECOND);
    world.run();
    assert_eq!(world.started(), ["c", "d", "b"]);
}

// semantics 11.7: when the failed VM is removed, the others come back all the same, after the delay.
#[test]
fn a_group_restart_outlives_the_one_that_failed() {
    let mut world = World::up(group(Strategy::RestForOne, "a b c d"));
    world.fail("b");
    world.look_away();
    world.reload(group(Strategy::RestForOne, "a c d"), false);
    world.run();
    assert!(world.started().is_empty());
    world.advance(SECOND);
    world.run();
    assert_eq!(
        (world.started(), world.phases().as_str()),
        (vec!["c".into(), "d".into()], "ready ready ready")
    );
}

// semantics 11.5: a new VM among the members starts together with them, in its turn.
#[test]
fn a_new_vm_joins_the_group_restart_in_which_it_stands() {
    for strategy in [Strategy::OneForAll, Strategy::RestForOne] {
        let mut world = World::up(group(strategy, "a b"));
        world.fail("a");
        world.look_away();
        world.reload(group(strategy, "a x b"), false);
        world.run();
        assert!(world.started().is_empty());
        world.advance(SECOND);
        world.run();
        assert_eq!(world.started(), ["a", "x", "b"]);
    }
}

// semantics 11.3: a restart of changed VMs does not bring back what the operator has stopped.
#[test]
fn a_reload_does_not_restart_what_is_being_stopped() {
    let spec = group(Strategy::OneForOne, "a");
    let mut world = World::up(spec.clone());
    world.order("a", Command::Stop);
    world.reload(changed(spec, 0), true);
    world.run_to_rest();
    assert_eq!(world.phase("a"), "stopped");
}

// semantics 7.7: no VM starts on the way down, also when it is in the next configuration again.
#[test]
fn a_reload_starts_nothing_on_the_way_down() {
    let mut world = World::up(group(Strategy::OneForOne, "a b"));
    world.reload(group(Strategy::OneForOne, "a"), false);
    world.stop();
    world.look_away();
    world.reload(group(Strategy::OneForOne, "a b c"), true);
    world.run_to_rest();
    assert_eq!((world.started(), world.ended.clone()), (vec![], Some(GroupEnd::Stopped)));
    assert_eq!(world.phases(), "stopped stopped stopped");
}

// semantics 11.5: a VM that was being removed starts as if it were new, unless it does not start by itself.
#[test]
fn a_vm_that_was_on_its_way_out_can_stay() {
    let mut spec = group(Strategy::OneForOne, "a b");
    let mut world = World::up(spec.clone());
    world.reload(group(Strategy::OneForOne, ""), false);
    spec.vms[1] = vm("b");
    spec.vms[1].autostart = false;
    world.reload(spec, false);
    world.run_to_rest();
    assert_eq!(world.phases(), "ready stopped");
    assert_eq!(world.incarnation("a"), 2);
}

// semantics 11.5: removed VMs are stopped before others; a group without VMs is up, and can be stopped.
#[test]
fn a_group_can_lose_all_its_vms() {
    let mut world = World::up(group(Strategy::OneForAll, "a b"));
    world.end("a", exit(0));
    world.reload(group(Strategy::OneForAll, ""), false);
    world.run_to_rest();
    assert!(world.roster.names().is_empty() && !world.roster.is_down());
    world.stop();
    assert_eq!(world.ended, Some(GroupEnd::Stopped));
}

// semantics 11.7: a group restart under way is finished under the rules with which it began, whatever the strategy is
// now.
#[test]
fn a_group_restart_outlives_its_strategy() {
    let mut spec = group(Strategy::OneForAll, "a b c");
    let mut world = World::up(spec.clone());
    world.look_away();
    world.fail("a");
    spec.strategy = Strategy::OneForOne;
    world.reload(spec, false);
    world.decisions();
    world.advance(SECOND / 2);
    world.fail("b");
    assert!(world.decision().joined);
    world.run();
    world.advance(SECOND - crate::world::NS);
    assert!(world.started().is_empty(), "the later deadline holds for all");
    world.run_to_rest();
    assert_eq!((world.started(), world.window()), (strings(&["a", "b", "c"]), (1, 9)));
    world.fail("b");
    world.run_to_rest();
    assert_eq!(world.started(), ["b"]);
}

fn strings(vms: &[&str]) -> Vec<String> {
    vms.iter().map(|vm| (*vm).to_owned()).collect()
}
