//! The consequence of an end for one VM alone (semantics 3, 10).

use crate::world::{SECOND, World, exit, group, name};
use pepita_supervisor::group::Command;
use pepita_supervisor::policy::{Action, Ending, Exit, Reason};
use pepita_supervisor::spec::{Restart, Strategy};
use pepita_supervisor::vm::Transition;
use std::collections::{BTreeMap, BTreeSet};

fn one(policy: Restart) -> World {
    let mut spec = group(Strategy::OneForOne, "a");
    let restart = &mut spec.vms[0].restart;
    restart.policy = policy;
    (restart.never, restart.always) = (BTreeSet::from([64]), BTreeSet::from([75]));
    World::up(spec)
}

fn lost(recoverable: bool) -> Ending {
    Ending::NotLaunched { recoverable, refused: false, message: "no".into() }
}

fn refused() -> Ending {
    Ending::NotLaunched { recoverable: false, refused: true, message: "no".into() }
}

// semantics 3.5: without a file with which the VM has never run, only a person can help.
#[test]
fn what_is_missing_at_a_first_start_is_fatal_and_what_went_missing_later_is_tried_again() {
    let mut world = World::starting(group(Strategy::OneForOne, "a"));
    world.end("a", lost(false));
    assert_eq!((world.phase("a"), world.decision().reason), ("failed", Reason::Hopeless));
    world.order("a", Command::Start);
    world.ready("a");
    world.fail("a");
    world.decisions();
    let missing = Exit::NotExecutable { path: "/d".into(), errno: 2, message: "none".into() };
    let refused = Exit::VmmRefused { message: "no kernel".into() };
    for (attempt, ending) in [(2, lost(false)), (3, missing.into()), (4, refused.into())] {
        world.advance(SECOND * 60);
        assert_eq!(world.phase("a"), "starting");
        world.end("a", ending);
        let decision = world.decision();
        assert_eq!((decision.action, decision.attempt), (Action::Restart, attempt));
    }
    // semantics 9: the next run of the supervisor knows that the VM has run.
    let memory = world.roster.remember(&name("a")).expect("a VM");
    let mut next = World::remembering(group(Strategy::OneForOne, "a"), &[(name("a"), memory)].into());
    next.start(&BTreeMap::new());
    next.end("a", lost(false));
    assert_eq!(next.phase("a"), "backoff");
}

// semantics 3.3 to 3.6, in this order.
#[test]
fn the_first_rule_that_matches_decides_and_is_told() {
    use Restart::{Always, Never, OnFailure, UnlessStopped};
    let unseen = || Ending::from(Exit::Unknown);
    let table = [
        (Always, exit(0), "backoff", Reason::Policy(Always)),
        (UnlessStopped, exit(0), "backoff", Reason::Policy(UnlessStopped)),
        (OnFailure, exit(0), "completed", Reason::Policy(OnFailure)),
        (Never, exit(0), "completed", Reason::Policy(Never)),
        (OnFailure, exit(3), "backoff", Reason::Policy(OnFailure)),
        (OnFailure, Exit::signal(9).into(), "backoff", Reason::Policy(OnFailure)),
        (OnFailure, unseen(), "backoff", Reason::Policy(OnFailure)),
        (OnFailure, Ending::Unhealthy, "backoff", Reason::Policy(OnFailure)),
        (Never, exit(3), "failed", Reason::Policy(Never)),
        (Always, exit(64), "failed", Reason::NeverRestartExitCode),
        (Never, exit(75), "backoff", Reason::AlwaysRestartExitCode),
        // semantics 3.5: what was there when the VM ran may come back; a wrong request stays wrong.
        (Always, lost(false), "backoff", Reason::Policy(Always)),
        (Never, lost(false), "failed", Reason::Policy(Never)),
        (Always, refused(), "failed", Reason::Hopeless),
        (OnFailure, lost(true), "backoff", Reason::Policy(OnFailure)),
    ];
    for (policy, ending, phase, reason) in table {
        let mut world = one(policy);
        world.end("a", ending.clone());
        assert_eq!(world.phase("a"), phase, "{policy:?} {ending}");
        assert_eq!(world.decision().reason, reason, "{policy:?} {ending}");
        assert_eq!(world.changes.last().expect("told").ending.as_ref(), Some(&ending));
        // semantics 2.5: the VM keeps its CID as long as it is to come back.
        assert_eq!(world.holds_cid("a"), phase == "backoff");
    }
}

// semantics 3.1, 3.2: a stop that the supervisor ordered is no failure, whatever the exit was.
#[test]
fn a_stop_of_ours_is_not_judged() {
    let mut world = one(Restart::Always);
    world.order("a", Command::Stop);
    world.end("a", exit(3));
    assert_eq!((world.phase("a"), world.attempts("a"), world.decisions().len()), ("stopped", 0, 0));
    world.advance(SECOND * 3600);
    assert!(world.started().is_empty());
    assert_eq!(world.window(), (0, 6));
}

// semantics 10.2: a decision carries the facts that it rests on.
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
    let decision = world.decision();
    assert_eq!((decision.action, decision.reason), (Action::Restart, Reason::Policy(Restart::OnFailure)));
    assert_eq!((decision.delay, decision.attempt, decision.max_attempts), (Some(SECOND * 4), 3, 0));
    let window = decision.window;
    assert_eq!((window.count, window.max, window.period), (3, 6, SECOND * 60));
    assert!(!decision.joined);
    let change = world.changes.last().expect("told");
    assert_eq!((change.from.word(), change.to.word(), change.incarnation.0), ("ready", "backoff", 3));
    assert_eq!(change.ending, Some(exit(1)));
}

// semantics 10.5: the window in an event is the window of that moment.
#[test]
fn a_window_that_is_told_has_been_aged() {
    let mut world = one(Restart::OnFailure);
    world.fail("a");
    world.advance(SECOND);
    world.ready("a");
    world.decisions();
    world.advance(SECOND * 3600);
    world.end("a", exit(0));
    assert_eq!((world.decision().action, world.window()), (Action::Complete, (0, 6)));
}

// semantics 12.9: the end of a paused or unhealthy VM is judged like any other.
#[test]
fn a_vm_that_ends_while_paused_or_unhealthy_is_judged() {
    for news in [Transition::Paused, Transition::Unhealthy] {
        let mut world = one(Restart::OnFailure);
        world.transition("a", news);
        world.fail("a");
        assert_eq!((world.phase("a"), world.attempts("a")), ("backoff", 1));
        world.run_to_rest();
        assert_eq!(world.phase("a"), "ready");
    }
}
