//! What an end means for one VM alone (semantics 3, 10).

use crate::world::{SECOND, World, exit, group};
use pepita_supervisor::group::Command;
use pepita_supervisor::observe::Action;
use pepita_supervisor::policy::{Ending, Exit};
use pepita_supervisor::spec::{Restart, Strategy};
use pepita_supervisor::vm::Transition;
use std::collections::BTreeSet;

fn one(policy: Restart) -> World {
    let mut spec = group(Strategy::OneForOne, "a");
    let restart = &mut spec.vms[0].restart;
    restart.policy = policy;
    (restart.never, restart.always) = (BTreeSet::from([64]), BTreeSet::from([75]));
    World::up(spec)
}

fn lost(recoverable: bool) -> Ending {
    Ending::NotLaunched { recoverable, message: "no".into() }
}

// 3.3 to 3.6, in this order.
#[test]
fn the_first_rule_that_matches_decides_and_is_told() {
    use Restart::{Always, Never, OnFailure, UnlessStopped};
    let table = [
        (Always, exit(0), "backoff", "always, exit 0"),
        (UnlessStopped, exit(0), "backoff", "unless-stopped, exit 0"),
        (OnFailure, exit(0), "completed", "on-failure, exit 0"),
        (Never, exit(0), "completed", "never, exit 0"),
        (OnFailure, exit(3), "backoff", "on-failure, exit 3"),
        (OnFailure, Exit::signal(9).into(), "backoff", "on-failure, "),
        (OnFailure, Exit::Unknown.into(), "backoff", "on-failure, "),
        (OnFailure, Ending::Unhealthy, "backoff", "on-failure, unhealthy"),
        (Never, exit(3), "failed", "restart policy never"),
        (Always, exit(64), "failed", "never_restart_exit_codes"),
        (Never, exit(75), "backoff", "always_restart_exit_codes, exit 75"),
        (Always, lost(false), "failed", "launch cannot succeed"),
        (OnFailure, lost(true), "backoff", "on-failure, launch failed"),
    ];
    for (policy, ending, phase, rule) in table {
        let mut world = one(policy);
        world.end("a", ending.clone());
        assert_eq!(world.phase("a"), phase, "{policy:?} {ending}");
        let decision = world.decision();
        assert!(decision.rule.contains(rule), "{policy:?} {ending}: {decision}");
        // 2: the CID is kept as long as the VM is to come back.
        assert_eq!(world.holds_cid("a"), phase == "backoff");
    }
}

// 3.1: our own stop is no failure, whatever the exit was; 3.2: what the operator wants down stays down.
#[test]
fn a_stop_of_ours_is_not_judged() {
    let mut world = one(Restart::Always);
    world.order("a", Command::Stop);
    world.end("a", exit(3));
    assert_eq!((world.phase("a"), world.attempts("a"), world.decisions().len()), ("stopped", 0, 0));
    world.advance(SECOND * 3600);
    assert!(world.started().is_empty());
    assert_eq!(world.roster.window(), "0/6 in 1m");
}

// 10: every decision says what it rests on.
#[test]
fn a_decision_is_told_with_delay_attempt_and_window() {
    let mut world = one(Restart::OnFailure);
    for _ in 0..2 {
        world.fail("a");
        world.advance(SECOND * 2);
        world.ready("a");
    }
    world.decisions();
    world.fail("a");
    assert_eq!(
        world.decision().to_string(),
        "restart in 4.0 s: on-failure, exit 1, attempt 3, window 3/6 in 1m"
    );
    let change = world.changes.last().expect("told");
    assert_eq!((change.from.word(), change.to.word(), change.incarnation.0), ("ready", "backoff", 3));
    assert_eq!(change.ending, Some(exit(1)));
}

// 10: the window in an event is that of its moment.
#[test]
fn a_window_that_is_told_has_been_aged() {
    let mut world = one(Restart::OnFailure);
    world.fail("a");
    world.advance(SECOND);
    world.ready("a");
    world.decisions();
    world.advance(SECOND * 3600);
    world.end("a", exit(0));
    assert_eq!((world.decision().action, world.roster.window().as_str()), (Action::Complete, "0/6 in 1m"));
}

// 12.9, as far as it is the roster's: a paused or unhealthy VM ends like any other.
#[test]
fn a_vm_that_ends_while_paused_or_unhealthy_is_judged() {
    for news in [Transition::Paused, Transition::Unhealthy] {
        let mut world = one(Restart::OnFailure);
        world.news("a", news);
        world.fail("a");
        assert_eq!((world.phase("a"), world.attempts("a")), ("backoff", 1));
        world.run_to_rest();
        assert_eq!(world.phase("a"), "ready");
    }
}
