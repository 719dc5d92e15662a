//! The consequence of too many restarts in a group or in the tree; and groups that end because their work is done.

use crate::support::{Fate, Host, Plan, Rig, group, tree, vm};
use pepita_supervisor::group::Command;
use pepita_supervisor::policy::{Ending, GroupEnd, Reason};
use pepita_supervisor::spec::{
    AutoShutdown, GroupName, GroupSpec, Intensity, OnGiveUp, OnIntensityExceeded, OnStartFailure, Restart,
    Strategy, TreeSpec, VmSpec,
};
use pepita_supervisor::tree::{NotReady, TreeEnd};
use pepita_wire::record::CallErrorKind;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// A group with two restarts in 30 s, and this action after that.
fn exceeding(then: OnIntensityExceeded) -> TreeSpec {
    let mut web = group("web", Strategy::OneForOne, [vm("a"), vm("b"), vm("c")]);
    web.intensity = Intensity { max_restarts: 2, period: SECOND * 30 };
    web.on_intensity_exceeded = then;
    tree([web])
}

#[tokio::test(start_paused = true)]
async fn stop_group_stops_it_in_order_and_it_stays_down_until_an_operator_wants_it() {
    // semantics 4.8: no restart is scheduled; `on_intensity_exceeded` decides.
    let host = Host::new();
    host.plan("b", [1, 2, 3].map(|_| Plan::exits(3, 100)));
    let mut rig = Rig::on(host, exceeding(OnIntensityExceeded::StopGroup)).await;
    let GroupEnd::Failed { vm, failure } = rig.group_ended("web").await else { panic!("failed") };
    assert_eq!((vm.as_str(), failure.ending.code()), ("b", Some(3)));
    assert_eq!(failure.decision.reason, Reason::IntensityExceeded);
    assert_eq!((failure.decision.window.count, failure.decision.window.max), (2, 2));
    assert_eq!(rig.host.stopped(), ["c", "a"]);
    rig.pass(SECOND * 3600).await;
    assert_eq!(rig.host.alive(), Vec::<String>::new());
    let error = rig.tree.wait_ready(SECOND).await.expect_err("failed");
    assert!(matches!(error, NotReady::Failed { ref group, .. } if group == "web"), "{error}");
    for name in ["a", "b", "c"] {
        rig.tree.command(name, Command::Start).await.expect("accepted");
    }
    assert_eq!(
        rig.tree.wait_ready(SECOND * 10).await,
        Ok(()),
        "the group was brought back and counts as ready"
    );
    assert_eq!(rig.host.alive(), ["a", "b", "c"]);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn delay_waits_until_the_oldest_restart_has_left_the_window() {
    // semantics 4.
    let host = Host::new();
    host.plan("b", [1, 2, 3].map(|_| Plan::exits(3, 100)));
    let mut rig = Rig::on(host, exceeding(OnIntensityExceeded::Delay)).await;
    rig.change("b", "backoff").await;
    let oldest = tokio::time::Instant::now();
    rig.change("b", "backoff").await;
    let third = rig.change("b", "backoff").await.decision.expect("a decision");
    assert!(third.delay > Some(SECOND * 20), "{third}");
    rig.change("b", "starting").await;
    let waited = oldest.elapsed();
    assert!(waited > SECOND * 30 && waited < SECOND * 31, "{waited:?}");
    rig.change("b", "ready").await;
    assert_eq!(rig.host.stopped(), Vec::<String>::new(), "the others did not notice");
    rig.end().await;
}

fn after(group: GroupSpec, after: &str) -> GroupSpec {
    GroupSpec { after: vec![GroupName::new(after).expect("good")], ..group }
}

#[tokio::test(start_paused = true)]
async fn when_the_roots_window_is_exceeded_all_groups_stop_in_order_and_the_tree_has_failed() {
    // semantics 6.
    let host = Host::new();
    host.always("b", Plan::exits(3, 100));
    let mut jobs = group("jobs", Strategy::OneForOne, [vm("b")]);
    jobs.intensity = Intensity { max_restarts: 0, period: SECOND };
    let storage = group("storage", Strategy::OneForOne, [vm("db"), vm("log")]);
    let web = after(group("web", Strategy::OneForOne, [vm("x"), vm("y")]), "storage");
    let mut spec = tree([storage, web, after(jobs, "storage")]);
    spec.intensity = Intensity { max_restarts: 2, period: SECOND * 300 };
    let mut rig = Rig::on(host, spec).await;
    rig.said("gives up: group jobs: b: ").await;
    let TreeEnd::Failed { reason } = rig.tree.wait().await else { panic!("failed") };
    assert!(reason.contains("exit 3") && reason.ends_with("more than 2 restarts in 5m"), "{reason}");
    assert_eq!(rig.host.stopped(), ["y", "x", "log", "db"]);
    // The wait before each escalation was longer than before the previous one.
    let launches = rig.host.launches("b");
    assert!(launches[2] - launches[1] > (launches[1] - launches[0]) + SECOND / 2, "{launches:?}");
}

#[tokio::test(start_paused = true)]
async fn an_escalated_group_that_comes_after_one_that_is_down_waits_for_it() {
    // semantics 1.5, 6.5: started after they are Ready.
    let host = Host::new();
    host.plan("b", [Plan::exits(3, 100)]);
    let mut storage = group("storage", Strategy::OneForOne, [vm("db")]);
    storage.intensity.max_restarts = 0;
    storage.on_intensity_exceeded = OnIntensityExceeded::StopGroup;
    let mut web = after(group("web", Strategy::OneForOne, [vm("b")]), "storage");
    web.intensity.max_restarts = 0;
    let mut rig = Rig::on(host, tree([storage, web])).await;
    rig.said("starts afresh").await;
    rig.host.end("db", Fate::Crash);
    rig.said("group storage: failed").await;
    rig.pass(SECOND * 60).await;
    assert_eq!(rig.host.launches("b").len(), 1);
    rig.tree.command("db", Command::Start).await.expect("accepted");
    rig.until("b", "ready").await;
    rig.end().await;
}

fn jobs(auto_shutdown: AutoShutdown) -> TreeSpec {
    let significant = |name| VmSpec { significant: true, ..vm(name) };
    let mut jobs = group("jobs", Strategy::OneForOne, [significant("a"), vm("helper"), significant("b")]);
    jobs.auto_shutdown = auto_shutdown;
    tree([jobs, after(group("next", Strategy::OneForOne, [vm("z")]), "jobs")])
}

#[tokio::test(start_paused = true)]
async fn a_group_ends_normally_with_its_first_or_its_last_significant_vm() {
    // semantics 6.6: `auto_shutdown` ends a group normally when its significant VMs ended by themselves.
    for auto_shutdown in [AutoShutdown::AnySignificant, AutoShutdown::AllSignificant] {
        let mut rig = Rig::ready(jobs(auto_shutdown)).await;
        rig.host.end("helper", Fate::Exit(0));
        rig.until("helper", "completed").await;
        rig.host.end("a", Fate::Exit(0));
        rig.until("a", "completed").await;
        if auto_shutdown == AutoShutdown::AllSignificant {
            rig.pass(SECOND * 10).await;
            assert_eq!(rig.phase("b"), "ready");
            rig.host.end("b", Fate::Exit(0));
        }
        rig.said("group jobs: ended: its significant VMs have ended").await;
        assert_eq!(rig.tree.wait_ready(SECOND).await, Ok(()), "that is no failure");
        assert_eq!(rig.host.alive(), ["z"], "{auto_shutdown:?}");
        rig.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_significant_vm_that_is_restarted_ends_nothing() {
    // semantics 6.6: by themselves, and for good.
    let mut rig = Rig::ready(jobs(AutoShutdown::AnySignificant)).await;
    rig.host.end("a", Fate::Exit(3));
    rig.change("a", "backoff").await;
    rig.change("a", "ready").await;
    assert_eq!(rig.host.alive(), ["a", "b", "helper", "z"]);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_gives_up_takes_its_group_along_if_it_says_so() {
    // semantics 4.2: on_give_up = escalate.
    let host = Host::new();
    host.plan("b", [1, 2].map(|_| Plan::exits(3, 100)));
    let mut b = vm("b");
    (b.restart.max_retries, b.restart.on_give_up) = (1, OnGiveUp::Escalate);
    let mut rig = Rig::on(host, tree([group("web", Strategy::OneForOne, [vm("a"), b])])).await;
    let GroupEnd::Escalated { vm, failure } = rig.group_ended("web").await else { panic!("escalated") };
    assert_eq!((vm.as_str(), failure.ending.code()), ("b", Some(3)));
    assert_eq!((failure.decision.reason, failure.decision.max_attempts), (Reason::RetriesExhausted, 1));
    rig.said("group web: ready").await;
    // The group starts afresh, with an empty window and no attempts.
    let status = rig.tree.status();
    assert_eq!(status.vm("b").expect("there").attempts, 0);
    assert_eq!(rig.window(0), (0, 6));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_fails_its_group_if_it_says_so_and_a_restart_does_not() {
    // semantics 1.8: start.on_failure = abort (OTP: the group's start fails).
    let host = Host::new();
    host.plan("b", [Plan::refused(CallErrorKind::TryAgain)]);
    let mut b = vm("b");
    b.start.on_failure = OnStartFailure::Abort;
    let mut rig = Rig::on(host, tree([group("web", Strategy::OneForOne, [vm("a"), b])])).await;
    let GroupEnd::Escalated { vm, failure } = rig.group_ended("web").await else { panic!("escalated") };
    assert_eq!((vm.as_str(), failure.decision.reason), ("b", Reason::StartFailed));
    assert!(matches!(failure.ending, Ending::NotLaunched { recoverable: true, .. }), "{failure:?}");
    assert_eq!(rig.host.stopped(), ["a"]);
    rig.said("group web: ready").await;
    rig.host.plan("b", [Plan::refused(CallErrorKind::TryAgain)]);
    rig.host.end("b", Fate::Crash);
    rig.change("b", "backoff").await;
    rig.change("b", "backoff").await;
    rig.change("b", "ready").await;
    assert_eq!(rig.host.stopped(), ["a"], "the VM had started once");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_get_better_is_not_retried() {
    // semantics 3.5, 3.3.
    let host = Host::new();
    host.always("image", Plan::refused(CallErrorKind::BadImage));
    host.always("code", Plan::exits(64, 100));
    let (mut image, mut code) = (vm("image"), vm("code"));
    image.restart.policy = Restart::Always;
    (code.restart.policy, code.restart.never) = (Restart::Always, [64].into());
    let mut rig = Rig::on(host, tree([group("web", Strategy::OneForOne, [image, code])])).await;
    rig.until("image", "failed").await;
    rig.until("code", "failed").await;
    rig.pass(SECOND * 3600).await;
    assert_eq!(rig.host.launched(), ["image", "code"]);
    rig.end().await;
}
