//! Escalation of a failure to the parent, and the normal end of a group (semantics 6).

use crate::world::{SECOND, World, exit, group};
use pepita_supervisor::group::{Command, GroupEnd};
use pepita_supervisor::policy::Reason;
use pepita_supervisor::spec::{AutoShutdown, GroupSpec, Intensity, Restart, Strategy};

fn fragile(strategy: Strategy, vms: &str) -> GroupSpec {
    GroupSpec { intensity: Intensity { max_restarts: 1, period: SECOND * 60 }, ..group(strategy, vms) }
}

// semantics 6.1: all delays are cancelled, all VMs stopped in order and awaited; the end of the group carries the
// window and the last end.
#[test]
fn an_escalation_stops_everything_in_reverse_order() {
    let mut world = World::up(fragile(Strategy::OneForOne, "a b c d"));
    world.fail("b");
    world.fail("c");
    assert_eq!(
        (world.stopped(), world.phases().as_str()),
        (vec!["d".into()], "ready stopped stopped stopping")
    );
    assert_eq!(world.roster.wake_at(), None);
    world.gone("d");
    assert_eq!((world.stopped(), world.ended.clone()), (vec!["a".into()], None));
    world.gone("a");
    let Some(GroupEnd::Escalated { vm, failure }) = &world.ended else { panic!("{:?}", world.ended) };
    assert_eq!((vm.as_str(), failure.ending.code()), ("c", Some(1)));
    assert_eq!(failure.decision.reason, Reason::IntensityExceeded);
    world.advance(SECOND * 3600);
    assert!(world.roster.is_down());
}

// semantics 6.3: a fresh start has an empty window and no attempts; failed and completed VMs are started, too.
#[test]
fn a_fresh_start_forgets_what_led_to_the_escalation() {
    let mut spec = fragile(Strategy::OneForOne, "a b c d");
    spec.vms[2].restart.policy = Restart::Never;
    let mut world = World::up(spec);
    world.end("b", exit(0));
    world.end("c", exit(1));
    world.order("d", Command::Stop);
    world.run();
    world.fail("a");
    world.run_to_rest();
    world.fail("a");
    world.run_to_rest();
    assert!(world.ended.is_some());
    world.look_away();
    world.start_afresh();
    world.run();
    assert_eq!(world.started(), ["a", "b", "c"]);
    assert_eq!((world.phases().as_str(), world.attempts("a")), ("ready ready ready stopped", 0));
    assert_eq!(world.window(), (0, 1));
}

// semantics 9.10: an actor that fails on the way down is replaced, to take its VM down; that is not counted.
#[test]
fn a_failed_actor_does_not_stop_an_escalation() {
    let mut world = World::up(fragile(Strategy::OneForOne, "a b c"));
    world.fail("a");
    world.fail("b");
    world.actor_fails("c");
    assert_eq!((world.adopted(), world.phase("c")), (vec!["c".into()], "stopping"));
    assert!(world.actor("c").stopping);
    world.run();
    assert!(matches!(world.ended, Some(GroupEnd::Escalated { .. })));
}

// semantics 6.7: an order to stop makes an escalation pointless.
#[test]
fn a_stop_during_an_escalation_wins() {
    let mut world = World::up(fragile(Strategy::OneForOne, "a b"));
    world.fail("a");
    world.run_to_rest();
    world.fail("a");
    world.stop();
    world.run();
    assert_eq!(world.ended, Some(GroupEnd::Stopped));
}

fn shuts_down(auto_shutdown: AutoShutdown, significant: &[usize]) -> World {
    let mut spec = group(Strategy::OneForOne, "a b c");
    spec.auto_shutdown = auto_shutdown;
    significant.iter().for_each(|index| spec.vms[*index].significant = true);
    World::up(spec)
}

// semantics 6.6: auto_shutdown = any_significant.
#[test]
fn a_group_ends_normally_with_its_first_significant_vm() {
    let mut world = shuts_down(AutoShutdown::AnySignificant, &[0, 1]);
    world.end("c", exit(0));
    assert_eq!(world.ended, None);
    // A VM that is restarted has not ended.
    world.fail("b");
    assert_eq!(world.stopped(), Vec::<String>::new());
    world.end("a", exit(0));
    world.run();
    assert_eq!(
        (world.ended.clone(), world.phases().as_str()),
        (Some(GroupEnd::AutoShutdown), "completed stopped completed")
    );
}

// semantics 6.6: auto_shutdown = all_significant; as in OTP, a VM that an operator stopped is not waited for, and its
// stop does not end the group.
#[test]
fn a_group_ends_normally_with_its_last_significant_vm() {
    let mut world = shuts_down(AutoShutdown::AllSignificant, &[0, 1]);
    world.end("a", exit(0));
    assert_eq!(world.ended, None);
    world.end("b", exit(0));
    world.run();
    assert_eq!(world.ended, Some(GroupEnd::AutoShutdown));
    let mut world = shuts_down(AutoShutdown::AllSignificant, &[0, 1]);
    world.order("b", Command::Stop);
    world.run();
    assert_eq!(world.ended, None);
    world.end("a", exit(0));
    world.run();
    assert_eq!(world.ended, Some(GroupEnd::AutoShutdown));
}

// semantics 6.6: a VM that is stopped has not ended by itself.
#[test]
fn a_significant_vm_that_is_stopped_ends_nothing() {
    let mut world = shuts_down(AutoShutdown::AnySignificant, &[0]);
    world.order("a", Command::Stop);
    world.run();
    assert_eq!((world.ended.clone(), world.phases().as_str()), (None, "stopped ready ready"));
}
