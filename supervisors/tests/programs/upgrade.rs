//! Upgrades: VMs that the programs of commit 445d9af have started keep running under the present programs (semantics
//! 9.4, 13.2, 13.3).
//!
//! `PEPITA_OLD_BIN` names the folder with the old programs, and `PEPITA_OLD_IMAGE` an image with the old agent;
//! `make test-upgrade` builds both and runs these tests. Without them the tests say that they did not run.

use crate::events::vm;
use crate::host::{Daemon, Host, PATIENCE, guest, stderr, ticker};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// The programs of the older version.
struct Old {
    bin: PathBuf,
    image: PathBuf,
}

impl Old {
    fn find() -> Option<Self> {
        let Some(bin) = std::env::var_os("PEPITA_OLD_BIN").map(PathBuf::from) else {
            // This message is not captured as the output of a test is, so that people see that the tests did not run.
            let notice = "\nNOT RUN: the upgrade tests want PEPITA_OLD_BIN; `make test-upgrade` builds the old programs\n";
            let _ = std::io::Write::write_all(&mut std::io::stderr(), notice.as_bytes());
            return None;
        };
        assert!(bin.join("pepitad").exists(), "{}: no pepitad in it", bin.display());
        let image = std::env::var_os("PEPITA_OLD_IMAGE").map_or_else(|| guest("ticker.cpio"), PathBuf::from);
        Some(Self { bin, image })
    }

    /// The old supervisor, running, with all of its VMs ready.
    fn start(&self, host: &Host) -> Daemon {
        let mut command = Command::new(self.bin.join("pepitad"));
        command
            .arg("--config")
            .arg(host.path("c.toml"))
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC");
        let daemon = Daemon::start(&mut command);
        let waited = self.ctl(host, &["wait", "--timeout", &PATIENCE.as_secs().to_string()]);
        assert!(waited.status.success(), "{}", stderr(&waited));
        daemon
    }

    fn ctl(&self, host: &Host, args: &[&str]) -> std::process::Output {
        let mut command = Command::new(self.bin.join("pepitactl"));
        command.arg("--socket").arg(host.path("c/c.sock")).args(args).output().expect("pepitactl runs")
    }

    /// Two plain processes and a microVM with the old agent.
    fn host(&self) -> Host {
        let (kernel, image) = (guest("vmlinuz"), &self.image);
        let microvm = format!(
            "[[group.vm]]\nname = \"micro\"\nvmm = \"qemu\"\nvcpus = 1\nmemory_mb = 128\n\
             kernel_path = {kernel:?}\nrootfs_path = {image:?}\nenv = {{ GREETING = \"hello\" }}\n"
        );
        let groups = ["a", "b"].map(|vm| ticker(vm, &["--interval", "200"])).concat();
        Host::new("", &format!("[[group]]\nname = \"web\"\n{groups}{microvm}"))
    }
}

const VMS: [&str; 3] = ["a", "b", "micro"];

/// The pids of the VMMs and the incarnations of all VMs.
fn identities(host: &Host) -> Vec<(Option<u32>, u64)> {
    VMS.iter().map(|vm| host.status(vm)).map(|status| (status.vmm_pid, status.incarnation)).collect()
}

fn wait_until(what: &str, mut is_it: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_it() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn vms_of_an_older_supervisor_are_adopted_without_a_reboot() {
    let Some(old) = Old::find() else { return };
    let host = old.host();
    let mut daemon = old.start(&host);
    let before = identities(&host);
    assert!(before.iter().all(|(pid, incarnation)| pid.is_some() && *incarnation == 1), "{before:?}");
    assert!(old.ctl(&host, &["shutdown", "--leave"]).status.success());
    assert!(daemon.end().success(), "{}", daemon.story());
    assert_eq!(identities(&host), before, "the present launcher reads the records of the older one");

    let mut daemon = host.ready();
    assert_eq!(identities(&host), before, "{}", daemon.story());

    // The monitors are still the old programs. A monitor reports the end, and the present supervisor decides on it.
    let victim = Pid::from_raw(host.vmm_pid("micro").cast_signed());
    kill(victim, Signal::SIGKILL).expect("a running process");
    daemon.until_event(vm("micro", 2, "ready"));
    let events = host.ctl_ok(&["events", "--json"]);
    let mut events =
        events.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let failed = events.find(|event| event["to"] == "backoff").expect("a failure");
    assert_eq!(
        (&failed["vm"], &failed["ending"]["kind"]),
        (&"micro".into(), &"vmm-crashed".into()),
        "{failed:#}"
    );
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn vms_of_an_older_supervisor_that_was_killed_are_adopted_without_a_reboot() {
    let Some(old) = Old::find() else { return };
    let host = old.host();
    let mut daemon = old.start(&host);
    let before = identities(&host);
    daemon.kill();
    let mut daemon = host.ready();
    assert_eq!(identities(&host), before, "{}", daemon.story());
    daemon.stop();
    host.assert_nothing_left();
}

/// Kills the old supervisor, with `monitor_dies` the monitor of the VM as well, damages a file of the VM, and starts
/// the present supervisor. Asserts that the VM keeps running and that the others are adopted.
fn goes_on_with_damage(file: &str, vm: &str, monitor_dies: bool) -> Option<(Host, Daemon, Pid)> {
    let old = Old::find()?;
    let host = old.host();
    let mut daemon = old.start(&host);
    let before = identities(&host);
    let status = host.status(vm);
    daemon.kill();
    if monitor_dies {
        let monitor = Pid::from_raw(status.monitor_pid.expect("a running process").cast_signed());
        kill(monitor, Signal::SIGKILL).expect("a running process");
    }
    std::fs::write(host.path(file), b"{\"name\": 7, torn").expect("damaged");
    let daemon = host.start();
    for (index, other) in VMS.iter().enumerate().filter(|(_, other)| !monitor_dies || **other != vm) {
        wait_until(other, || {
            let status = host.ctl(&["status", "--json"]);
            let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
            let groups = status["groups"].as_array().cloned().unwrap_or_default();
            let mut vms = groups.iter().filter_map(|group| group["vms"].as_array()).flatten();
            vms.any(|vm| vm["name"] == **other && vm["phase"] == "ready" && vm["incarnation"] == 1)
        });
        assert_eq!(host.status(other).vmm_pid, before[index].0, "{other} was not booted again");
    }
    let pid = Pid::from_raw(status.vmm_pid.expect("a running process").cast_signed());
    assert!(kill(pid, None).is_ok(), "{vm} runs on:\n{}", daemon.story());
    Some((host, daemon, pid))
}

#[test]
fn a_damaged_file_of_a_vm_with_a_monitor_changes_nothing() {
    for file in ["r/duende-vm-micro/state.json", "r/duende-vm-micro/spec.json"] {
        let Some((host, mut daemon, _)) = goes_on_with_damage(file, "micro", false) else { return };
        daemon.stop();
        host.assert_nothing_left();
    }
}

#[test]
fn a_damaged_journal_entry_is_told_and_the_vm_adopted() {
    let Some((host, mut daemon, _)) = goes_on_with_damage("s/vms/b.json", "b", false) else { return };
    daemon.until("b.json");
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn a_vm_whose_files_cannot_be_read_is_left_running_and_told() {
    for (file, vm) in
        [("state.json", "micro"), ("spec.json", "micro"), ("state.json", "a"), ("spec.json", "a")]
    {
        let path = format!("r/duende-vm-{vm}/{file}");
        let Some((_host, mut daemon, pid)) = goes_on_with_damage(&path, vm, true) else { return };
        daemon.until(file);
        daemon.kill();
        kill(pid, Signal::SIGKILL).expect("a running process");
    }
}
