//! Changes of the tree while it runs.

use crate::support::{Fate, Host, Plan, Rig, What, group, tree, vm};
use pepita_supervisor::group::{AskError, Command, Refused};
use pepita_supervisor::spec::{GroupName, Signal, Strategy, TreeSpec};
use pepita_supervisor::tree::ChangeError;
use pepita_wire::Ask;
use std::time::Duration;

fn spec() -> TreeSpec {
    tree([group("web", Strategy::OneForOne, [vm("a"), vm("b")])])
}

#[tokio::test(start_paused = true)]
async fn groups_and_vms_come_and_go() {
    let mut rig = Rig::ready(spec()).await;
    rig.tree.add_vm("web", vm("c")).await.expect("added");
    rig.until("c", "ready").await;
    let mut jobs = group("jobs", Strategy::OneForOne, [vm("x")]);
    jobs.after = vec![GroupName::new("web").expect("good")];
    rig.tree.add_group(jobs).await.expect("added");
    rig.until("x", "ready").await;
    assert_eq!(rig.tree.add_vm("jobs", vm("a")).await, Err(Refused::Taken("a".into()).into()));
    let error = rig.tree.remove_group("web").await.expect_err("jobs come after it");
    assert!(matches!(error, ChangeError::Spec(_)), "{error}");
    rig.tree.remove_vm("a").await.expect("removed");
    rig.tree.remove_group("jobs").await.expect("removed");
    rig.pass(Duration::from_secs(1)).await;
    assert_eq!(rig.phases(), [("b".into(), "ready"), ("c".into(), "ready")]);
    assert_eq!(rig.host.left(), ["b", "c"], "nothing of them is left");
    assert_eq!(rig.tree.remove_vm("a").await, Err(Refused::NoSuchVm("a".into()).into()));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_reload_is_refused_as_a_whole() {
    // semantics 11.
    let rig = Rig::ready(spec()).await;
    let mut new = spec();
    new.groups[0].vms[0].machine.memory_mb = 512;
    new.name = "other".into();
    let error = rig.tree.reload(new, true).await.expect_err("refused");
    assert_eq!(error.to_string(), "supervisor: name cannot change while it runs; restart it");
    let mut new = spec();
    let moved = new.groups[0].vms.remove(0);
    new.groups.push(group("other", Strategy::OneForOne, [moved]));
    let error = rig.tree.reload(new, true).await.expect_err("refused");
    assert!(matches!(error, ChangeError::Moved { .. }), "{error}");
    rig.pass(Duration::from_secs(60)).await;
    assert_eq!(rig.host.launched(), ["a", "b"]);
    assert_eq!(rig.tree.spec().await, Some(spec()));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_reload_marks_what_only_a_start_can_change_or_restarts_it_once() {
    let mut rig = Rig::ready(spec()).await;
    let mut new = spec();
    new.groups[0].vms[0].machine.memory_mb = 512;
    new.groups[0].vms[1].restart.max_retries = 7;
    let plan = rig.tree.reload(new.clone(), false).await.expect("applied");
    assert_eq!(plan.needs_restart().map(ToString::to_string).collect::<Vec<_>>(), ["a"]);
    rig.pass(Duration::from_secs(60)).await;
    let marked = |rig: &Rig, vm| rig.tree.status().vm(vm).expect("there").needs_restart;
    assert_eq!((marked(&rig, "a"), marked(&rig, "b")), (true, false));
    assert_eq!(rig.host.launched(), ["a", "b"]);
    // The plan of the same configuration has no change, and names the VM that is restarted.
    for plan in [rig.tree.plan(new.clone()).await, rig.tree.reload(new.clone(), true).await] {
        let plan = plan.expect("applied");
        assert_eq!((plan.is_empty(), plan.outdated().as_deref()), (true, Some("a")));
    }
    // The VM is on its way to the new configuration, whatever is asked for meanwhile.
    assert_eq!(rig.tree.reload(new.clone(), true).await.expect("applied").outdated(), None);
    rig.change("a", "ready").await;
    assert_eq!(rig.tree.plan(new).await.expect("planned").outdated(), None);
    rig.pass(Duration::from_secs(60)).await;
    assert_eq!(rig.host.launched(), ["a", "b", "a"]);
    assert!(!marked(&rig, "a"));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn commands_reach_a_vm_that_runs_and_are_refused_by_one_that_does_not() {
    let mut rig = Rig::ready(spec()).await;
    rig.tree.signal("a", Signal::HUP).await.expect("sent");
    assert!(rig.tree.ask("a", Ask::Status).await.expect("an answer")["started"].as_bool().expect("told"));
    rig.tree.pause("a").await.expect("paused");
    rig.until("a", "paused").await;
    rig.tree.resume("a").await.expect("resumed");
    rig.until("a", "ready").await;
    rig.tree.command("a", Command::Stop).await.expect("accepted");
    rig.until("a", "stopped").await;
    let refused = Refused::NotRunning { vm: "a".into(), phase: "stopped" };
    assert_eq!(rig.tree.signal("a", Signal::HUP).await, Err(refused.clone()));
    assert_eq!(rig.tree.ask("a", Ask::Ping).await, Err(AskError::Refused(refused)));
    assert_eq!(rig.tree.pause("?").await, Err(Refused::NoSuchVm("?".into())));
    let tree = rig.tree.clone();
    rig.end().await;
    assert_eq!(tree.command("a", Command::Start).await, Err(Refused::Stopping));
    assert_eq!(tree.spec().await, None);
}

/// Returns the signals that the monitor of `a` was asked to send.
fn signals(rig: &Rig) -> Vec<i32> {
    let number = |what| if let What::Signal(number) = what { Some(number) } else { None };
    rig.host.calls().into_iter().filter_map(|call| number(call.what)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_signal_that_asks_for_the_end_of_a_vm_on_its_way_up_is_a_stop() {
    // semantics 7.15.
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let host = Host::new();
        host.always("a", Plan { launch: Some(Duration::from_secs(5)), ..Plan::default() });
        let mut rig = Rig::on(host, spec()).await;
        rig.change("a", "starting").await;
        rig.tree.signal("a", signal).await.expect("accepted");
        rig.change("a", "stopped").await;
        rig.pass(Duration::from_secs(60)).await;
        assert_eq!((rig.phase("a"), signals(&rig).len()), ("stopped", 0), "{signal}");
        rig.end().await;
    }
    let host = Host::new();
    host.always("a", Plan::exits(3, 100));
    let mut rig = Rig::on(host, spec()).await;
    rig.change("a", "backoff").await;
    rig.tree.signal("a", Signal::TERM).await.expect("accepted");
    rig.change("a", "stopped").await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn another_signal_for_a_vm_that_is_launched_reaches_its_monitor_as_soon_as_there_is_one() {
    // semantics 7.15.
    let host = Host::new();
    host.always("a", Plan { launch: Some(Duration::from_secs(5)), ..Plan::default() });
    let mut rig = Rig::on(host, spec()).await;
    rig.change("a", "starting").await;
    let tree = rig.tree.clone();
    let sent = tokio::spawn(async move { tree.signal("a", Signal::HUP).await });
    rig.pass(Duration::from_secs(4)).await;
    assert_eq!(signals(&rig), Vec::<i32>::new());
    rig.change("a", "ready").await;
    sent.await.expect("no panic").expect("sent");
    assert_eq!(signals(&rig), [Signal::HUP.number()]);
    // A VM that never comes up costs the sender no wait without end.
    rig.host.always("a", Plan { launch: Some(Duration::from_secs(5)), ..Plan::default() });
    rig.tree.command("a", Command::Restart).await.expect("accepted");
    rig.change("a", "starting").await;
    let tree = rig.tree.clone();
    let lost = tokio::spawn(async move { tree.signal("a", Signal::HUP).await });
    rig.pass(Duration::from_millis(100)).await;
    rig.tree.command("a", Command::Stop).await.expect("accepted");
    rig.change("a", "stopped").await;
    assert!(matches!(lost.await.expect("no panic"), Err(Refused::Failed(_))));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_command_in_backoff_counts_now_and_a_stop_there_is_final() {
    // semantics 5.12, 12.3: stop during backoff: no start after the old deadline.
    let host = Host::new();
    host.plan("a", [Plan::exits(3, 100), Plan::exits(3, 100)]);
    let mut rig = Rig::on(host, spec()).await;
    rig.change("a", "backoff").await;
    rig.tree.command("a", Command::Start).await.expect("accepted");
    assert_eq!(rig.tree.status().vm("a").expect("there").attempts, 0);
    rig.change("a", "backoff").await;
    rig.tree.command("a", Command::Stop).await.expect("accepted");
    rig.pass(Duration::from_secs(600)).await;
    assert_eq!(rig.phase("a"), "stopped");
    assert_eq!(rig.host.launches("a").len(), 2);
    rig.tree.command("a", Command::Start).await.expect("accepted");
    rig.until("a", "ready").await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_removed_in_backoff_does_not_come_back() {
    // semantics 12.3: remove, reload during backoff.
    for reload in [false, true] {
        let mut rig = Rig::ready(spec()).await;
        rig.host.end("a", Fate::Exit(3));
        rig.change("a", "backoff").await;
        if reload {
            let mut new = spec();
            new.groups[0].vms.remove(0);
            rig.tree.reload(new, false).await.expect("applied");
        } else {
            rig.tree.remove_vm("a").await.expect("removed");
        }
        rig.pass(Duration::from_secs(600)).await;
        assert_eq!(rig.phases(), [("b".into(), "ready")]);
        assert_eq!(rig.host.launches("a").len(), 1);
        rig.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_moves_to_another_group_does_not_show_the_cid_that_it_gave_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut spec =
        tree([group("web", Strategy::OneForOne, [vm("a")]), group("jobs", Strategy::OneForOne, [vm("x")])]);
    spec.state_dir = Some(dir.path().to_owned());
    let host = Rig::ready(spec.clone()).await.leave().await;
    let mut rig = Rig::on(host, spec).await;
    rig.until("a", "ready").await;
    assert!(rig.tree.status().vm("a").is_some_and(|a| a.cid.is_some()));
    rig.tree.remove_vm("a").await.expect("removed");
    rig.pass(Duration::from_secs(1)).await;
    let mut a = vm("a");
    a.autostart = false;
    rig.tree.add_vm("jobs", a).await.expect("added");
    rig.pass(Duration::from_secs(1)).await;
    let status = rig.tree.status();
    let a = status.vm("a").expect("the VM exists");
    assert_eq!((a.phase.word(), a.cid), ("stopped", None));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_numbers_of_a_vm_that_comes_back_go_on_in_any_group_and_after_a_run_without_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let with = |groups: &[(&str, &[&str])]| {
        let group = |name, vms: &[&str]| group(name, Strategy::OneForOne, vms.iter().map(|name| vm(name)));
        let mut spec = tree(groups.iter().map(|(name, vms)| group(name, vms)));
        spec.state_dir = Some(dir.path().to_owned());
        spec
    };
    let incarnation = |rig: &Rig| rig.tree.status().vm("a").expect("there").incarnation.0;
    let without: &[(&str, &[&str])] = &[("web", &["b"]), ("jobs", &["x"])];
    let mut rig = Rig::ready(with(&[("web", &["a", "b"]), ("jobs", &["x"])])).await;
    assert_eq!(incarnation(&rig), 1);
    let places: [&[(&str, &[&str])]; 3] = [
        &[("web", &["b"]), ("jobs", &["x", "a"])],
        &[("web", &["b", "a"]), ("jobs", &["x"])],
        &[("web", &["b"]), ("jobs", &["x"]), ("new", &["a"])],
    ];
    for (number, place) in (2..).zip(places) {
        rig.tree.reload(with(without), false).await.expect("removed");
        rig.pass(Duration::from_secs(1)).await;
        rig.tree.reload(with(place), false).await.expect("added");
        rig.until("a", "ready").await;
        assert_eq!(incarnation(&rig), number);
    }
    // The next run does not have the VM, and has not removed it yet when it gets it back.
    let host = rig.leave().await;
    host.always("a", Plan { destroy: Duration::from_secs(60), ..Plan::default() });
    let mut rig = Rig::on(host, with(without)).await;
    rig.until("b", "ready").await;
    rig.tree.reload(with(places[0]), false).await.expect("added");
    rig.until("a", "ready").await;
    assert_eq!(incarnation(&rig), 5);
    rig.end().await;
}
