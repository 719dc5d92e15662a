//! VMs that cannot be reached or read for a while: they run on, and are adopted later (semantics 9.14, 13.2).

use crate::events::vm;
use crate::host::{Host, group, program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).expect("a process that runs");
}

fn runs(pid: u32) -> bool {
    kill(Pid::from_raw(pid.cast_signed()), None).is_ok()
}

impl Host {
    /// Kills the supervisor of a host with one VM, and the monitor of the VM. Returns the process of the VMM.
    fn left_alone(&self) -> u32 {
        let mut daemon = self.ready();
        let status = self.status("a");
        daemon.kill();
        send(status.monitor_pid.expect("a monitor"), Signal::SIGKILL);
        status.vmm_pid.expect("a VMM")
    }
}

/// Makes a launcher that does something else than this call while there is no file `well` beside it. It has no launch server,
/// so that each launch is a call.
fn launcher(host: &Host, call: &str, instead: &str) -> PathBuf {
    let (path, well) = (host.path("pepita"), host.path("well"));
    let real = program("pepita");
    let text = format!(
        "#!/bin/sh\n[ \"$3\" = --serve ] && exit 64\n\
         if [ \"$1\" = {call} ] && [ ! -e {well:?} ]; then {instead}; fi\nexec {real:?} \"$@\"\n"
    );
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("executable");
    path
}

#[test]
fn a_vm_whose_adoption_fails_for_a_while_runs_on_and_is_adopted_later() {
    let refused = "echo '{\"kind\": \"try-again\", \"message\": \"fork: try again\"}' >&2; exit 75";
    let killed = "kill -9 $$";
    for instead in [refused, killed] {
        let host = Host::new("", &group(&["a"]));
        let vmm = host.left_alone();
        host.configure(&format!("pepita = {:?}", launcher(&host, "adopt", instead)), &group(&["a", "b"]));
        let mut daemon = host.start();
        daemon.until("cannot be taken over yet");
        host.ctl_ok(&["wait", "b"]);
        assert!(runs(vmm), "{}", daemon.story());
        std::fs::write(host.path("well"), "").expect("written");
        daemon.until_event(vm("a", 1, "ready"));
        assert_eq!(host.vmm_pid("a"), vmm, "{}", daemon.story());
        daemon.stop();
        host.assert_nothing_left();
    }
}

#[test]
fn a_list_that_fails_for_a_moment_is_asked_for_again_at_the_start() {
    let host = Host::new("", &group(&["a"]));
    let vmm = host.left_alone();
    let once = host.path("once");
    let refused = "echo '{\"kind\": \"try-again\", \"message\": \"fork: try again\"}' >&2; exit 75";
    let launcher = launcher(&host, "list", &format!("if mkdir {once:?} 2>/dev/null; then {refused}; fi"));
    host.configure(&format!("pepita = {launcher:?}"), &group(&["a"]));
    let mut daemon = host.start();
    daemon.until_event(vm("a", 1, "ready"));
    assert!(once.exists(), "it was refused once");
    assert_eq!(host.vmm_pid("a"), vmm, "{}", daemon.story());
    daemon.stop();
    host.assert_nothing_left();
}

/// Tests semantics 1.7 and 7.4.
#[test]
fn a_launcher_that_does_not_answer_has_until_the_start_timeout() {
    let host = Host::new("", "");
    let launcher = launcher(&host, "run", "exec sleep 1000");
    host.configure(&format!("pepita = {launcher:?}"), &format!("timeout = \"2s\"\n{}", group(&["a"])));
    let mut daemon = host.start();
    daemon.until("not ready in time");
    std::fs::write(host.path("well"), "").expect("written");
    daemon.until("-> ready");
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn a_vm_whose_adoption_fails_can_be_stopped() {
    let host = Host::new("", &group(&["a"]));
    let vmm = host.left_alone();
    let supervisor = format!("pepita = {:?}", launcher(&host, "adopt", "exit 75"));
    host.configure(&supervisor, &format!("[defaults.stop]\ntimeout = \"1s\"\n{}", group(&["a"])));
    let mut daemon = host.start();
    daemon.until("cannot be taken over yet");
    assert!(runs(vmm), "{}", daemon.story());
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn a_vm_whose_damaged_file_was_mended_is_adopted_by_a_start_and_not_replaced() {
    for file in ["state.json", "spec.json"] {
        let host = Host::new("", &group(&["a"]));
        let vmm = host.left_alone();
        let path = host.path("r/duende-vm-a").join(file);
        let good = std::fs::read_to_string(&path).expect("there");
        std::fs::write(&path, &good[..good.len() / 2]).expect("cut");
        let mut daemon = host.start();
        let failed = daemon.until("-> failed");
        assert!(failed.contains("unreadable"), "{failed}");
        host.ctl(&["start", "a"]);
        daemon.until("-> failed");
        assert!(runs(vmm), "{file}:\n{}", daemon.story());
        std::fs::write(&path, good).expect("mended");
        host.ctl(&["start", "a"]);
        daemon.until("-> ready");
        assert_eq!(host.vmm_pid("a"), vmm, "{file}:\n{}", daemon.story());
        daemon.stop();
        host.assert_nothing_left();
    }
}

#[test]
fn a_monitor_that_hangs_costs_its_vm_alone() {
    let host = Host::new("", &group(&["a", "b"]));
    let mut daemon = host.ready();
    let (a, b) = (host.status("a"), host.vmm_pid("b"));
    let monitor = a.monitor_pid.expect("a monitor");
    daemon.kill();
    send(monitor, Signal::SIGSTOP);
    host.configure("", &group(&["a", "b", "c"]));
    let mut daemon = host.start();
    host.ctl_ok(&["wait", "b", "c"]);
    assert!(host.ctl_ok(&["status", "--json"]).contains("\"unknown\""), "{}", daemon.story());
    send(monitor, Signal::SIGCONT);
    daemon.until_event(vm("a", 1, "ready"));
    assert_eq!((Some(host.vmm_pid("a")), host.vmm_pid("b")), (a.vmm_pid, b), "{}", daemon.story());
    daemon.stop();
    host.assert_nothing_left();
}

/// Tests semantics 7.13.
#[test]
fn a_stop_waits_for_the_launcher_to_end_a_vm_whose_monitor_hangs() {
    let host = Host::new("shutdown_timeout = \"1s\"", &group(&["a", "b"]));
    let mut daemon = host.ready();
    send(host.status("a").monitor_pid.expect("a monitor"), Signal::SIGSTOP);
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn a_foreign_monitor_that_hangs_costs_nothing() {
    let host = Host::new("", &group(&["a"]));
    let args = ["run", "--daemon", "--vmm", "process", "--name", "foreign", "--", "/bin/sleep", "1000"];
    assert!(host.pepita(&args).status.success());
    let status = host.pepita(&["status", "--name", "foreign", "--json"]);
    let status: pepita_wire::StatusRecord = serde_json::from_slice(&status.stdout).expect("a record");
    let monitor = status.monitor_pid.expect("a monitor");
    send(monitor, Signal::SIGSTOP);
    let mut daemon = host.start();
    daemon.until_event(vm("a", 1, "ready"));
    daemon.stop();
    send(monitor, Signal::SIGCONT);
    assert!(runs(status.vmm_pid.expect("a VMM")), "{}", daemon.story());
}
