//! The order in which VMs and groups start and stop.

use crate::support::{Fate, Host, Plan, Rig, group, tree, vm};
use pepita_supervisor::policy::GroupEnd;
use pepita_supervisor::spec::{GroupName, GroupSpec, Intensity, Readiness, Strategy};
use pepita_supervisor::tree::{NotReady, TreeEnd};
use std::time::Duration;

fn after(group: GroupSpec, after: &str) -> GroupSpec {
    GroupSpec { after: vec![GroupName::new(after).expect("good")], ..group }
}

#[tokio::test(start_paused = true)]
async fn each_vm_starts_after_the_one_before_is_ready() {
    let host = Host::new();
    let slow = Plan { ready: Some(Duration::from_secs(5)), ..Plan::default() };
    host.always("db", slow);
    let mut db = vm("db");
    db.start.ready = Readiness::Notify;
    let rig = Rig::on(host, tree([group("web", Strategy::OneForOne, [db, vm("api")])])).await;
    rig.pass(Duration::from_secs(4)).await;
    assert_eq!((rig.phase("db"), rig.phase("api")), ("running", "waiting"));
    rig.tree.wait_ready(Duration::from_secs(10)).await.expect("ready");
    let launches = (rig.host.launches("db")[0], rig.host.launches("api")[0]);
    assert!(launches.1 - launches.0 > Duration::from_secs(5), "{launches:?}");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_group_waits_for_the_one_it_comes_after_and_stops_before_it() {
    let web = after(group("web", Strategy::OneForOne, [vm("api")]), "storage");
    let rig = Rig::start(tree([web, group("storage", Strategy::OneForOne, [vm("db")])])).await;
    assert_eq!(rig.phases(), [("api".into(), "waiting"), ("db".into(), "waiting")]);
    rig.tree.wait_ready(Duration::from_secs(10)).await.expect("ready");
    assert_eq!(rig.host.launched(), ["db", "api"]);
    rig.stop().await;
    assert_eq!(rig.host.stopped(), ["api", "db"]);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_fails_names_the_vms_that_are_not_ready() {
    let host = Host::new();
    host.always("db", Plan::never_boots());
    let web = after(group("web", Strategy::OneForOne, [vm("api")]), "storage");
    let rig = Rig::on(host, tree([group("storage", Strategy::OneForOne, [vm("db")]), web])).await;
    let error = rig.tree.wait_ready(Duration::from_secs(10)).await.expect_err("not ready");
    assert_eq!(error.to_string(), "not ready after 10s: db is starting, api is waiting");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_does_not_stop_in_time_is_destroyed_at_the_deadline() {
    let host = Host::new();
    let deaf = Plan { stop: None, destroy: Duration::from_secs(1), ..Plan::default() };
    for name in ["a", "b", "c"] {
        host.always(name, deaf.clone());
    }
    let mut spec = tree([group("web", Strategy::OneForOne, [vm("a"), vm("b"), vm("c")])]);
    spec.shutdown_timeout = Duration::from_secs(45);
    let rig = Rig::on(host, spec).await;
    rig.tree.wait_ready(Duration::from_secs(10)).await.expect("ready");
    let (end, took) = rig.stop().await;
    assert_eq!(end, TreeEnd::Stopped);
    assert!(took < Duration::from_secs(48), "{took:?}");
    assert_eq!(rig.host.left(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_escalated_group_is_stopped_in_order_and_starts_afresh() {
    // semantics 6.
    let host = Host::new();
    host.plan("b", [Plan::exits(3, 100), Plan::exits(3, 100)]);
    let mut web = group("web", Strategy::OneForOne, [vm("a"), vm("b"), vm("c")]);
    web.intensity = Intensity { max_restarts: 1, period: Duration::from_secs(60) };
    let mut rig = Rig::on(host, tree([web])).await;
    let GroupEnd::Escalated { vm, failure } = rig.group_ended("web").await else { panic!("escalated") };
    assert_eq!((vm.as_str(), failure.ending.code()), ("b", Some(3)));
    assert_eq!((failure.decision.window.count, failure.decision.window.max), (1, 1));
    rig.said("group web: starts afresh in 1.0 s, window of the tree 1/3 in 5m").await;
    assert_eq!(rig.host.stopped(), ["c", "a"]);
    rig.said("group web: ready").await;
    assert_eq!(rig.host.alive(), ["a", "b", "c"]);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn escalations_too_many_end_the_tree_with_an_error() {
    // semantics 6.4: when the window of the tree is exceeded, all groups are stopped in order.
    let host = Host::new();
    host.always("b", Plan::exits(3, 100));
    let mut web = group("web", Strategy::OneForOne, [vm("a"), vm("b")]);
    web.intensity = Intensity { max_restarts: 0, period: Duration::from_secs(60) };
    let mut spec = tree([web, group("other", Strategy::OneForOne, [vm("x")])]);
    spec.intensity = Intensity { max_restarts: 1, period: Duration::from_secs(300) };
    let rig = Rig::on(host, spec).await;
    let TreeEnd::Failed { reason } = rig.tree.wait().await else { panic!("failed") };
    assert!(reason.starts_with("group web: b: "), "{reason}");
    assert!(rig.host.stopped().contains(&"x".to_owned()));
    assert_eq!(rig.tree.wait_ready(Duration::from_secs(1)).await, Err(NotReady::Ending));
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_orderly_at_whatever_moment() {
    // semantics 7: during boot, backoff, a group restart.
    for moment in [0, 1, 5, 11, 50, 101, 111, 205, 310, 700, 1300, 1401, 1500] {
        let host = Host::new();
        host.plan("b", [Plan::exits(3, 300)]);
        let rig = Rig::on(host, tree([group("web", Strategy::OneForAll, [vm("a"), vm("b"), vm("c")])])).await;
        rig.pass(Duration::from_millis(moment)).await;
        let (end, took) = rig.stop().await;
        assert_eq!(end, TreeEnd::Stopped, "after {moment} ms");
        assert!(took < Duration::from_secs(1), "after {moment} ms: {took:?}");
        let launches = rig.host.launched().len();
        rig.pass(Duration::from_secs(600)).await;
        assert_eq!(rig.host.launched().len(), launches, "no zombie start");
        assert_eq!(rig.host.left(), Vec::<String>::new(), "after {moment} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn two_trees_in_one_process_do_not_meet() {
    let host = Host::new();
    let one = tree([group("web", Strategy::OneForOne, [vm("a")])]);
    let mut two = tree([group("web", Strategy::OneForOne, [vm("b")])]);
    two.name = "other".into();
    let (one, mut two) = (Rig::on(host.clone(), one).await, Rig::on(host.clone(), two).await);
    two.until("b", "ready").await;
    one.tree.stop().await;
    assert_eq!(host.alive(), ["b"]);
    host.end("b", Fate::Exit(1));
    two.change("b", "backoff").await;
    two.change("b", "ready").await;
    two.end().await;
}
