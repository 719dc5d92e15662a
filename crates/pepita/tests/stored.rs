//! Tests of the files in a run directory: files of every version are read. A VM with a file that cannot be read keeps
//! running until it is removed by force.

mod host;

use host::{Host, program};
use pepita_launcher::rundir::files::State;
use pepita_launcher::vm_config::{Root, VmConfig, VmmKind};
use pepita_wire::{Exit, ExitRecord, VmState};
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::path::Path;

/// A file that commit 445d9af wrote.
fn golden<T: DeserializeOwned>(file: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/445d9af").join(file);
    let text = std::fs::read_to_string(&path).expect("a golden file");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{file}: {e}"))
}

#[test]
fn the_configuration_and_the_state_of_an_older_launcher_are_read() {
    let process: VmConfig = golden("process.spec.json");
    assert_eq!((process.cid.get(), process.incarnation), (57_789_000, 1));
    assert_eq!((process.request.vmm, &process.request.root), (VmmKind::Process, &Root::Host(None)));
    assert_eq!(process.request.ready_timeout_ms, 90_000);
    assert_eq!(process.request.env["RUST_LOG"], "info");
    let microvm: VmConfig = golden("microvm.spec.json");
    assert_eq!(microvm.request.vmm, VmmKind::Qemu);
    assert!(matches!(microvm.request.root, Root::Initramfs(_) | Root::Disk { .. }));
    for file in ["process.state.json", "microvm.state.json"] {
        let state: State = golden(file);
        assert!(state.vmm.is_some() && state.monitor.is_some(), "{file}");
        assert_eq!(state.status.state, VmState::Running, "{file}");
    }
    let ended: State = golden("exited.state.json");
    assert!(ended.status.exit.is_some() && ended.status.state.is_terminal());
}

#[test]
fn the_exit_records_of_an_older_launcher_are_read() {
    let exit = |file: &str| golden::<ExitRecord>(file).exit;
    assert!(matches!(exit("exited.exit.json"), Exit::Exited { .. }));
    assert!(matches!(exit("signalled.exit.json"), Exit::Signalled { .. }));
    assert!(matches!(exit("not-executable.exit.json"), Exit::NotExecutable { .. }));
    assert!(matches!(exit("guest-panic.exit.json"), Exit::GuestPanic { .. }));
    assert!(matches!(exit("vmm-crash.exit.json"), Exit::VmmCrashed(_)));
    assert_eq!(exit("stop-requested.exit.json"), Exit::StopRequested);
}

#[test]
fn a_launcher_of_today_writes_what_an_older_one_reads() {
    let host = Host::new();
    host.process("a", &[&program("ticker")]);
    let stored: Value =
        serde_json::from_str(&std::fs::read_to_string(host.vm("a").join("spec.json")).expect("a file"))
            .expect("JSON");
    let older: Value = golden("process.spec.json");
    for (key, value) in older.as_object().expect("an object") {
        let kind = |value: &Value| std::mem::discriminant(value);
        assert_eq!(kind(&stored[key]), kind(value), "{key}");
    }
}

fn process(status: &Value, which: &str) -> Pid {
    let pid = status[which].as_i64().unwrap_or_else(|| panic!("{which}: {status}"));
    Pid::from_raw(i32::try_from(pid).expect("small")).expect("a pid")
}

/// Kills the monitor of a VM. Returns the process of the VMM.
fn orphan(host: &Host, name: &str) -> Pid {
    host.process(name, &[&program("ticker")]);
    let status = host.json(&["status", "--name", name]);
    let monitor = pepita_launcher::host::process_id::ProcessId::of(
        u32::try_from(status["monitor_pid"].as_u64().expect("a monitor")).expect("small"),
    );
    monitor.expect("a running monitor").end();
    process(&status, "vmm_pid")
}

fn runs(process: Pid) -> bool {
    rustix::process::test_kill_process(process).is_ok()
}

fn error(host: &Host, args: &[&str], code: i32) -> Value {
    serde_json::from_str(&host.fails(args, code)).expect("JSON")
}

#[test]
fn a_vm_whose_files_cannot_be_read_runs_on_and_goes_only_by_force() {
    let torn: [(&str, &str); 4] = [
        ("state.json", "{\"monitor\": "),
        ("state.json", r#"{"vmm":{"pid":1}}"#),
        ("spec.json", r#"{"name":"a"}"#),
        ("exit.json", "\0\0\0\0"),
    ];
    for (file, text) in torn {
        let host = Host::new();
        let vmm = orphan(&host, "a");
        std::fs::write(host.vm("a").join(file), text).expect("written");
        let status = host.json(&["status", "--name", "a"]);
        assert_eq!((&status["state"], &status["monitor_pid"]), (&json!("unknown"), &Value::Null), "{file}");
        assert!(status["unreadable"].as_str().is_some_and(|why| why.contains(file)), "{status}");
        assert_eq!(host.json(&["list", "--json"])[0]["unreadable"], status["unreadable"]);
        assert!(host.ok(&["list"]).contains("unreadable: "), "{file}");
        let ticker = program("ticker");
        for call in
            [&["adopt"][..], &["destroy"], &["wait"], &["run", "--vmm", "process", "--daemon", "--", &ticker]]
        {
            let args = [&call[..1], &["--name", "a", "--json"], &call[1..]].concat();
            let error = error(&host, &args, 65);
            assert_eq!((&error["kind"], &error["name"]), (&json!("unreadable"), &json!("a")), "{call:?}");
            assert!(error["message"].as_str().is_some_and(|why| why.contains(file)), "{error}");
            assert!(runs(vmm), "{call:?} of a VM whose {file} cannot be read");
        }
        host.ok(&["destroy", "--force", "--name", "a"]);
        assert!(!host.vm("a").exists(), "{file}");
        assert!(host::processes_in(host.path()).is_empty(), "{file}");
    }
}

#[test]
fn a_vm_with_a_monitor_goes_whatever_its_files_hold() {
    let host = Host::new();
    host.process("a", &[&program("ticker")]);
    std::fs::write(host.vm("a").join("spec.json"), "{").expect("written");
    assert_eq!(host.json(&["status", "--name", "a"])["unreadable"], Value::Null);
    host.ok(&["destroy", "--name", "a"]);
    assert!(!host.vm("a").exists());
}

#[test]
fn a_monitor_that_does_not_answer_is_found_by_its_socket_when_the_state_cannot_be_read() {
    let host = Host::new();
    host.process("a", &[&program("ticker")]);
    let status = host.json(&["status", "--name", "a"]);
    let monitor = process(&status, "monitor_pid");
    kill_process(monitor, Signal::STOP).expect("stopped");
    std::fs::write(host.vm("a").join("state.json"), "{").expect("written");
    host.ok(&["destroy", "--force", "--name", "a"]);
    assert!(!host.vm("a").exists());
    assert!(host::processes_in(host.path()).is_empty());
}

#[test]
fn an_exit_record_that_cannot_be_read_is_kept() {
    let host = Host::new();
    let vmm = orphan(&host, "a");
    let record = host.vm("a").join("exit.json");
    std::fs::write(&record, "later").expect("written");
    kill_process(vmm, Signal::KILL).expect("killed");
    while runs(vmm) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let status = host.json(&["status", "--name", "a"]);
    assert_eq!(status["state"], "failed");
    assert!(status["exit"]["evidence"][0].as_str().is_some_and(|why| why.contains("exit.json")), "{status}");
    assert_eq!(std::fs::read_to_string(&record).expect("kept"), "later");
    host.ok(&["destroy", "--name", "a"]);
}
