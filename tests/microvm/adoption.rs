//! The supervisor ends, the VMs go on, and the next supervisor finds them.

use crate::host::{Host, PATIENCE};
use pepita_supervisor::policy::Exit;
use pepita_supervisor::tree::TreeEnd;

fn groups(vms: &[&str]) -> String {
    let vms = vms.iter().map(|name| format!("[[group.vm]]\nname = \"{name}\"\nrestart.policy = \"never\"\n"));
    format!("[[group]]\nname = \"web\"\n{}", vms.collect::<String>())
}

#[tokio::test(flavor = "multi_thread")]
async fn vms_outlive_their_supervisor_and_are_taken_over_without_a_reboot() {
    let host = Host::new();
    let all = groups(&["a", "b", "c"]);
    let (tree, _events) = host.start(&all).await;
    tree.wait_ready(PATIENCE).await.expect("ready");
    let before: Vec<_> = ["a", "b", "c"].map(|vm| host.status(vm).vmm_pid).into();
    assert_eq!(tree.leave().await, TreeEnd::Left);
    // A VM ends while no supervisor watches.
    host.kill_vmm("c");
    host.pepita(&["wait", "--name", "duende-vm-c"]);

    let (tree, mut events) = host.start(&all).await;
    events.phase("a", "ready").await;
    let ended = events.seen.iter().find(|event| event.to_string().starts_with("c #1")).cloned();
    let ended = match ended {
        Some(event) => event,
        None => events.until("the end of c", |event| event.to_string().starts_with("c #1")).await,
    };
    let pepita_supervisor::observe::EventKind::Vm(change) = ended.kind else { panic!("a change") };
    assert!(matches!(change.exit(), Some(Exit::VmmCrashed(_))), "its true reason is told: {change:?}");
    let status = tree.status();
    assert_eq!(status.vm("a").map(|vm| vm.incarnation.0), Some(1));
    assert_eq!(["a", "b"].map(|vm| host.status(vm).vmm_pid)[..], before[..2], "they were not rebooted");
    tree.stop().await;
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_no_longer_configured_is_destroyed_and_a_foreign_one_is_not_touched() {
    let host = Host::new();
    let (tree, _events) = host.start(&groups(&["a", "b"])).await;
    tree.wait_ready(PATIENCE).await.expect("ready");
    tree.leave().await;
    let foreign = host.pepita(&[
        "run",
        "--vmm",
        "process",
        "--name",
        "duende-vm-foreign",
        "--daemon",
        "--",
        "sleep",
        "600",
    ]);
    assert!(foreign.status.success());

    let (tree, _events) = host.start(&groups(&["a"])).await;
    tree.wait_ready(PATIENCE).await.expect("ready");
    let names = host.pepita(&["list", "--format", "name"]);
    assert_eq!(String::from_utf8_lossy(&names.stdout), "duende-vm-a\nduende-vm-foreign\n");
    tree.stop().await;
    host.pepita(&["destroy", "--force", "--name", "duende-vm-foreign"]);
    host.assert_nothing_left();
}
