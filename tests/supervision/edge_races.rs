//! The edge cases of semantics 12, by number: 9 and 10, about races and probes. The file failing.rs shows that a killed
//! group actor and a VM actor that panics leak nothing and run nothing twice. The tests of the launcher
//! (crates/pepita/src/host/process_id.rs) show that a recycled pid is neither adopted nor killed: the supervisor
//! signals no pid at all.

use crate::support::{Fate, Host, Plan, Rig, What, group, tree, vm};
use pepita_supervisor::group::Command;
use pepita_supervisor::observe::{EventKind, Received};
use pepita_supervisor::spec::{OnUnhealthy, StartOn, Strategy, TreeSpec};
use pepita_supervisor::tree::TreeEnd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn spec(strategy: Strategy) -> TreeSpec {
    tree([group("web", strategy, [vm("a"), vm("b"), vm("c")])])
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_ends_by_itself_while_it_is_stopped_did_not_fail() {
    // semantics 12.9, 3.1: the supervisor's own stop leads to no decision and is not counted.
    for fate in [Fate::Exit(0), Fate::Exit(3), Fate::Crash] {
        let mut rig = Rig::ready(spec(Strategy::OneForAll)).await;
        rig.host.becomes("b", |plan| plan.stop = Some(ms(1000)));
        rig.tree.command("b", Command::Stop).await.expect("accepted");
        rig.pass(ms(500)).await;
        rig.host.end("b", fate);
        let change = rig.change("b", "stopped").await;
        assert_eq!(change.decision, None);
        rig.pass(ms(60_000)).await;
        assert_eq!(rig.host.launched(), ["a", "b", "c"], "{fate:?}");
        assert_eq!(rig.window(0), (0, 9), "{fate:?}");
        assert_eq!(rig.host.left(), ["a", "c"], "{fate:?}");
        rig.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_ends_by_itself_at_the_moment_it_is_told_to_stop_is_gone_once() {
    // semantics 12.9. Whichever event comes first, the VM is stopped in the end: the operator wants it down.
    for first in ["end", "stop"] {
        let mut rig = Rig::ready(spec(Strategy::OneForOne)).await;
        if first == "end" {
            rig.host.end("b", Fate::Exit(3));
            rig.tree.command("b", Command::Stop).await.expect("accepted");
        } else {
            rig.tree.command("b", Command::Stop).await.expect("accepted");
            rig.host.end("b", Fate::Exit(3));
        }
        rig.until("b", "stopped").await;
        rig.pass(ms(60_000)).await;
        assert_eq!(rig.phase("b"), "stopped", "{first} first");
        assert_eq!(rig.host.launches("b").len(), 1, "{first} first");
        rig.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_while_a_replacement_is_launched_undoes_it() {
    // semantics 12.9, 7.4: a `starting` VM is killed at once; nothing leaks and no VM runs twice.
    for moment in [0, 1, 100, 499, 510, 550] {
        for whole in [false, true] {
            let host = Host::new();
            host.plan("b", [Plan::default(), Plan::slow_launch(500)]);
            let mut rig = Rig::on(host, spec(Strategy::OneForOne)).await;
            rig.tree.wait_ready(ms(10_000)).await.expect("ready");
            rig.host.end("b", Fate::Crash);
            rig.change("b", "backoff").await;
            rig.change("b", "starting").await;
            rig.pass(ms(moment)).await;
            if whole {
                let (end, took) = rig.stop().await;
                assert_eq!(end, TreeEnd::Stopped);
                assert!(took < ms(1000), "after {moment} ms: {took:?}");
                continue;
            }
            rig.tree.command("b", Command::Stop).await.expect("accepted");
            rig.until("b", "stopped").await;
            assert_eq!(rig.host.left(), ["a", "c"], "after {moment} ms");
            assert_eq!(rig.tree.status().vm("b").and_then(|vm| vm.cid), None, "after {moment} ms");
            rig.pass(ms(60_000)).await;
            assert_eq!(rig.host.launches("b").len(), 2, "after {moment} ms");
            rig.end().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn launches_that_wait_for_their_turn_are_called_off_by_a_stop() {
    // semantics 7.7: a restart in flight is cancelled. A launch that was not begun need not be undone.
    let host = Host::new();
    let names: Vec<String> = (0..20).map(|n| format!("vm-{n}")).collect();
    for name in &names {
        host.always(name, Plan::slow_launch(1000));
    }
    let groups = names.iter().map(|name| group(name, Strategy::OneForOne, [vm(name)]));
    let rig = Rig::on(host, TreeSpec { max_parallel_launches: 2, ..tree(groups) }).await;
    rig.pass(ms(500)).await;
    let (end, took) = rig.stop().await;
    assert_eq!(end, TreeEnd::Stopped);
    assert!(took < ms(1000), "{took:?}");
    assert_eq!(rig.host.launched().len(), 2);
    assert_eq!(rig.host.left(), Vec::<String>::new());
}

/// A tree with a VM that is probed each second, and that is only reported as unhealthy.
fn probed() -> TreeSpec {
    let mut a = vm("a");
    (a.health.interval, a.health.timeout, a.health.retries) = (ms(1000), ms(500), 3);
    a.health.on_unhealthy = OnUnhealthy::Report;
    tree([group("web", Strategy::OneForOne, [a])])
}

#[tokio::test(start_paused = true)]
async fn probe_counters_start_at_zero_in_each_incarnation() {
    // semantics 12.10: two failures in a row in each of two incarnations are not three in a row.
    let host = Host::new();
    host.always("a", Plan { answers: false, ..Plan::default() });
    let mut rig = Rig::on(host, probed()).await;
    for incarnation in 1..=3 {
        rig.until("a", "ready").await;
        rig.pass(ms(2900)).await;
        assert_eq!(rig.phase("a"), "ready");
        let probes = rig.host.asked("a", "ping");
        assert_eq!(probes.iter().filter(|asked| asked.incarnation == incarnation).count(), 2);
        rig.host.end("a", Fate::Crash);
        rig.change("a", "backoff").await;
    }
    let unhealthy = rig.change("a", "unhealthy").await;
    assert_eq!(unhealthy.incarnation.0, 4, "unhealthy after three failures in a row");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn no_vm_is_probed_while_it_is_paused_or_stopping() {
    // semantics 12.10.
    let mut rig = Rig::ready(probed()).await;
    rig.pass(ms(3500)).await;
    let probes = |rig: &Rig| rig.host.asked("a", "ping").len();
    assert_eq!(probes(&rig), 3);
    rig.tree.pause("a").await.expect("paused");
    rig.host.becomes("a", |plan| plan.answers = false);
    rig.pass(ms(60_000)).await;
    assert_eq!((probes(&rig), rig.phase("a")), (3, "paused"));
    rig.tree.resume("a").await.expect("resumed");
    rig.host.becomes("a", |plan| plan.answers = true);
    rig.until("a", "ready").await;
    rig.pass(ms(2500)).await;
    assert_eq!(probes(&rig), 5, "the probes go on after the pause");
    rig.host.becomes("a", |plan| plan.stop = Some(ms(20_000)));
    rig.tree.command("a", Command::Stop).await.expect("accepted");
    rig.change("a", "stopped").await;
    assert_eq!(probes(&rig), 5);
    assert!(rig.host.calls().iter().any(|call| call.what == What::Stop));
    rig.end().await;
}

#[tokio::test]
async fn whoever_hears_that_a_vm_is_idle_can_connect_at_once() {
    // semantics 20.1. All actors have one thread: nothing happens between the news and the connections.
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_owned();
    let socket = move |name: &str| path.join(format!("{name}.sock"));
    let names: Vec<String> = (0..20).map(|number| format!("vm{number}")).collect();
    let asleep = names.iter().map(|name| {
        let mut vm = vm(name);
        vm.publish = vec![format!("unix:{}:80", socket(name).display()).parse().expect("a port")];
        vm.start.on = StartOn::Connection;
        vm
    });
    let mut rig = Rig::ready(tree([group("web", Strategy::OneForOne, [vm("awake")])])).await;
    let mut events = rig.tree.events();
    let (of, count) = (socket.clone(), names.len());
    let client = tokio::spawn(async move {
        for _ in 0..count {
            let vm = loop {
                let Some(Received::Event(event)) = events.next().await else { panic!("no event") };
                match event.kind {
                    EventKind::Vm(change) if change.to.word() == "idle" => break change.vm,
                    _ => {}
                }
            };
            // A client wakes its VM.
            UnixStream::connect(of(vm.as_str())).unwrap_or_else(|e| panic!("{vm} refuses: {e}"));
        }
    });
    let with_sleepers = [vm("awake")].into_iter().chain(asleep);
    let reloaded = tree([group("web", Strategy::OneForOne, with_sleepers)]);
    rig.tree.reload(reloaded, false).await.expect("accepted");
    client.await.expect("all have served");
    let connect = |name: &str| UnixStream::connect(socket(name));
    for name in &names {
        rig.until(name, "ready").await;
        rig.tree.command(name, Command::Stop).await.expect("accepted");
        rig.until(name, "stopped").await;
        connect(name).expect_err("a VM that is stopped is not asleep");
    }
    rig.end().await;
}
