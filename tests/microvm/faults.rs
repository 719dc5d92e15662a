//! Faults that only a supervisor can judge: a VM that stands still, and kills at random.

use crate::host::{Host, PATIENCE, signal};
use nix::sys::signal::Signal;
use pepita_supervisor::observe::VmPhase;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_stands_still_is_unhealthy_and_healthy_again_when_it_goes_on() {
    let host = Host::new();
    let groups = "[[group]]\nname = \"web\"\n[[group.vm]]\nname = \"api\"\n\
        health.interval = \"500ms\"\nhealth.timeout = \"500ms\"\nhealth.retries = 2\nhealth.on_unhealthy = \"report\"\n";
    let (tree, mut events) = host.start(groups).await;
    tree.wait_ready(PATIENCE).await.expect("ready");
    events.phase("api", "ready").await;
    let vmm = host.status("api").vmm_pid.expect("it runs");
    signal(vmm, Signal::SIGSTOP);
    let unhealthy = events.phase("api", "unhealthy").await;
    assert_eq!(unhealthy.incarnation.0, 1);
    signal(vmm, Signal::SIGCONT);
    let healthy = events.phase("api", "ready").await;
    assert_eq!((healthy.from, healthy.incarnation.0), (VmPhase::Unhealthy, 1), "it was not restarted");
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
    signal(host.status("api").vmm_pid.expect("it runs"), Signal::SIGSTOP);
    events.phase("api", "backoff").await;
    let ready = events.phase("api", "ready").await;
    assert_eq!(ready.incarnation.0, 2);
    tree.stop().await;
    host.assert_nothing_left();
}

/// Kills VMMs, monitors and back-ends at random, every 200 to 800 ms: incarnations only grow, there are never two VMMs of
/// one name, and all are Ready again after the last kill. Seconds: `PEPITA_CHAOS_SECONDS` (default 45).
#[tokio::test(flavor = "multi_thread")]
async fn random_kills_are_survived() {
    let seconds = std::env::var("PEPITA_CHAOS_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(45);
    let host = Host::new();
    let vms = ["a", "b", "c", "d"];
    let rows: String = vms.iter().map(|vm| format!("[[group.vm]]\nname = \"{vm}\"\n")).collect();
    let groups = format!("[[group]]\nname = \"web\"\nintensity = 100000\n{rows}");
    let (tree, mut events) = host.start(&groups).await;
    tree.wait_ready(PATIENCE).await.expect("ready");
    let mut random = fastrand::Rng::with_seed(7);
    let (end, mut kills) = (Instant::now() + Duration::from_secs(seconds), 0);
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(random.u64(200..800))).await;
        let vm = vms[random.usize(..vms.len())];
        let output = host.pepita(&["status", "--name", &format!("duende-vm-{vm}")]);
        let Ok(status) = serde_json::from_slice::<pepita_wire::StatusRecord>(&output.stdout) else {
            continue;
        };
        let backend = std::fs::read(format!("{}/state.json", status.dir)).ok().and_then(|bytes| {
            let state: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
            u32::try_from(state.get("backend")?.get("pid")?.as_u64()?).ok()
        });
        let victim = match random.u8(..3) {
            0 => status.vmm_pid,
            1 => status.monitor_pid,
            _ => backend,
        };
        if let Some(pid) = victim.and_then(|pid| i32::try_from(pid).ok()) {
            // It may have ended by itself meanwhile.
            kills +=
                usize::from(nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).is_ok());
        }
    }
    tree_is_ready(&tree).await;
    println!("{kills} kills in {seconds} s");
    events
        .until("the last word", {
            let last = tree.status().vms().map(|vm| vm.incarnation.0).max();
            move |event| last.is_some_and(|last| event.to_string().contains(&format!("#{last}")))
        })
        .await;
    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    for event in &events.seen {
        if let pepita_supervisor::observe::EventKind::Vm(change) = &event.kind {
            let known = newest.entry(change.vm.to_string()).or_default();
            assert!(change.incarnation.0 >= *known, "{}", events.story());
            *known = change.incarnation.0;
        }
    }
    let mut vmms = Vec::new();
    for vm in vms {
        vmms.push(host.status(vm).vmm_pid.expect("it runs"));
    }
    let qemus = host.processes().iter().filter(|stat| stat.contains("(qemu")).count();
    assert_eq!(qemus, vms.len(), "one VMM a name: {vmms:?}");
    tree.stop().await;
    host.assert_nothing_left();
}

async fn tree_is_ready(tree: &pepita_supervisor::tree::Tree) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = tree.status();
        if status.vms().all(|vm| vm.phase == VmPhase::Ready) {
            return;
        }
        assert!(Instant::now() < deadline, "not all ready: {status:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
