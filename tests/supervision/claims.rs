//! Two of everything: supervisors of the same name, and VMs that have the name of a supervisor and are not its own.

use crate::support::{Host, Rig, group, running, tree, vm};
use pepita_supervisor::ClaimError;
use pepita_supervisor::group::Command;
use pepita_supervisor::observe::EventKind;
use pepita_supervisor::spec::{Incarnation, Orphans, Strategy, TreeSpec};
use pepita_supervisor::tree::{Parts, StartError, Tree};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn named(name: &str) -> TreeSpec {
    TreeSpec { name: name.to_owned(), ..tree([group("web", Strategy::OneForOne, [vm("a")])]) }
}

async fn start(host: &Host, run_dir: &Path, spec: TreeSpec) -> Result<Tree, StartError> {
    let (pepita, sockets) = (Arc::new(host.clone()), Arc::new(host.clone()));
    Tree::start_with(spec, Parts { pepita, sockets, run_dir: Some(run_dir.to_owned()) }).await
}

// semantics 9.13
#[tokio::test]
async fn two_trees_of_one_name_do_not_work_in_one_directory_at_the_same_time() {
    let (host, dir) = (Host::new(), tempfile::tempdir().expect("a directory"));
    let first = start(&host, dir.path(), named("edge")).await.expect("the first one");
    first.wait_ready(Duration::from_secs(60)).await.expect("ready");
    let second = start(&host, dir.path(), named("edge")).await;
    let Err(StartError::Claim(ClaimError::Taken { pid, .. })) = &second else { panic!("{second:?}") };
    assert_eq!(*pid, Some(std::process::id()));
    assert_eq!((host.incarnation("a"), host.launched().len()), (Some(1), 1), "nothing was touched");
    let elsewhere = tempfile::tempdir().expect("a directory");
    let other = start(&Host::new(), elsewhere.path(), named("edge")).await.expect("another directory");
    other.stop().await;
    first.stop().await;
    // The handle of the first tree still exists; its end is what counts.
    start(&host, dir.path(), named("edge")).await.expect("the name is free again").stop().await;
    drop(first);
}

// semantics 9.13
#[tokio::test]
async fn nothing_is_launched_once_another_supervisor_has_the_name() {
    let (host, dir) = (Host::new(), tempfile::tempdir().expect("a directory"));
    let mut spec = named("edge");
    spec.groups[0].vms[0].autostart = false;
    let first = start(&host, dir.path(), spec.clone()).await.expect("the first one");
    std::fs::remove_dir_all(dir.path()).expect("a program tidies up");
    let second = start(&host, dir.path(), spec).await.expect("it cannot see the first one");
    let mut events = first.events();
    first.command("a", Command::Start).await.expect("accepted");
    let told = async {
        loop {
            let event = events.next().await.expect("the tree lives");
            if format!("{event:?}").contains("another supervisor of that name") {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), told).await.expect("told");
    assert_eq!(host.launched(), [] as [&str; 0]);
    first.stop().await;
    second.stop().await;
}

// semantics 9.6
#[tokio::test(start_paused = true)]
async fn a_vm_with_our_name_that_no_state_of_ours_knows_is_left_as_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    for orphans in [Orphans::Adopt, Orphans::Destroy] {
        for state_dir in [None, Some(dir.path().to_owned())] {
            let host = Host::new();
            host.has(running("z", "test", Incarnation(9), 98));
            let spec = TreeSpec { orphans, state_dir, ..named("test") };
            let mut rig = Rig::on(host.clone(), spec).await;
            let is_it = |kind: &EventKind| matches!(kind, EventKind::Notice { vm: Some(vm), .. } if vm.as_str() == "z");
            rig.event(|event| is_it(&event.kind)).await;
            rig.until("a", "ready").await;
            assert_eq!(rig.stop().await.0, pepita_supervisor::tree::TreeEnd::Stopped);
            assert_eq!(host.alive(), ["z"], "not at the end of the tree either");
            drop(rig.leave().await);
        }
    }
}

// semantics 9.6: the mark of a supervisor is a name, and proves nothing.
#[tokio::test(start_paused = true)]
async fn a_launch_makes_no_vm_give_way_that_is_not_known_to_be_ours() {
    let host = Host::new();
    let mut spec = named("test");
    spec.groups[0].vms[0].autostart = false;
    let mut rig = Rig::on(host.clone(), spec).await;
    host.has(running("a", "test", Incarnation(0), 99));
    rig.tree.command("a", Command::Start).await.expect("accepted");
    rig.change("a", "backoff").await;
    rig.change("a", "backoff").await;
    assert_eq!(host.incarnation("a"), Some(0));
    rig.tree.stop().await;
    assert_eq!(host.alive(), ["a"]);
    // The refusal of the name by the launcher was the point of the test.
    host.forgive();
    drop(rig.leave().await);
}
