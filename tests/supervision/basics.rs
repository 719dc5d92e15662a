//! The simplest case: a group with one VM, and the consequence of its end.

use crate::support::{Host, Plan, Rig, group, tree, vm};
use pepita_supervisor::observe::VmPhase;
use pepita_supervisor::policy::{Exit, Reason};
use pepita_supervisor::spec::{Restart, Strategy};
use pepita_supervisor::tree::TreeEnd;
use std::time::Duration;

async fn one(policy: Restart, host: Host) -> Rig {
    let mut api = vm("api");
    api.restart.policy = policy;
    Rig::on(host, tree([group("web", Strategy::OneForOne, [api])])).await
}

#[tokio::test(start_paused = true)]
async fn a_tree_comes_up_and_goes_down_and_nothing_is_left() {
    let mut rig = Rig::ready(tree([group("web", Strategy::OneForOne, [vm("api"), vm("db")])])).await;
    assert_eq!(rig.host.launched(), ["api", "db"]);
    assert_eq!(rig.phases(), [("api".into(), "ready"), ("db".into(), "ready")]);
    assert_ne!(rig.host.cid("api"), rig.host.cid("db"));
    let (end, _) = rig.stop().await;
    assert_eq!(end, TreeEnd::Stopped);
    assert_eq!(rig.host.stopped(), ["db", "api"], "last started first");
    assert_eq!(rig.host.left(), Vec::<String>::new());
    let lines = rig.catch_up().await;
    assert!(lines.iter().any(|line| line == "tree: ready"), "{lines:#?}");
    assert!(lines.iter().any(|line| line == "tree: ended: stopped"), "{lines:#?}");
}

#[tokio::test(start_paused = true)]
async fn on_failure_restarts_exit_3_and_leaves_exit_0_alone() {
    // semantics 3.6: on-failure = restart if not clean, else completed.
    let host = Host::new();
    host.plan("api", [Plan::exits(3, 1000), Plan::exits(0, 1000)]);
    let mut rig = one(Restart::OnFailure, host).await;
    let failed = rig.change("api", "backoff").await;
    assert_eq!(failed.exit(), Some(&Exit::code(3)));
    rig.until("api", "completed").await;
    rig.pass(Duration::from_secs(3600)).await;
    assert_eq!(rig.host.launches("api").len(), 2);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn never_leaves_both_alone() {
    // semantics 3.6: never = completed or failed.
    for (code, phase) in [(0, "completed"), (3, "failed")] {
        let host = Host::new();
        host.plan("api", [Plan::exits(code, 1000)]);
        let mut rig = one(Restart::Never, host).await;
        rig.until("api", phase).await;
        rig.pass(Duration::from_secs(3600)).await;
        assert_eq!(rig.host.launches("api").len(), 1);
        rig.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn always_restarts_even_a_clean_end() {
    let host = Host::new();
    host.plan("api", [Plan::exits(0, 1000)]);
    let mut rig = one(Restart::Always, host).await;
    rig.change("api", "backoff").await;
    rig.change("api", "ready").await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_delay_doubles_from_one_second_on() {
    // semantics 4.1: attempt 1 -> initial_delay.
    let host = Host::new();
    host.always("api", Plan::exits(3, 1000));
    let mut rig = one(Restart::OnFailure, host).await;
    for delay in [1, 2, 4] {
        let change = rig.change("api", "backoff").await;
        let decision = change.decision.expect("a decision");
        assert_eq!(decision.delay, Some(Duration::from_secs(delay)));
    }
    rig.change("api", "running").await;
    let launches = rig.host.launches("api");
    // Counted from the failure: a launch takes 10 ms, a boot 90 ms, and the daemon runs for a second.
    let life = Duration::from_millis(1100);
    let delays: Vec<u64> =
        launches.windows(2).map(|two| (two[1] - two[0] - life).as_millis() as u64).collect();
    for (delay, exact) in delays.iter().zip([1000, 2000, 4000]) {
        assert!((exact..exact + 10).contains(delay), "{delays:?}");
    }
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn max_retries_ends_in_failed_with_the_reason() {
    // semantics 4.2: attempts are held against max_retries.
    let host = Host::new();
    host.always("api", Plan::exits(3, 1000));
    let mut api = vm("api");
    api.restart.max_retries = 2;
    let mut rig = Rig::on(host, tree([group("web", Strategy::OneForOne, [api])])).await;
    let change = rig.change("api", "failed").await;
    let VmPhase::Failed(failure) = &change.to else { panic!("{change:?}") };
    assert_eq!((failure.ending.code(), failure.decision.reason), (Some(3), Reason::RetriesExhausted));
    assert_eq!((failure.decision.attempt, failure.decision.max_attempts), (3, 2));
    rig.pass(Duration::from_secs(3600)).await;
    assert_eq!(rig.host.launches("api").len(), 3);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_says_cause_attempt_and_window() {
    // semantics 10.2: every decision is an event.
    let host = Host::new();
    host.always("api", Plan::exits(1, 1000));
    let mut rig = one(Restart::OnFailure, host).await;
    rig.change("api", "backoff").await;
    let second = rig.change("api", "backoff").await;
    assert_eq!(second.incarnation.0, 2);
    let line = rig.lines().pop().expect("an event");
    assert_eq!(
        line,
        "api #2: ready -> backoff; exit 1; restart in 2.0 s: restart policy on-failure, attempt 2, window 2/6 in 1m"
    );
    rig.end().await;
}
