//! The commands of an operator, at any moment (semantics 4, 5, 12.1, 12.3).

use crate::world::{SECOND, World, exit, group, name};
use pepita_supervisor::group::{Command, GroupEnd, Refused};
use pepita_supervisor::journal::Wanted;
use pepita_supervisor::spec::{Strategy, VmName};
use std::time::Duration;

const STRATEGIES: [Strategy; 3] = [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne];

fn strings(vms: &[&str]) -> Vec<String> {
    vms.iter().map(|vm| (*vm).to_owned()).collect()
}

// semantics 5.11, 4.5: a start or restart during backoff takes effect at once, and resets the attempts.
#[test]
fn a_start_during_backoff_is_now() {
    for strategy in STRATEGIES {
        for command in [Command::Start, Command::Restart] {
            let mut world = World::up(group(strategy, "a b"));
            world.fail("a");
            world.run();
            world.look_away();
            world.order("a", command);
            assert_eq!((world.started(), world.attempts("a")), (strings(&["a"]), 0), "{strategy:?}");
            world.advance(SECOND * 100);
            world.run();
            let others = if strategy == Strategy::OneForOne { vec![] } else { strings(&["b"]) };
            assert_eq!((world.started(), world.phases().as_str()), (others, "ready ready"));
        }
    }
}

// semantics 5.11: the command cuts the delay of the whole group restart short; order and stops hold, and each VM starts
// once.
#[test]
fn a_start_during_a_round_keeps_its_order() {
    let mut world = World::up(group(Strategy::OneForAll, "a b c"));
    world.fail("b");
    world.order("b", Command::Start);
    assert!(world.started().is_empty(), "c is still to be stopped");
    world.run();
    assert_eq!((world.started(), world.phases().as_str()), (strings(&["a", "b", "c"]), "ready ready ready"));
}

// semantics 5.12, 12.3: a stop during backoff cancels the start; no start follows at the old deadline.
#[test]
fn a_stop_during_backoff_is_the_end_of_it() {
    for strategy in STRATEGIES {
        let mut world = World::up(group(strategy, "a b"));
        world.fail("a");
        world.order("a", Command::Stop);
        assert_eq!((world.phase("a"), world.holds_cid("a")), ("stopped", false));
        world.run_to_rest();
        world.advance(SECOND * 3600);
        assert_eq!((world.phases().as_str(), world.incarnation("a")), ("stopped ready", 1));
    }
}

// semantics 5.6: a VM that the operator stopped does not come back, also when it was stopped during the group restart.
#[test]
fn a_member_that_the_operator_stops_does_not_come_back() {
    let mut world = World::up(group(Strategy::OneForAll, "a b c"));
    world.fail("b");
    world.order("c", Command::Stop);
    world.order("a", Command::Stop);
    world.run_to_rest();
    assert_eq!((world.phases().as_str(), world.started()), ("stopped ready stopped", strings(&["b"])));
    // The VM comes back in its turn when it is wanted again.
    world.fail("b");
    world.order("c", Command::Start);
    assert_eq!(world.phases(), "stopped backoff waiting");
    world.run_to_rest();
    assert_eq!(world.started(), ["b", "c"]);
}

// semantics 12.1: a restart of a VM that is being stopped for a group restart is part of the group restart: one new
// incarnation.
#[test]
fn a_restart_of_a_member_happens_with_the_round() {
    let mut world = World::up(group(Strategy::OneForAll, "a b c"));
    world.fail("a");
    world.order("c", Command::Restart);
    world.order("b", Command::Restart);
    world.run_to_rest();
    assert_eq!(world.started(), ["a", "b", "c"]);
    assert!(["a", "b", "c"].iter().all(|vm| world.incarnation(vm) == 2));
}

// semantics 12.1: the last command counts.
#[test]
fn commands_to_a_vm_that_is_stopping_are_taken() {
    let mut world = World::up(group(Strategy::OneForOne, "a"));
    world.order("a", Command::Restart);
    assert_eq!(world.stopped(), ["a"]);
    world.order("a", Command::Stop);
    world.order("a", Command::Start);
    world.order("a", Command::Stop);
    assert!(world.stopped().is_empty(), "the VM was told to stop before");
    world.gone("a");
    assert_eq!(world.phase("a"), "stopped");
    world.order("a", Command::Restart);
    assert_eq!((world.started(), world.incarnation("a")), (strings(&["a"]), 2));
}

// semantics 4.5, 5.13: a reset clears the failures, and failed VMs come back.
#[test]
fn a_reset_starts_only_what_had_given_up() {
    let mut spec = group(Strategy::OneForOne, "a");
    spec.vms[0].restart.max_retries = 1;
    let mut world = World::up(spec);
    world.fail("a");
    world.order("a", Command::Reset);
    assert_eq!((world.phase("a"), world.attempts("a")), ("backoff", 0));
    world.run_to_rest();
    world.fail("a");
    world.run_to_rest();
    world.fail("a");
    assert_eq!(world.phase("a"), "failed");
    world.look_away();
    world.order("a", Command::Reset);
    assert_eq!(world.started(), ["a"]);
    world.ready("a");
    world.order("a", Command::Reset);
    assert_eq!((world.phase("a"), world.stopped()), ("ready", vec![]));
}

// semantics 12.1: an operator's stop of a VM that has completed or failed is remembered.
#[test]
fn a_stop_of_what_is_down_is_remembered() {
    let mut world = World::up(group(Strategy::OneForAll, "a b"));
    world.end("a", exit(0));
    world.order("a", Command::Stop);
    assert_eq!(world.roster.view(&name("a")).expect("there").wanted, Wanted::Down);
    world.fail("b");
    world.run_to_rest();
    assert_eq!(world.phases(), "stopped ready");
}

#[test]
fn an_unknown_vm_is_refused() {
    let mut world = World::up(group(Strategy::OneForOne, "a"));
    assert_eq!(world.command("b", Command::Start), Err(Refused::NoSuchVm("b".into())));
}

// semantics 11.5, 12.3: a VM that is being removed from the configuration counts as absent.
#[test]
fn commands_to_a_vm_that_is_being_removed_are_refused() {
    for command in [Command::Start, Command::Stop, Command::Restart, Command::Reset] {
        let mut world = World::up(group(Strategy::OneForOne, "a b"));
        world.reload(group(Strategy::OneForOne, "a"), false);
        assert!(matches!(world.command("b", command), Err(Refused::NoSuchVm(_))));
        world.gone("b");
        assert_eq!(world.roster.names().iter().map(VmName::as_str).collect::<Vec<_>>(), ["a"]);
    }
}

// semantics 7.12: nothing starts on the way down; a stop is harmless at any time.
#[test]
fn a_group_on_its_way_down_refuses_to_start_anything() {
    let mut world = World::up(group(Strategy::OneForOne, "a b"));
    world.stop();
    for command in [Command::Start, Command::Restart, Command::Reset] {
        assert_eq!(world.command("a", command), Err(Refused::Stopping));
    }
    world.order("a", Command::Stop);
    world.run();
    assert_eq!(world.ended, Some(GroupEnd::Stopped));
    world.order("a", Command::Stop);
    assert!(world.roster.is_down());
}

// semantics 6.8: in a group that has ended the VM that the operator starts comes back alone.
#[test]
fn an_operator_brings_back_one_vm_of_a_group_that_has_ended() {
    let mut world = World::up(group(Strategy::OneForAll, "a b c"));
    world.order("c", Command::Stop);
    world.stop();
    world.run();
    // Clearing failures that do not exist starts no VM, and so the group stays down.
    world.order("b", Command::Reset);
    assert!(world.roster.is_down());
    world.look_away();
    let ready = world.group_ready;
    world.order("b", Command::Start);
    world.run();
    assert_eq!((world.started(), world.phases().as_str()), (strings(&["b"]), "stopped ready stopped"));
    assert_eq!((world.roster.is_down(), world.group_ready), (false, ready + 1));
    // The group stays up with this VM alone.
    world.fail("b");
    world.advance(Duration::from_secs(1));
    world.run();
    assert_eq!(world.phases(), "stopped ready stopped");
}
