//! A supervisor that is killed takes nothing with it, and the next one goes on where it was.

use crate::host::{Host, group, stdout};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::time::Instant;

const VMS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// Kills the supervisor of eight VMs, one of them after it, and starts it again.
fn all_are_taken_over(host: &Host) {
    let mut daemon = host.ready();
    let pids = VMS.map(|vm| host.vmm_pid(vm));
    daemon.kill();
    let before = Instant::now();
    let mut daemon = host.ready();
    println!("{} VMs ready again {:?} after the new supervisor was started", VMS.len(), before.elapsed());
    assert_eq!(VMS.map(|vm| host.vmm_pid(vm)), pids, "none was started again");
    let status: serde_json::Value = serde_json::from_str(&host.told(&["status", "--json"])).expect("JSON");
    let shown = status["groups"][0]["vms"].as_array().expect("VMs").clone();
    assert_eq!(shown.iter().map(|vm| vm["incarnation"].as_u64()).collect::<Vec<_>>(), [Some(1); 8]);

    // One ends while nobody looks: told once, with its true reason.
    daemon.kill();
    let victim = Pid::from_raw(host.vmm_pid("c").cast_signed());
    nix::sys::signal::kill(victim, Signal::SIGKILL).expect("it runs");
    assert!(host.pepita(&["wait", "--name", "duende-vm-c"]).status.success(), "its monitor has written why");
    let mut daemon = host.start();
    daemon.until("c #2: running -> ready");
    let ends =
        |line: &&String| line.contains(" c #1: ") && line.contains("vmm-crash (the VMM died of SIGKILL)");
    assert_eq!(daemon.seen.iter().filter(ends).count(), 1, "{}", daemon.story());
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn a_killed_supervisor_leaves_its_vms_and_the_next_one_takes_over_all_of_them() {
    all_are_taken_over(&Host::new("", &group(&VMS)));
}

#[test]
fn a_killed_supervisor_leaves_its_microvms_and_the_next_one_takes_over_all_of_them() {
    let vms: String = VMS.iter().map(|vm| format!("[[group.vm]]\nname = \"{vm}\"\n")).collect();
    all_are_taken_over(&Host::with_microvms(&format!("[[group]]\nname = \"web\"\n{vms}")));
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
