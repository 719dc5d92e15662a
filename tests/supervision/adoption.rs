//! A restart of the supervisor itself.

use crate::support::{Fate, Host, Rig, What, group, running, tree, vm};
use pepita_supervisor::group::Command;
use pepita_supervisor::observe::EventKind;
use pepita_supervisor::policy::Exit;
use pepita_supervisor::spec::{Incarnation, OnExit, Orphans, Strategy, TreeSpec};
use pepita_supervisor::tree::StartError;
use pepita_wire::record::CallErrorKind;
use std::path::Path;
use std::time::Duration;

fn spec(dir: &Path) -> TreeSpec {
    let groups = [group("web", Strategy::RestForOne, [vm("a"), vm("b"), vm("c")])];
    TreeSpec { state_dir: Some(dir.to_owned()), on_exit: OnExit::Leave, ..tree(groups) }
}

#[tokio::test(start_paused = true)]
async fn what_runs_is_adopted_without_a_reboot() {
    // semantics 9.
    let dir = tempfile::tempdir().expect("a directory");
    let host = Rig::ready(spec(dir.path())).await.leave().await;
    let cids = ["a", "b", "c"].map(|vm| host.cid(vm));
    let rig = Rig::on(host, spec(dir.path())).await;
    rig.tree.wait_ready(Duration::from_secs(10)).await.expect("ready");
    assert_eq!(rig.host.launched().len(), 3, "only those of the first run");
    assert_eq!(["a", "b", "c"].map(|vm| rig.host.cid(vm)), cids);
    assert_eq!(rig.tree.status().vm("a").and_then(|vm| vm.cid), cids[0]);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_list_says_of_a_vm_with_a_monitor_is_not_asked_again() {
    // semantics 9.4.
    let dir = tempfile::tempdir().expect("a directory");
    let host = Rig::ready(spec(dir.path())).await.leave().await;
    host.kill_monitor("b");
    let before = host.questions();
    let rig = Rig::on(host, spec(dir.path())).await;
    rig.tree.wait_ready(Duration::from_secs(10)).await.expect("ready");
    assert_eq!(rig.host.questions() - before, 1, "b alone has no monitor");
    // From then on the list says nothing any more.
    let before = rig.host.questions();
    rig.host.kill_monitor("a");
    rig.pass(Duration::from_secs(10)).await;
    assert_eq!(rig.phase("a"), "ready");
    assert!(rig.host.questions() > before);
    assert_eq!(rig.host.launched().len(), 3, "only those of the first run");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_vm_whose_entry_cannot_be_read_runs_on_and_is_adopted() {
    // semantics 9.
    let dir = tempfile::tempdir().expect("a directory");
    let host = Rig::ready(spec(dir.path())).await.leave().await;
    let entry = dir.path().join("vms/b.json");
    std::fs::write(&entry, "{\"vm_id\": \"du").expect("written");
    let before = host.calls().len();
    let mut rig = Rig::on(host, spec(dir.path())).await;
    rig.tree.wait_ready(Duration::from_secs(10)).await.expect("ready");
    assert_eq!(rig.host.launched().len(), 3, "only those of the first run");
    assert!(rig.host.calls()[before..].iter().all(|call| call.what != What::Destroy));
    rig.event(|event| matches!(&event.kind, EventKind::Notice { vm: Some(vm), .. } if vm.as_str() == "b"))
        .await;
    let aside = dir.path().join("vms/b.json.unreadable");
    assert_eq!(std::fs::read_to_string(aside).expect("kept"), "{\"vm_id\": \"du");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_vm_whose_run_directory_cannot_be_read_runs_on_unsupervised() {
    // semantics 13.2.
    let dir = tempfile::tempdir().expect("a directory");
    let host = Rig::ready(spec(dir.path())).await.leave().await;
    host.kill_monitor("c");
    host.refuse_adoption("c", CallErrorKind::Unreadable);
    let before = host.calls().len();
    let mut rig = Rig::on(host, spec(dir.path())).await;
    rig.event(|event| matches!(&event.kind, EventKind::Notice { vm: Some(vm), .. } if vm.as_str() == "c"))
        .await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(rig.host.calls()[before..].iter().all(|call| call.what != What::Destroy));
    assert!(rig.host.alive().contains(&"c".to_owned()));
    rig.leave().await;
}

#[tokio::test(start_paused = true)]
async fn an_incarnation_is_on_the_disk_before_it_is_launched() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(spec(dir.path())).await;
    while rig.host.launches("a").is_empty() {
        tokio::task::yield_now().await;
    }
    let entry = std::fs::read_to_string(dir.path().join("vms/a.json")).expect("there");
    assert!(entry.contains("\"incarnation\": 1"), "{entry}");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_ended_meanwhile_is_reported_once_with_its_true_reason() {
    let dir = tempfile::tempdir().expect("a directory");
    let host = Rig::ready(spec(dir.path())).await.leave().await;
    host.end("b", Fate::Exit(42));
    let mut rig = Rig::on(host, spec(dir.path())).await;
    let change = rig.change("b", "backoff").await;
    assert_eq!(change.exit(), Some(&Exit::code(42)));
    rig.until("b", "ready").await;
    let host = rig.leave().await;
    let mut rig = Rig::on(host, spec(dir.path())).await;
    rig.tree.wait_ready(Duration::from_secs(10)).await.expect("ready");
    assert!(rig.catch_up().await.iter().all(|line| !line.contains("exit 42")), "once");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_operator_had_stopped_and_what_had_completed_stays_down() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut rig = Rig::ready(spec(dir.path())).await;
    rig.tree.command("c", Command::Stop).await.expect("accepted");
    rig.until("c", "stopped").await;
    rig.host.end("b", Fate::Exit(0));
    rig.until("b", "completed").await;
    let host = rig.leave().await;
    let rig = Rig::on(host, spec(dir.path())).await;
    rig.tree.wait_ready(Duration::from_secs(10)).await.expect("ready");
    assert_eq!(
        rig.phases().iter().map(|(_, phase)| *phase).collect::<Vec<_>>(),
        ["ready", "completed", "stopped"]
    );
    assert_eq!(rig.host.launched().len(), 3);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_configuration_is_restarted_and_an_orphan_destroyed() {
    let dir = tempfile::tempdir().expect("a directory");
    let host = Rig::ready(spec(dir.path())).await.leave().await;
    let mut new = spec(dir.path());
    new.groups[0].vms[1].machine.memory_mb = 512;
    new.groups[0].vms.remove(0);
    let rig = Rig::on(host, new).await;
    assert_eq!(rig.host.incarnation("a"), None);
    rig.pass(Duration::from_secs(5)).await;
    assert_eq!(rig.host.launched(), ["a", "b", "c", "b"]);
    assert_eq!((rig.host.incarnation("b"), rig.host.incarnation("c")), (Some(2), Some(1)));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn orphans_are_refused_or_destroyed_if_so_configured() {
    let dir = tempfile::tempdir().expect("a directory");
    let host = Rig::ready(spec(dir.path())).await.leave().await;
    let refuse = TreeSpec { orphans: Orphans::Refuse, ..spec(dir.path()) };
    let Err(StartError::Orphans(vms)) = Rig::try_on(host.clone(), refuse).await else { panic!("refused") };
    assert_eq!(vms.len(), 3);
    let destroy = TreeSpec { orphans: Orphans::Destroy, ..spec(dir.path()) };
    let rig = Rig::on(host, destroy).await;
    rig.tree.wait_ready(Duration::from_secs(10)).await.expect("ready");
    assert_eq!(rig.host.incarnation("a"), Some(2));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn foreign_vms_are_never_touched_not_even_those_with_our_names() {
    let dir = tempfile::tempdir().expect("a directory");
    let host = Host::new();
    host.has(running("a", "somebody", Incarnation(9), 99));
    host.has(running("z", "somebody", Incarnation(9), 98));
    let rig = Rig::on(host.clone(), spec(dir.path())).await;
    rig.pass(Duration::from_secs(60)).await;
    assert_eq!(
        host.incarnation("a"),
        Some(9),
        "a VM of the tree with that name cannot start, and leaves the foreign VM alone"
    );
    rig.tree.stop().await;
    assert_eq!(host.alive(), ["a", "z"]);
    // The refusal of the name by the launcher was the point of the test.
    host.forgive();
    drop(rig.leave().await);
}

#[tokio::test(start_paused = true)]
async fn a_second_supervisor_of_the_same_state_is_refused_until_the_first_has_ended() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::ready(spec(dir.path())).await;
    let second = Rig::try_on(rig.host.clone(), spec(dir.path())).await;
    assert!(matches!(second.err(), Some(StartError::Journal(_))));
    let host = rig.host.clone();
    rig.end().await;
    Rig::on(host, spec(dir.path())).await.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_former_incarnation_that_was_not_taken_down_makes_way() {
    let host = Host::new();
    let mut rig = Rig::on(host.clone(), tree([group("web", Strategy::OneForOne, [vm("a")])])).await;
    rig.until("a", "ready").await;
    rig.tree.command("a", Command::Stop).await.expect("accepted");
    rig.until("a", "stopped").await;
    host.has(running("a", "test", Incarnation(1), 99));
    rig.tree.command("a", Command::Start).await.expect("accepted");
    rig.until("a", "ready").await;
    assert_eq!(host.incarnation("a"), Some(2));
    assert_eq!(rig.tree.status().vm("a").expect("there").attempts, 0, "the end is no failure");
    // The refusal of the name by the launcher was the point of the test.
    host.forgive();
    rig.end().await;
}
