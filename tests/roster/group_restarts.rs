//! Restarts with siblings (semantics 5, 12.4, 12.5, 12.6).

use crate::world::{NS, SECOND, World, exit, group};
use pepita_supervisor::group::{Command, GroupEnd};
use pepita_supervisor::observe::Action;
use pepita_supervisor::spec::{AutoShutdown, Restart, Strategy};
use pepita_supervisor::vm::Transition;
use std::collections::BTreeSet;
use std::time::Duration;

fn all(vms: &str) -> World {
    World::up(group(Strategy::OneForAll, vms))
}

fn rest(vms: &str) -> World {
    World::up(group(Strategy::RestForOne, vms))
}

// semantics 5.1: one_for_one.
#[test]
fn one_for_one_restarts_the_failed_one_alone() {
    let mut world = World::up(group(Strategy::OneForOne, "a b c"));
    world.fail("b");
    world.run_to_rest();
    assert_eq!((world.stopped(), world.started()), (vec![], vec!["b".to_owned()]));
}

// semantics 5.2: one_for_all: all others are stopped at once, in reverse order, and awaited; then all start in order.
#[test]
fn one_for_all_stops_the_others_in_reverse_and_starts_all_in_order() {
    let mut world = all("a b c d");
    world.fail("b");
    assert_eq!(
        (world.stopped(), world.phases().as_str()),
        (vec!["d".into()], "ready backoff ready stopping")
    );
    world.gone("d");
    assert_eq!(world.stopped(), ["c"]);
    world.gone("c");
    assert_eq!(world.stopped(), ["a"]);
    world.advance(SECOND * 5);
    assert!(world.started().is_empty(), "not before all are down");
    world.gone("a");
    for vm in ["a", "b", "c", "d"] {
        assert_eq!(world.started(), [vm]);
        world.transition(vm, Transition::Running);
        assert!(world.started().is_empty());
        world.transition(vm, Transition::Ready);
    }
    assert_eq!(world.window(), (1, 12));
}

// semantics 5.2: the restart waits for the later of the failure plus its delay and the end of the stops.
#[test]
fn the_delay_of_a_group_restart_runs_from_the_failure() {
    let mut world = all("a b");
    world.fail("a");
    world.advance(SECOND / 2);
    world.gone("b");
    assert_eq!(world.phases(), "backoff waiting");
    world.advance(SECOND / 2 - NS);
    assert!(world.started().is_empty());
    world.advance(NS);
    assert_eq!(world.started(), ["a"]);
}

// semantics 5.3: rest_for_one: the set is [failed ..= last].
#[test]
fn rest_for_one_takes_those_after_the_failed_one_along() {
    let mut world = rest("a b c");
    world.fail("b");
    world.run_to_rest();
    assert_eq!((world.stopped(), world.started()), (vec!["c".into()], vec!["b".into(), "c".to_owned()]));
}

// semantics 5.5, 12.5: a second failure joins: it only moves the deadline to the later one.
#[test]
fn failures_coalesce_into_one_restart_with_one_entry() {
    let mut world = all("a b c");
    world.fail("b");
    world.advance(SECOND / 2);
    world.fail("a");
    let decisions = world.decisions();
    assert_eq!(decisions.iter().map(|d| d.joined).collect::<Vec<_>>(), [false, true]);
    world.run();
    world.advance(SECOND / 2);
    assert!(world.started().is_empty(), "the later deadline holds");
    world.advance(SECOND / 2);
    world.run();
    assert_eq!(world.started(), ["a", "b", "c"]);
    assert_eq!(world.window(), (1, 9));
    assert!(["a", "b", "c"].iter().all(|vm| world.incarnation(vm) == 2));
}

// semantics 5.4: if an earlier VM fails meanwhile, the set grows to it; there are never two sets.
#[test]
fn a_rest_for_one_set_grows_to_an_earlier_failure() {
    let mut world = rest("a b c");
    world.fail("c");
    world.fail("a");
    world.run_to_rest();
    assert_eq!(world.stopped(), ["b"]);
    assert_eq!((world.started(), world.window()), (["a", "b", "c"].map(String::from).to_vec(), (1, 9)));
    // The set grows also when its members were down already.
    world.fail("c");
    world.advance(SECOND / 2);
    world.fail("b");
    assert_eq!(world.phases(), "ready backoff backoff");
    world.advance(SECOND);
    world.run_to_rest();
    assert_eq!(world.started(), ["b", "c"]);
}

// semantics 5.6, 12.6: every member that is wanted and whose policy is not "never" comes back, completed members too.
#[test]
fn which_vms_come_back_after_a_sibling_failed() {
    for (strategy, back) in [(Strategy::OneForAll, "a b d"), (Strategy::RestForOne, "b d")] {
        let mut spec = group(strategy, "a b never done stopped d failed");
        let index = |vm: &str| spec.vms.iter().position(|spec| spec.name.as_str() == vm).expect("there");
        let (never, failed) = (index("never"), index("failed"));
        spec.vms[never].restart.policy = Restart::Never;
        // The VM gives up without the rest of a one_for_all group: its siblings do not depend on a VM that is never
        // restarted.
        spec.vms[failed].restart.policy = Restart::Never;
        let mut world = World::up(spec);
        world.end("done", exit(0));
        world.end("failed", exit(1));
        world.order("stopped", Command::Stop);
        world.run();
        world.look_away();
        world.fail("b");
        world.run_to_rest();
        let mut back: Vec<_> = back.split(' ').collect();
        back.insert(back.len() - 1, "done");
        assert_eq!(world.started(), back, "{strategy:?}");
        assert_eq!(world.phases(), "ready ready stopped ready stopped ready failed");
    }
}

// semantics 5.5: a VM in backoff when a group restart begins joins it. (The VM has a backoff of its own only after a
// change of strategy.)
#[test]
fn a_vm_in_backoff_joins_with_its_deadline() {
    let mut spec = group(Strategy::OneForOne, "a b");
    let mut world = World::up(spec.clone());
    world.fail("a");
    world.advance(SECOND);
    world.fail("a");
    spec.strategy = Strategy::OneForAll;
    world.reload(spec, false);
    world.look_away();
    world.fail("b");
    world.advance(SECOND * 2 - NS);
    assert!(world.started().is_empty());
    world.advance(NS);
    assert_eq!(world.started(), ["a"]);
}

// semantics 5.7, 12.4: a start that fails within a restart is a counted failure.
#[test]
fn a_failed_start_repeats_the_group_restart() {
    let mut world = all("a b c");
    world.fail("c");
    world.run();
    world.advance(SECOND);
    world.ready("a");
    world.look_away();
    world.fail("b");
    assert_eq!((world.decision().joined, world.stopped()), (false, vec!["a".into()]));
    world.run_to_rest();
    assert_eq!((world.started(), world.window()), (["a", "b", "c"].map(String::from).to_vec(), (2, 9)));
    // With rest_for_one the group restart is repeated from the failed VM on.
    let mut world = rest("a b c");
    world.fail("a");
    world.run();
    world.advance(SECOND);
    world.ready("a");
    world.look_away();
    world.fail("b");
    world.run_to_rest();
    assert_eq!((world.stopped(), world.started()), (vec![], vec!["b".into(), "c".to_owned()]));
}

// semantics 5.8: with one_for_all the group gives up with its member.
#[test]
fn a_one_for_all_group_gives_up_with_its_member() {
    let mut spec = group(Strategy::OneForAll, "a b");
    spec.vms[0].restart.never = BTreeSet::from([64]);
    let mut world = World::up(spec);
    world.end("a", exit(64));
    assert_eq!(world.decision().action, Action::StopGroup);
    world.run();
    assert_eq!(world.phases(), "failed stopped");
    assert!(matches!(world.ended, Some(GroupEnd::Failed { .. })));
}

// semantics 5.8: with rest_for_one a member gives up alone, and later members wait.
#[test]
fn vms_after_a_vm_that_gave_up_wait_for_it() {
    let mut spec = group(Strategy::RestForOne, "a b c");
    spec.vms[1].restart.never = BTreeSet::from([64]);
    let mut world = World::up(spec);
    world.end("b", exit(64));
    world.run_to_rest();
    assert_eq!((world.stopped(), world.phases().as_str()), (vec!["c".into()], "ready failed waiting"));
    assert_eq!(world.window(), (0, 9), "nothing is restarted by that");
    // semantics 5.9: no VM starts before its turn.
    world.order("c", Command::Start);
    assert!(world.started().is_empty());
    world.order("b", Command::Reset);
    world.run();
    assert_eq!(
        (world.started(), world.phases().as_str()),
        (vec!["b".into(), "c".into()], "ready ready ready")
    );
}

// semantics 4.10, 5.8: the stops behind a VM that gave up are no restart: the first real restart has its entry.
#[test]
fn a_failure_while_others_make_room_is_counted() {
    let mut spec = group(Strategy::RestForOne, "a b c");
    spec.vms[1].restart.never = BTreeSet::from([64]);
    let mut world = World::up(spec);
    world.end("b", exit(64));
    world.look_away();
    world.fail("a");
    assert!(!world.decision().joined);
    assert_eq!(world.window(), (1, 9));
    world.run_to_rest();
    assert_eq!(world.phases(), "ready failed waiting");
}

// semantics 5.8, 6.6: the VM that gave up may be the significant VM that its group ends with.
#[test]
fn a_significant_vm_that_gives_up_ends_a_rest_for_one_group() {
    let mut spec = group(Strategy::RestForOne, "a b");
    (spec.auto_shutdown, spec.vms[0].significant) = (AutoShutdown::AnySignificant, true);
    spec.vms[0].restart.never = BTreeSet::from([64]);
    let mut world = World::up(spec);
    world.end("a", exit(64));
    world.run_to_rest();
    assert_eq!(
        (world.ended.clone(), world.phases().as_str()),
        (Some(GroupEnd::AutoShutdown), "failed stopped")
    );
    assert!(world.started().is_empty());
}

// semantics 5.6, 6.6, 15.4: a VM that the group restart brings back has not ended; one that is never restarted has.
#[test]
fn a_significant_vm_that_completes_in_a_group_restart_ends_the_group_only_if_it_stays_down() {
    for auto_shutdown in [AutoShutdown::AnySignificant, AutoShutdown::AllSignificant] {
        let mut spec = group(Strategy::OneForAll, "a b c");
        (spec.auto_shutdown, spec.vms[1].significant) = (auto_shutdown, true);
        let mut never = spec.clone();
        never.vms[1].restart.policy = Restart::Never;
        let mut world = World::up(spec);
        world.fail("a");
        // The stops come one by one: "c" is stopping, and "b" runs on.
        world.end("b", exit(0));
        world.run_to_rest();
        assert_eq!((world.ended.clone(), world.phases().as_str()), (None, "ready ready ready"));
        let mut world = World::up(never);
        world.fail("a");
        world.end("b", exit(0));
        world.run_to_rest();
        assert_eq!(world.ended, Some(GroupEnd::AutoShutdown), "{auto_shutdown:?}");
    }
}

// semantics 5.6, 6.6: a completed VM that the group restart brings back is waited for.
#[test]
fn a_group_is_not_ended_by_its_last_significant_vm_while_another_one_is_brought_back() {
    let mut spec = group(Strategy::OneForAll, "a b c");
    spec.auto_shutdown = AutoShutdown::AllSignificant;
    (spec.vms[0].significant, spec.vms[1].significant) = (true, true);
    spec.vms[1].restart.policy = Restart::Never;
    let mut world = World::up(spec);
    world.end("a", exit(0));
    world.fail("c");
    world.look_away();
    assert_eq!(world.phases(), "completed stopping backoff");
    world.gone("b");
    world.run_to_rest();
    assert_eq!((world.ended.clone(), world.phases().as_str()), (None, "ready stopped ready"));
    let mut spec = group(Strategy::OneForAll, "a b c d");
    spec.auto_shutdown = AutoShutdown::AllSignificant;
    (spec.vms[0].significant, spec.vms[1].significant) = (true, true);
    spec.vms[1].restart.policy = Restart::Never;
    let mut world = World::up(spec);
    world.end("a", exit(0));
    world.fail("c");
    world.end("b", exit(0));
    world.run_to_rest();
    assert_eq!((world.ended.clone(), world.phases().as_str()), (None, "ready completed ready ready"));
}

// semantics 3.4: an exit code of always_restart_exit_codes brings back even a VM with policy "never", in its place
// among its siblings.
#[test]
fn an_always_code_in_a_vm_that_is_never_restarted_holds_up_no_other() {
    let mut spec = group(Strategy::OneForAll, "a b c");
    spec.vms[1].restart.policy = Restart::Never;
    spec.vms[1].restart.always = BTreeSet::from([75]);
    let mut world = World::up(spec);
    world.end("b", exit(75));
    world.run_to_rest();
    assert_eq!(
        (world.started(), world.phases().as_str()),
        (["a", "b", "c"].map(String::from).to_vec(), "ready ready ready")
    );
}

// semantics 5.6: a group can be Ready without a VM with policy "never" that a group restart has taken down.
#[test]
fn a_group_can_become_ready_without_what_is_never_restarted() {
    let mut spec = group(Strategy::OneForAll, "a b");
    spec.vms[0].restart.policy = Restart::Never;
    let mut world = World::starting(spec);
    world.ready("a");
    world.fail("b");
    world.run_to_rest();
    assert_eq!((world.phases().as_str(), world.group_ready), ("stopped ready", 1));
}

// semantics 5.4: a failure of a Ready VM while a later VM is still starting leads to one restart, not two.
#[test]
fn an_earlier_failure_takes_over_a_restart_that_is_starting() {
    let mut world = rest("a b c");
    world.fail("b");
    world.run();
    world.advance(SECOND);
    world.look_away();
    assert_eq!(world.phases(), "ready starting waiting");
    world.fail("a");
    assert_eq!(world.stopped(), ["b"]);
    world.gone("b");
    world.advance(Duration::from_secs(1));
    world.run();
    assert_eq!(
        (world.started(), world.phases().as_str()),
        (["a", "b", "c"].map(String::from).to_vec(), "ready ready ready")
    );
}
