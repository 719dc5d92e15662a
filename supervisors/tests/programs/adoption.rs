//! VMs outlive a supervisor that is killed, and the next supervisor adopts all of them.

use crate::events::vm;
use crate::host::{Host, group, stdout};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;
use std::time::Instant;

const VMS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// Returns the VMs of the only group, as `pepitactl status --json` shows them.
fn shown(host: &Host) -> Vec<Value> {
    let status: Value = serde_json::from_str(&host.ctl_ok(&["status", "--json"])).expect("JSON");
    status["groups"][0]["vms"].as_array().expect("VMs").clone()
}

/// Kills the supervisor of eight VMs and starts it again; repeats that with a VM that is killed in between.
fn check_adoption(host: &Host) {
    let mut daemon = host.ready();
    let pids = VMS.map(|vm| host.vmm_pid(vm));
    daemon.kill();
    let before = Instant::now();
    let mut daemon = host.ready();
    println!("{} VMs ready again {:?} after the new supervisor was started", VMS.len(), before.elapsed());
    assert_eq!(VMS.map(|vm| host.vmm_pid(vm)), pids, "no VM was started again");
    let incarnations: Vec<_> = shown(host).iter().map(|vm| vm["incarnation"].as_u64()).collect();
    assert_eq!(incarnations, [Some(1); 8]);

    // A VM that dies while no supervisor runs is reported once, with its true reason.
    daemon.kill();
    let victim = Pid::from_raw(host.vmm_pid("c").cast_signed());
    nix::sys::signal::kill(victim, Signal::SIGKILL).expect("the VMM runs");
    let waited = host.pepita(&["wait", "--name", "duende-vm-c"]);
    assert!(waited.status.success(), "the monitor has written the exit record");
    let mut daemon = host.start();
    daemon.until_event(vm("c", 2, "ready"));
    let events = daemon.events();
    let is_end = |event: &&Value| {
        event["vm"] == "c" && event["incarnation"] == 1 && event["ending"]["kind"] == "vmm-crashed"
    };
    let ends: Vec<&Value> = events.iter().filter(is_end).collect();
    assert_eq!(ends.len(), 1, "{}", daemon.story());
    assert_eq!(ends[0]["ending"]["signal"], 9, "{}", daemon.story());
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn a_killed_supervisor_leaves_its_vms_and_the_next_one_takes_over_all_of_them() {
    check_adoption(&Host::new("", &group(&VMS)));
}

#[test]
fn a_killed_supervisor_leaves_its_microvms_and_the_next_one_takes_over_all_of_them() {
    let vms: String = VMS.iter().map(|vm| format!("[[group.vm]]\nname = \"{vm}\"\n")).collect();
    check_adoption(&Host::with_microvms(&format!("[[group]]\nname = \"web\"\n{vms}")));
}

#[test]
fn a_vm_that_the_operator_stopped_stays_down_after_a_crash_of_the_supervisor() {
    let host = Host::new("", &group(&["a", "b"]));
    let mut daemon = host.ready();
    host.ctl_ok(&["stop", "a"]);
    daemon.until_event(vm("a", 1, "stopped"));
    daemon.kill();
    let mut daemon = host.ready();
    let a = shown(&host).into_iter().find(|vm| vm["name"] == "a").expect("the VM is shown");
    assert_eq!((&a["phase"], &a["wanted"]), (&"stopped".into(), &false.into()));
    daemon.stop();
    assert_eq!(stdout(&host.pepita(&["list", "--format", "name"])), "");
    host.assert_nothing_left();
}

#[test]
fn a_paused_microvm_outlives_supervisors_that_are_killed_while_they_dial_it() {
    let host = Host::with_microvms("[[group]]\nname = \"web\"\n[[group.vm]]\nname = \"a\"\n");
    let mut daemon = host.ready();
    let pid = host.vmm_pid("a");
    host.ctl_ok(&["pause", "a"]);
    daemon.until_event(vm("a", 1, "paused"));
    daemon.kill();
    for _ in 0..2 {
        // The guest does not answer the new supervisor, which is killed while it waits.
        let mut next = host.start();
        next.until_event(vm("a", 1, "paused"));
        next.kill();
    }
    let mut daemon = host.start();
    daemon.until_event(vm("a", 1, "paused"));
    host.ctl_ok(&["resume", "a"]);
    daemon.until_event(vm("a", 1, "ready"));
    assert_eq!(host.vmm_pid("a"), pid);
    // The back-end of the VM's vsock has survived: the agent passes a signal on (one that a ticker ignores).
    host.ctl_ok(&["signal", "a", "WINCH"]);
    daemon.stop();
    host.assert_nothing_left();
}
