//! Taking a group down (semantics 7, 12.9).

use crate::world::{SECOND, World, exit, group};
use pepita_supervisor::group::GroupEnd;
use pepita_supervisor::policy::Reason;
use pepita_supervisor::spec::Strategy;

const STRATEGIES: [Strategy; 3] = [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne];

// semantics 7.5: VMs stop in reverse order, and each stop is awaited.
#[test]
fn a_group_is_stopped_last_first_one_at_a_time() {
    for strategy in STRATEGIES {
        let mut world = World::up(group(strategy, "a b c"));
        world.stop();
        for vm in ["c", "b", "a"] {
            assert_eq!(world.stopped(), [vm]);
            assert_eq!(world.ended, None);
            world.gone(vm);
        }
        assert_eq!(world.ended, Some(GroupEnd::Stopped));
    }
}

// semantics 7.7: a restart in flight is cancelled before the list of what to stop is made.
#[test]
fn nothing_starts_after_a_stop() {
    for strategy in STRATEGIES {
        let mut world = World::starting(group(strategy, "a b c"));
        world.ready("a");
        world.fail("b");
        world.stop();
        world.look_away();
        world.run_to_rest();
        world.advance(SECOND * 3600);
        assert_eq!((world.started(), world.phases().as_str()), (vec![], "stopped stopped stopped"));
        assert_eq!(world.ended, Some(GroupEnd::Stopped));
    }
}

// semantics 12.9: a VM ends by itself while it is stopped, or while it waits to be stopped.
#[test]
fn an_end_on_the_way_down_is_no_failure() {
    let mut world = World::up(group(Strategy::OneForOne, "a b c"));
    world.stop();
    world.fail("b");
    world.end("c", exit(3));
    world.run();
    assert_eq!((world.phases().as_str(), world.attempts("b")), ("stopped stopped stopped", 0));
    assert!(world.decisions().iter().all(|decision| decision.reason == Reason::GroupStopping));
    assert_eq!(
        (world.stopped(), world.ended.clone()),
        (vec!["c".into(), "a".to_owned()], Some(GroupEnd::Stopped))
    );
}

// semantics 7.8: at the deadline all VMs are killed at once.
#[test]
fn a_destruction_is_for_all_at_once() {
    let mut world = World::up(group(Strategy::RestForOne, "a b c"));
    world.stop();
    world.kill();
    assert_eq!(world.phases(), "stopping stopping stopping");
    world.run();
    assert_eq!(world.ended, Some(GroupEnd::Stopped));
}

// semantics 7.12: a stop of a group that has stopped is answered, too.
#[test]
fn a_stop_of_a_group_that_is_down_ends_at_once() {
    let mut world = World::down(group(Strategy::OneForOne, "a b"));
    world.stop();
    assert_eq!(world.ended, Some(GroupEnd::Stopped));
    world.ended = None;
    world.kill();
    assert_eq!(world.ended, Some(GroupEnd::Stopped));
}

// semantics 12.9, 9.10: an actor that fails while it stops its VM is replaced by one that stops it.
#[test]
fn a_stop_outlives_the_actor_that_carried_it_out() {
    let mut world = World::up(group(Strategy::OneForOne, "a"));
    world.stop();
    world.actor_fails("a");
    assert!(world.actor("a").stopping);
    assert_eq!(world.window(), (0, 6));
    world.actor_fails("a");
    world.gone("a");
    assert_eq!(world.ended, Some(GroupEnd::Stopped));
}
