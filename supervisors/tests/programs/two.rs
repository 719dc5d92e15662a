//! Two of everything: two supervisors of one name on one machine (semantics 9.6, 9.13).

use crate::events::vm;
use crate::host::{Daemon, Host, group, program, stderr};
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
