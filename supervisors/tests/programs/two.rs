//! Two of everything: two supervisors of one name on one machine, and two configurations of one supervisor (semantics
//! 9.6, 9.13, 9.15).

use crate::events::vm;
use crate::host::{Daemon, Host, group, program, stderr, stdout};
use std::path::PathBuf;
use std::process::Command;

impl Host {
    /// Writes a second configuration for the same run directory, with these VMs, and returns its path. The name of the
    /// supervisor is the same; state directory and control socket are not. `NAME` says what the second one is called.
    fn second(&self, vms: &[&str], replace: &[(&str, &str)]) -> PathBuf {
        let text = std::fs::read_to_string(self.path("c.toml")).expect("written before");
        let settings = text.split("[[group]]").next().expect("settings");
        let mut text = settings.replace("c/c.sock", "d/d.sock").replace("\"s\"", "\"t\"") + &group(vms);
        for (from, to) in replace {
            assert!(text.contains(from), "{from}: {text}");
            text = text.replace(from, to);
        }
        let file = self.path("d.toml");
        std::fs::write(&file, text).expect("written");
        file
    }
}

fn pepitad(config: &PathBuf) -> Command {
    let mut command = Command::new(program("pepitad"));
    command.arg("--config").arg(config).arg("--json").env_remove("NOTIFY_SOCKET");
    command
}

#[test]
fn a_second_supervisor_of_the_same_name_does_not_start_and_harms_no_vm() {
    let host = Host::new("", &group(&["a"]));
    let mut first = host.ready();
    let pid = host.vmm_pid("a");
    let without_state = [("state_dir = \"t\"\n", ""), ("control_socket = \"d/d.sock\"\n", "")];
    for (vms, replace) in [(["a"], &[][..]), (["b"], &[]), (["a"], &without_state), (["b"], &without_state)] {
        let output = pepitad(&host.second(&vms, replace)).output().expect("the program runs");
        let err = stderr(&output);
        assert_eq!(output.status.code(), Some(73), "{err}");
        assert!(err.contains(&format!("(pid {})", first.pid())) && err.contains("supervisor.name"), "{err}");
    }
    assert_eq!(host.vmm_pid("a"), pid, "{}", first.story());
    // Another name is another supervisor.
    let mut other =
        Daemon::start(&mut pepitad(&host.second(&["b"], &[("name = \"test\"", "name = \"trial\"")])));
    other.until_event(vm("b", 1, "ready"));
    other.stop();
    assert_eq!(host.vmm_pid("a"), pid, "{}", first.story());
    first.stop();
    host.assert_nothing_left();
}

#[test]
fn the_vms_of_another_state_directory_are_no_orphans() {
    let host = Host::new("", &group(&["a"]));
    let mut first = host.ready();
    let pid = host.vmm_pid("a");
    first.kill();
    for orphans in ["adopt", "destroy"] {
        let setting = format!("name = \"test\"\norphans = \"{orphans}\"");
        let mut second = Daemon::start(&mut pepitad(&host.second(&["b"], &[("name = \"test\"", &setting)])));
        second.until("left as it is");
        second.until("-> ready");
        second.stop();
        assert_eq!(host.vmm_pid("a"), pid, "{}", second.story());
    }
    let mut first = host.ready();
    assert_eq!(host.vmm_pid("a"), pid, "adopted:\n{}", first.story());
    first.stop();
    host.assert_nothing_left();
}

#[test]
fn a_file_that_was_cut_off_between_two_runs_ends_no_vm() {
    // semantics 9.6
    let host = Host::new("", &group(&["a", "b", "c"]));
    let mut first = host.ready();
    let pids = ["a", "b", "c"].map(|vm| host.vmm_pid(vm));
    first.kill();
    for left in [&["a"][..], &["z"]] {
        host.configure("", &group(left));
        let refused = host.pepitad(&[]).output().expect("the program runs");
        let err = stderr(&refused);
        assert_eq!(refused.status.code(), Some(73), "{left:?}: {err}");
        assert!(err.contains("--allow-removal") && err.contains("b, c"), "{left:?}: {err}");
        assert_eq!(["a", "b", "c"].map(|vm| host.vmm_pid(vm)), pids, "{left:?}");
    }
    host.configure("", &group(&["a"]));
    let mut allowed = Daemon::start(&mut host.pepitad(&["--json", "--allow-removal"]));
    allowed.until_event(vm("a", 1, "ready"));
    assert_eq!(host.vmm_pid("a"), pids[0], "adopted:\n{}", allowed.story());
    let names = stdout(&host.pepita(&["list", "--format", "name"]));
    assert_eq!(names.lines().collect::<Vec<_>>(), ["duende-vm-a"], "{}", allowed.story());
    allowed.stop();
    host.assert_nothing_left();
}

#[test]
fn what_does_not_run_at_the_moment_counts_too_when_a_file_was_cut_off() {
    // semantics 9.6
    let all = ["a", "b", "c", "d", "e", "f"];
    let host = Host::new("", &group(&all));
    let mut first = host.ready();
    for vm in ["d", "e", "f"] {
        host.ctl_ok(&["stop", vm]);
    }
    let pids = ["a", "b", "c"].map(|vm| host.vmm_pid(vm));
    first.kill();
    // One of three that run, and four of six that are known.
    host.configure("", &group(&["a", "b"]));
    let refused = host.pepitad(&[]).output().expect("the program runs");
    let err = stderr(&refused);
    assert_eq!(refused.status.code(), Some(73), "{err}");
    assert!(err.contains("4 of 6 VMs (c, d, e, f)"), "{err}");
    assert_eq!(["a", "b", "c"].map(|vm| host.vmm_pid(vm)), pids);
    host.configure("", &group(&all));
    let mut back = host.ready();
    assert_eq!(["a", "b", "c"].map(|vm| host.vmm_pid(vm)), pids, "adopted:\n{}", back.story());
    back.stop();
    host.assert_nothing_left();
}

#[test]
fn another_run_dir_starts_no_second_copy_of_a_vm_that_runs() {
    // semantics 9.15
    let host = Host::new("", &group(&["a"]));
    let mut first = host.ready();
    let pid = host.vmm_pid("a");
    first.kill();
    let text = std::fs::read_to_string(host.path("c.toml")).expect("written before");
    let moved = text.replace("run_dir = \"r\"", "run_dir = \"r2\"");
    std::fs::write(host.path("c.toml"), &moved).expect("written");
    let refused = host.pepitad(&[]).output().expect("the program runs");
    let err = stderr(&refused);
    assert_eq!(refused.status.code(), Some(73), "{err}");
    let former = host.path("r");
    assert!(err.contains(&format!("run_dir = {former:?}")), "{err}");
    std::fs::write(host.path("c.toml"), text).expect("written");
    let mut back = host.ready();
    assert_eq!(host.vmm_pid("a"), pid, "adopted:\n{}", back.story());
    back.stop();
    // Nothing runs in the former directory any more.
    std::fs::write(host.path("c.toml"), moved).expect("written");
    let mut second = host.start();
    second.until_event(vm("a", 2, "ready"));
    second.stop();
    host.assert_nothing_left();
}
