//! Files of a VM, or all run directories, are removed while the VM runs: it is stopped, restarted and told as ever, and
//! never runs twice.

use crate::events::vm;
use crate::host::{Host, group, ticker};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

fn runs(pid: u32) -> bool {
    kill(Pid::from_raw(pid.cast_signed()), None) != Err(Errno::ESRCH)
}

/// Returns the number of agents, one for each VM that runs.
fn agents(host: &Host) -> usize {
    host.processes().iter().filter(|stat| stat.contains("(daemonctl)")).count()
}

fn phase(host: &Host, name: &str) -> String {
    let status: serde_json::Value = serde_json::from_str(&host.ctl_ok(&["status", "--json"])).expect("JSON");
    let vms = status["groups"][0]["vms"].as_array().expect("VMs").clone();
    let shown = vms.into_iter().find(|vm| vm["name"] == name).expect("the VM is shown");
    shown["phase"].as_str().expect("a phase").to_owned()
}

// semantics 13.8
#[test]
fn a_vm_without_its_directory_is_restarted_once_and_stopped_truly() {
    let host = Host::new("", &group(&["a", "b"]));
    let mut daemon = host.ready();
    let old = host.vmm_pid("a");
    std::fs::remove_dir_all(host.path("r/duende-vm-a")).expect("removed");
    host.ctl_ok(&["restart", "a"]);
    daemon.until_event(vm("a", 2, "ready"));
    assert!(!runs(old), "two processes of one VM");
    let second = host.vmm_pid("a");
    std::fs::remove_dir_all(host.path("r/duende-vm-a")).expect("removed");
    host.ctl_ok(&["stop", "a"]);
    daemon.until_event(vm("a", 2, "stopped"));
    assert!(!runs(second), "it was said to be stopped");
    assert!(!daemon.story().contains("did not stop in time"), "the stop is graceful: {}", daemon.story());
    assert_eq!((phase(&host, "b").as_str(), agents(&host)), ("ready", 1));
    daemon.stop();
    host.assert_nothing_left();
}

// semantics 13.8
#[test]
fn a_new_supervisor_starts_no_second_copy_of_a_vm_whose_directory_is_gone() {
    let host = Host::new("", &format!("[[group]]\nname = \"web\"\n{}", ticker("a", &[])));
    let mut daemon = host.ready();
    let old = host.vmm_pid("a");
    daemon.kill();
    std::fs::remove_dir_all(host.path("r")).expect("removed");
    let mut daemon = host.start();
    let told = daemon.until_event(vm("a", 1, "failed"));
    assert_eq!(told["ending"]["kind"], "unreadable", "{told}");
    assert!(runs(old) && agents(&host) == 1);
    host.ctl_ok(&["restart", "a"]);
    daemon.until_event(vm("a", 2, "ready"));
    assert!(!runs(old) && agents(&host) == 1, "{}", daemon.story());
    daemon.stop();
    host.assert_nothing_left();
}
