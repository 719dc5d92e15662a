//! A supervisor that is killed takes nothing with it, and the next one goes on where it was.

use crate::host::{Host, group, stdout};
use nix::sys::signal::Signal;
use std::time::Instant;

#[test]
fn a_killed_supervisor_leaves_its_vms_and_the_next_one_takes_over_all_of_them() {
    let vms = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let host = Host::new("", &group(&vms));
    let mut daemon = host.ready();
    let pids = vms.map(|vm| host.vmm_pid(vm));
    daemon.kill();
    let before = Instant::now();
    let mut daemon = host.ready();
    println!("{} VMs ready again {:?} after the new supervisor was started", vms.len(), before.elapsed());
    assert_eq!(vms.map(|vm| host.vmm_pid(vm)), pids, "none was started again");
    let status: serde_json::Value = serde_json::from_str(&host.told(&["status", "--json"])).expect("JSON");
    let shown = status["groups"][0]["vms"].as_array().expect("VMs").clone();
    assert_eq!(shown.iter().map(|vm| vm["incarnation"].as_u64()).collect::<Vec<_>>(), [Some(1); 8]);
    // And they are really supervised.
    let victim = host.vmm_pid("c");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(victim.cast_signed()), Signal::SIGKILL)
        .expect("it runs");
    daemon.until("c #2: running -> ready");
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn what_the_operator_stopped_stays_down_over_a_crash() {
    let host = Host::new("", &group(&["a", "b"]));
    let mut daemon = host.ready();
    host.told(&["stop", "a"]);
    daemon.until("a #1: stopping -> stopped");
    daemon.kill();
    let mut daemon = host.ready();
    assert!(host.told(&["status"]).lines().any(|line| line.contains(" a ") && line.contains("stopped")));
    daemon.stop();
    assert_eq!(stdout(&host.pepita(&["list", "--format", "name"])), "");
    host.assert_nothing_left();
}
