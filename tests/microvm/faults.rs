//! Faults that only a supervisor can detect: a VM whose virtual CPUs have stopped.

use crate::host::{Host, PATIENCE, signal};
use nix::sys::signal::Signal;
use pepita_supervisor::observe::VmPhase;

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_stands_still_is_unhealthy_and_healthy_again_when_it_goes_on() {
    let host = Host::new();
    let groups = "[[group]]\nname = \"web\"\n[[group.vm]]\nname = \"api\"\n\
        health.interval = \"500ms\"\nhealth.timeout = \"500ms\"\nhealth.retries = 2\nhealth.on_unhealthy = \"report\"\n";
    let (tree, mut events) = host.start(groups).await;
    tree.wait_ready(PATIENCE).await.expect("ready");
    events.phase("api", "ready").await;
    let vmm = host.status("api").vmm_pid.expect("the VM runs");
    signal(vmm, Signal::SIGSTOP);
    let unhealthy = events.phase("api", "unhealthy").await;
    assert_eq!(unhealthy.incarnation.0, 1);
    signal(vmm, Signal::SIGCONT);
    let healthy = events.phase("api", "ready").await;
    assert_eq!((healthy.from, healthy.incarnation.0), (VmPhase::Unhealthy, 1), "the VM was not restarted");
    assert_eq!(host.status("api").vmm_pid, Some(vmm));
    tree.stop().await;
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_stands_still_is_restarted_when_its_policy_says_so() {
    let host = Host::new();
    let groups = "[[group]]\nname = \"web\"\n[[group.vm]]\nname = \"api\"\n\
        health.interval = \"500ms\"\nhealth.timeout = \"500ms\"\nhealth.retries = 2\n";
    let (tree, mut events) = host.start(groups).await;
    tree.wait_ready(PATIENCE).await.expect("ready");
    events.phase("api", "ready").await;
    signal(host.status("api").vmm_pid.expect("the VM runs"), Signal::SIGSTOP);
    events.phase("api", "backoff").await;
    let ready = events.phase("api", "ready").await;
    assert_eq!(ready.incarnation.0, 2);
    tree.stop().await;
    host.assert_nothing_left();
}
