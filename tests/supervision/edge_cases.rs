//! The edge cases of semantics 12, by number: 1 to 5, about restarts.

use crate::support::{Fate, Host, Plan, Rig, group, tree, vm};
use pepita_supervisor::group::Command;
use pepita_supervisor::observe::Action;
use pepita_supervisor::spec::{Intensity, Strategy, TreeSpec};
use pepita_wire::record::CallErrorKind;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

const STRATEGIES: [Strategy; 3] = [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne];

/// Three VMs in a row, with room in the window.
fn spec(strategy: Strategy) -> TreeSpec {
    let mut web = group("web", strategy, [vm("a"), vm("b"), vm("c")]);
    web.intensity = Intensity { max_restarts: 1000, period: Duration::from_secs(60) };
    tree([web])
}

fn refused() -> Plan {
    Plan::refused(CallErrorKind::TryAgain)
}

#[tokio::test(start_paused = true)]
async fn commands_and_questions_are_answered_at_once_in_every_state_of_a_restart_loop() {
    // semantics 12.1, 5.10: the supervisors never block.
    for strategy in STRATEGIES {
        let host = Host::new();
        host.always("b", Plan::exits(3, 100));
        let rig = Rig::on(host, spec(strategy)).await;
        let mut seen = BTreeSet::new();
        for _ in 0..200 {
            rig.pass(Duration::from_millis(17)).await;
            let before = Instant::now();
            seen.extend(rig.phases().into_iter().map(|(_, phase)| phase));
            // The attempts are cleared, so that the loop goes on at the same pace.
            rig.tree.command("b", Command::Reset).await.expect("accepted");
            rig.tree.command("a", Command::Start).await.expect("accepted");
            assert!(rig.tree.spec().await.is_some());
            assert_eq!(before.elapsed(), Duration::ZERO, "{strategy:?}");
        }
        let states = ["waiting", "starting", "ready", "backoff"];
        assert!(states.iter().all(|state| seen.contains(state)), "{strategy:?}: {seen:?}");
        rig.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_delayed_restart_that_fails_again_is_retried_with_growing_delays() {
    // semantics 12.2.
    for strategy in STRATEGIES {
        let host = Host::new();
        let mut spec = spec(strategy);
        spec.groups[0].vms[1].start.timeout = Duration::from_secs(1);
        host.plan("b", [Plan::default(), refused(), Plan::never_boots(), Plan::exits(3, 0)]);
        let mut rig = Rig::on(host, spec).await;
        rig.tree.wait_ready(Duration::from_secs(10)).await.expect("ready");
        rig.host.end("b", Fate::Crash);
        for (attempt, delay) in [(1, 1), (2, 2), (3, 4), (4, 8)] {
            let decision = rig.change("b", "backoff").await.decision.expect("a decision");
            assert_eq!((decision.attempt, decision.delay), (attempt, Some(Duration::from_secs(delay))));
        }
        rig.pass(Duration::from_secs(60)).await;
        assert!(rig.phases().iter().all(|(_, phase)| *phase == "ready"), "{strategy:?}: {:?}", rig.phases());
        rig.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn stop_remove_and_reload_during_backoff_cancel_the_restart_of_that_vm_alone() {
    // semantics 12.3: no start after the old deadline.
    for strategy in STRATEGIES {
        for what in ["stop", "remove", "reload"] {
            let mut rig = Rig::ready(spec(strategy)).await;
            rig.host.end("b", Fate::Crash);
            rig.change("b", "backoff").await;
            rig.pass(Duration::from_millis(300)).await;
            match what {
                "stop" => rig.tree.command("b", Command::Stop).await.expect("accepted"),
                "remove" => rig.tree.remove_vm("b").await.expect("removed"),
                _ => {
                    let mut new = spec(strategy);
                    new.groups[0].vms.remove(1);
                    drop(rig.tree.reload(new, false).await.expect("applied"));
                }
            }
            rig.pass(Duration::from_secs(600)).await;
            assert_eq!(rig.host.launches("b").len(), 1, "{strategy:?} {what}");
            assert_eq!(rig.host.alive(), ["a", "c"], "{strategy:?} {what}");
            rig.end().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reload_during_backoff_is_what_the_restart_comes_with() {
    // semantics 12.3, 11.3: a change that needs a start waits for the next start, which is under way.
    let mut rig = Rig::ready(spec(Strategy::OneForOne)).await;
    rig.host.end("b", Fate::Crash);
    rig.change("b", "backoff").await;
    let mut new = spec(Strategy::OneForOne);
    new.groups[0].vms[1].machine.memory_mb = 512;
    rig.tree.reload(new, true).await.expect("applied");
    rig.change("b", "ready").await;
    rig.pass(Duration::from_secs(600)).await;
    assert_eq!(rig.host.launches("b").len(), 2);
    assert!(!rig.tree.status().vm("b").expect("there").needs_restart);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn in_one_for_all_the_group_restart_is_repeated_when_another_member_fails_to_start() {
    // semantics 12.4, 5.7: the members that were restarted already are stopped, and the whole group restart is repeated
    // after the delay.
    let host = Host::new();
    host.plan("b", [Plan::default(), refused()]);
    let mut rig = Rig::on(host, spec(Strategy::OneForAll)).await;
    rig.tree.wait_ready(Duration::from_secs(10)).await.expect("ready");
    rig.host.end("c", Fate::Crash);
    rig.change("b", "backoff").await;
    rig.change("a", "stopping").await;
    rig.change("c", "ready").await;
    assert_eq!(rig.host.launched(), ["a", "b", "c", "a", "b", "a", "b", "c"]);
    assert_eq!(rig.tree.status().vm("b").expect("there").attempts, 1);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn in_rest_for_one_the_group_restart_is_repeated_from_the_vm_that_failed_to_start() {
    // semantics 12.4, 5.7.
    let host = Host::new();
    host.plan("b", [Plan::default(), refused()]);
    let mut rig = Rig::on(host, spec(Strategy::RestForOne)).await;
    rig.tree.wait_ready(Duration::from_secs(10)).await.expect("ready");
    rig.host.end("a", Fate::Crash);
    rig.change("b", "backoff").await;
    rig.change("c", "ready").await;
    assert_eq!(rig.host.launched(), ["a", "b", "c", "a", "b", "b", "c"]);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn failures_coalesce_into_one_new_incarnation_each_and_one_entry_of_the_window() {
    // semantics 12.5. The failures come all at once, or while the restart is under way; in rest_for_one the set grows
    // to the earlier VM.
    for strategy in [Strategy::OneForAll, Strategy::RestForOne] {
        for later in [0, 20, 500] {
            let mut rig = Rig::ready(spec(strategy)).await;
            for name in ["a", "b", "c"] {
                // The guest takes its time to stop, so that it can fail while it is being stopped.
                rig.host.becomes(name, |plan| plan.stop = Some(Duration::from_millis(100)));
            }
            rig.host.end("c", Fate::Crash);
            rig.pass(Duration::from_millis(later)).await;
            if rig.host.incarnation("a").is_some() {
                rig.host.end("a", Fate::Exit(3));
            }
            rig.pass(Duration::from_secs(60)).await;
            for name in ["a", "b", "c"] {
                assert_eq!(rig.host.launches(name).len(), 2, "{strategy:?} {later}: {name}");
            }
            assert_eq!(rig.window(0), (1, 1000), "{strategy:?} {later}");
            rig.catch_up().await;
            let joined = rig.changes().filter_map(|change| change.decision.as_ref());
            let joined = joined.filter(|decision| decision.joined).count();
            // By then the other VM is down, stopped for this restart: it cannot fail.
            let down = strategy == Strategy::OneForAll && later == 500;
            assert_eq!(joined, usize::from(!down), "{strategy:?} {later}: {:#?}", rig.lines());
            rig.end().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_in_backoff_joins_the_group_restart_and_its_deadline_joins_the_later_one() {
    // semantics 5.
    let host = Host::new();
    host.plan("c", [Plan::exits(3, 100), Plan::exits(3, 100), Plan::exits(3, 100), Plan::default()]);
    let mut rig = Rig::on(host, spec(Strategy::RestForOne)).await;
    for delay in [1, 2, 4] {
        let change = rig.change("c", "backoff").await;
        assert_eq!(change.decision.expect("a decision").delay, Some(Duration::from_secs(delay)));
    }
    let deadline = Instant::now() + Duration::from_secs(4);
    rig.pass(Duration::from_millis(100)).await;
    rig.host.end("a", Fate::Crash);
    let decision = rig.change("a", "backoff").await.decision.expect("a decision");
    assert_eq!((decision.action, decision.joined), (Action::Restart, true));
    rig.change("a", "starting").await;
    assert!(Instant::now() >= deadline, "not before the later deadline");
    rig.change("c", "ready").await;
    assert_eq!((rig.host.launches("a").len(), rig.host.launches("c").len()), (2, 4));
    rig.end().await;
}
