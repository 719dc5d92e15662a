//! A stop, and a leave, at any moment: in time, in order, and with nothing left.

use crate::support::{Fate, Host, Plan, Rig, What, group, record, tree, vm};
use pepita_supervisor::executor::argv::CONFIG_LABEL;
use pepita_supervisor::group::{Command, Refused};
use pepita_supervisor::longest_end;
use pepita_supervisor::policy::Exit;
use pepita_supervisor::spec::{GroupName, GroupSpec, OnExit, Orphans, Strategy, TreeSpec, VmName};
use pepita_supervisor::tree::TreeEnd;
use pepita_wire::{ExitRecord, VmState};
use std::path::Path;
use std::time::Duration;

fn spec(strategy: Strategy) -> TreeSpec {
    tree([group("web", strategy, [vm("a"), vm("b"), vm("c"), vm("d")])])
}

/// The situation in which the tree is told to end.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Scene {
    Boot,
    /// From the failure of `b` on: stops, delay, starts.
    Restart,
    /// From the operator's stop of `b` on.
    Stop,
    /// From a reload on that restarts `b` and `c`, removes `d` and adds `e`.
    Reload,
}

const SCENES: [(Scene, &[u64]); 4] = [
    (Scene::Boot, &[0, 1, 5, 9, 11, 50, 101, 111, 205, 310, 401]),
    (Scene::Restart, &[0, 1, 20, 51, 60, 110, 170, 500, 1000, 1005, 1012, 1101, 1112, 1210, 1320]),
    (Scene::Stop, &[0, 1, 25, 49, 51, 54, 60]),
    (Scene::Reload, &[0, 1, 25, 51, 56, 70, 105, 120, 160, 200, 300]),
];

const STRATEGIES: [Strategy; 3] = [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne];

/// Brings a tree to a situation.
async fn set(scene: Scene, moment: u64, spec: TreeSpec) -> Rig {
    let mut rig = Rig::start(spec.clone()).await;
    if scene != Scene::Boot {
        rig.tree.wait_ready(Duration::from_secs(10)).await.expect("ready");
    }
    match scene {
        Scene::Boot => {}
        Scene::Restart => {
            rig.host.end("b", Fate::Exit(3));
            rig.change("b", "backoff").await;
        }
        Scene::Stop => rig.tree.command("b", Command::Stop).await.expect("accepted"),
        Scene::Reload => drop(rig.tree.reload(reloaded(spec), true).await.expect("applied")),
    }
    rig.pass(Duration::from_millis(moment)).await;
    rig
}

fn reloaded(mut spec: TreeSpec) -> TreeSpec {
    let vms = &mut spec.groups[0].vms;
    (vms[1].machine.memory_mb, vms[2].machine.memory_mb) = (512, 512);
    vms[3] = vm("e");
    spec
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_in_time_and_in_order_and_leaves_nothing() {
    // semantics 7.7: a restart in flight is cancelled before the list of what to stop is made.
    for (scene, moments) in SCENES {
        for strategy in STRATEGIES {
            for moment in moments {
                let rig = set(scene, *moment, spec(strategy)).await;
                let told = rig.host.calls().len();
                let up = rig.phases();
                let (end, took) = rig.stop().await;
                assert_eq!(end, TreeEnd::Stopped, "{scene:?} {strategy:?} after {moment} ms");
                assert!(took < Duration::from_secs(1), "{scene:?} {strategy:?} after {moment} ms: {took:?}");
                assert_eq!(rig.host.left(), Vec::<String>::new(), "{scene:?} {strategy:?} after {moment} ms");
                // VMs stop in reverse start order, one after the other: the VMs that were up, and the VMs that came up
                // before their turn to stop.
                let calls: Vec<_> = rig.host.calls().split_off(told);
                let stops: Vec<&str> =
                    calls.iter().filter(|c| c.what == What::Stop).map(|c| c.vm.as_str()).collect();
                let ready = |name: &str| up.iter().any(|(vm, phase)| vm == name && *phase == "ready");
                let live = |name: &str| {
                    let down = ["stopped", "stopping", "completed"];
                    up.iter().any(|(vm, phase)| vm == name && !down.contains(phase))
                };
                let reverse: Vec<&str> = up.iter().rev().map(|(name, _)| name.as_str()).collect();
                let expected: Vec<&str> = reverse
                    .into_iter()
                    .filter(|name| ready(name) || live(name) && stops.contains(name))
                    .collect();
                assert_eq!(stops, expected, "{scene:?} {strategy:?} after {moment} ms: {up:?}");
                let launches = rig.host.launched().len();
                rig.pass(Duration::from_secs(600)).await;
                assert_eq!(rig.host.launched().len(), launches, "no zombie start");
            }
        }
    }
}

fn kept(dir: &Path, strategy: Strategy) -> TreeSpec {
    TreeSpec { state_dir: Some(dir.to_owned()), on_exit: OnExit::Leave, ..spec(strategy) }
}

#[tokio::test(start_paused = true)]
async fn a_leave_is_in_time_and_the_next_run_brings_all_to_where_they_belong() {
    // semantics 9.
    for (scene, moments) in SCENES {
        for strategy in STRATEGIES {
            for moment in moments {
                let dir = tempfile::tempdir().expect("a directory");
                let rig = set(scene, *moment, kept(dir.path(), strategy)).await;
                let before = tokio::time::Instant::now();
                let host = rig.leave().await;
                let took = before.elapsed();
                assert!(took < Duration::from_secs(1), "{scene:?} {strategy:?} after {moment} ms: {took:?}");
                let next = match scene {
                    Scene::Reload => reloaded(kept(dir.path(), strategy)),
                    _ => kept(dir.path(), strategy),
                };
                let rig = Rig::on(host, next).await;
                rig.pass(Duration::from_secs(30)).await;
                let phases = rig.phases();
                for (name, phase) in &phases {
                    let stays = scene == Scene::Stop && name == "b";
                    let expected = if stays { "stopped" } else { "ready" };
                    assert_eq!(*phase, expected, "{scene:?} {strategy:?} after {moment} ms: {phases:?}");
                }
                rig.end().await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_started_any_more_once_the_tree_stops() {
    // semantics 7.7: this holds also for a group that is down already while another group is still going down.
    let web = group("web", Strategy::OneForOne, [vm("x")]);
    let web = GroupSpec { after: vec![GroupName::new("storage").expect("good")], ..web };
    let mut rig = Rig::ready(tree([group("storage", Strategy::OneForOne, [vm("db")]), web])).await;
    rig.host.becomes("db", |plan| plan.stop = Some(Duration::from_secs(10)));
    let tree = rig.tree.clone();
    let stop = tokio::spawn(async move { tree.stop().await });
    rig.said("group web: ended").await;
    for command in [Command::Start, Command::Restart, Command::Reset] {
        assert_eq!(rig.tree.command("x", command).await, Err(Refused::Stopping), "{command:?}");
    }
    assert_eq!(rig.tree.command("x", Command::Stop).await, Ok(()), "the group is down");
    assert_eq!(stop.await.expect("no panic"), TreeEnd::Stopped);
    assert_eq!(rig.host.launched(), ["db", "x"]);
    assert_eq!(rig.host.left(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_stop_may_be_asked_for_twice_given_up_and_overtaken_by_a_destroy() {
    // semantics 7.8: the first deadline holds.
    let host = Host::new();
    for name in ["a", "b", "c", "d"] {
        host.always(name, Plan::deaf());
    }
    let rig = Rig::on(host, spec(Strategy::OneForOne)).await;
    rig.tree.wait_ready(Duration::from_secs(10)).await.expect("ready");
    let given_up = tokio::time::timeout(Duration::from_secs(1), rig.tree.stop()).await;
    assert!(given_up.is_err());
    let (tree, before) = (rig.tree.clone(), tokio::time::Instant::now());
    let again = tokio::spawn(async move { tree.stop().await });
    assert_eq!(rig.tree.destroy().await, TreeEnd::Stopped);
    assert_eq!(again.await.expect("no panic"), TreeEnd::Stopped);
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
    assert_eq!(rig.host.left(), Vec::<String>::new());
}

/// Semantics 7.13: what cannot be done is told, and the end comes all the same.
#[tokio::test(start_paused = true)]
async fn a_launcher_that_hangs_keeps_no_tree_from_its_end() {
    const HANGS: Duration = Duration::from_secs(24 * 3600);
    for (launch, orderly) in [(true, true), (true, false), (false, true), (false, false)] {
        let host = Host::new();
        if launch {
            host.always("b", Plan { launch: None, ..Plan::default() });
        }
        let limit = Duration::from_secs(20);
        let spec = TreeSpec { shutdown_timeout: limit, ..spec(Strategy::OneForOne) };
        let rest = longest_end(&spec) - limit + Duration::from_secs(1);
        let mut rig = Rig::on(host, spec).await;
        rig.until("a", "ready").await;
        if !launch {
            rig.until("d", "ready").await;
            rig.host.becomes("d", |plan| (plan.stop, plan.destroy) = (None, HANGS));
        }
        let (tree, before) = (rig.tree.clone(), tokio::time::Instant::now());
        let end = if orderly { tree.stop().await } else { tree.destroy().await };
        assert!(matches!(&end, TreeEnd::Failed { reason } if reason.contains("web")), "{end:?}");
        let patience = if orderly { limit } else { Duration::ZERO };
        assert!(before.elapsed() < patience + rest, "{:?}", before.elapsed());
        drop(rig.leave().await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_had_ended_is_removed_before_its_successor_starts_and_judged_once() {
    // semantics 9.7: the VM is found ended at the start, also when all VMs that are found are to be destroyed.
    for orphans in [Orphans::Adopt, Orphans::Destroy] {
        let host = Host::new();
        let mut ended = record("b", "test", 7, 2000);
        let b = vm("b");
        ended.labels.insert(CONFIG_LABEL.into(), b.fingerprint());
        (ended.state, ended.exit) = (
            VmState::Failed,
            Some(ExitRecord {
                name: VmName::new("b").expect("good").id().to_string(),
                exit: Exit::code(42),
                ..ExitRecord::default()
            }),
        );
        host.has(ended);
        host.becomes("b", |plan| plan.destroy = Duration::from_millis(500));
        let mut rig = Rig::on(host, TreeSpec { orphans, ..spec(Strategy::OneForOne) }).await;
        let change = rig.change("b", "backoff").await;
        assert_eq!(change.exit(), Some(&Exit::code(42)), "{orphans:?}");
        rig.until("b", "ready").await;
        assert_eq!(rig.host.incarnation("b"), Some(8), "{orphans:?}");
        let of_b: Vec<What> =
            rig.host.calls().into_iter().filter(|call| call.vm == "b").map(|call| call.what).collect();
        assert_eq!(of_b, [What::Destroy, What::Run(8)], "{orphans:?}");
        rig.end().await;
    }
}
