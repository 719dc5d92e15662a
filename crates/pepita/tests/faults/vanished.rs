//! Tests in which files of a VM are removed while the VM runs: the VM is found by its processes, never runs twice, and is
//! ended only when that is asked for. A monitor that runs may write its state again at any time after a removal, so a test
//! in which that would make a difference kills the monitor first.

use crate::host::{Form, Host, PATIENCE, errors, kill};
use pepita_launcher::host::process_id::ProcessId;
use pepita_launcher::host::wait::wait_readable;
use pepita_wire::record::{DaemonState, Reach};
use pepita_wire::{StatusRecord, VmState};
use rustix::process::Signal;
use std::path::Path;

/// Removes files of a VM; `dir` is its run directory.
type Removal = fn(dir: &Path);

fn remove_file(dir: &Path, name: &str) {
    std::fs::remove_file(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
}

/// Removes all files of a VM but those with these names.
fn remove_all_but(dir: &Path, kept: &[&str]) {
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        if !kept.iter().any(|name| entry.file_name() == *name) {
            std::fs::remove_file(entry.path()).expect("removed");
        }
    }
}

/// The removals after which no file tells any more that the VM runs.
const REMOVALS: [(&str, Removal); 5] = [
    ("its directory", |dir| std::fs::remove_dir_all(dir).expect("removed")),
    ("all that is in its directory", |dir| remove_all_but(dir, &[])),
    ("its lock, state and socket", |dir| {
        ["lock", "state.json", "ctl.sock"].iter().for_each(|name| remove_file(dir, name));
    }),
    ("its directory, by a move", |dir| {
        let elsewhere = dir.parent().expect("a directory of run directories").with_extension("moved");
        std::fs::rename(dir, &elsewhere).expect("moved");
        std::fs::remove_dir_all(elsewhere).expect("removed");
    }),
    ("the directory of all run directories", |dir| {
        let top = dir.parent().expect("a directory of run directories");
        // The cache is shared by all tests, and is only a link here.
        std::fs::remove_file(top.join(".cache")).expect("removed");
        std::fs::remove_dir_all(top).expect("removed");
    }),
];

/// The removals after which the state is there and little else, as when a monitor has written it again.
const REMOVALS_BUT_STATE: [(&str, Removal); 2] = [
    ("its lock and socket", |dir| ["lock", "ctl.sock"].iter().for_each(|name| remove_file(dir, name))),
    ("all but its state", |dir| remove_all_but(dir, &["state.json"])),
];

fn process(pid: Option<u32>) -> ProcessId {
    ProcessId::of(pid.expect("a pid")).expect("a process that runs")
}

fn runs(process: &ProcessId) -> bool {
    process.open().is_some()
}

fn await_end(process: &ProcessId) {
    if let Some(handle) = process.open() {
        assert!(wait_readable(&handle, PATIENCE), "{process:?} does not end");
    }
}

/// Removes files of a VM whose monitor runs. The monitor is stopped meanwhile, so that it writes no file while they are
/// being removed.
fn remove_under_monitor(host: &Host, record: &StatusRecord, remove: Removal) {
    let monitor = process(record.monitor_pid);
    kill(record.monitor_pid, Signal::STOP);
    while !monitor.is_stopped() {
        assert!(runs(&monitor), "the monitor ended");
        std::thread::yield_now();
    }
    remove(&host.vm("a"));
    kill(record.monitor_pid, Signal::CONT);
}

/// Starts a VM and kills its monitor. Returns the last record and the VMM, which runs.
fn orphan(host: &Host) -> (StatusRecord, ProcessId) {
    let before = host.ready("a", &[]);
    let (vmm, monitor) = (process(before.vmm_pid), process(before.monitor_pid));
    kill(before.monitor_pid, Signal::KILL);
    await_end(&monitor);
    (before, vmm)
}

/// Returns the record of the only VM in the list.
fn listed(host: &Host) -> StatusRecord {
    let mut records: Vec<StatusRecord> =
        serde_json::from_value(host.json(&["list", "--json"])).expect("records");
    assert_eq!(records.len(), 1, "{records:#?}");
    records.remove(0)
}

/// Checks that a running VM without files is told, is not doubled, and ends when that is asked for.
fn check_vanished(host: &Host, what: &str, before: &StatusRecord) {
    let (vmm, monitor) = (process(before.vmm_pid), process(before.monitor_pid));
    let told = listed(host);
    assert_eq!((told.state, told.reach), (VmState::Unknown, Reach::Vanished), "{what}: {told:#?}");
    assert_eq!(told.monitor_pid, before.monitor_pid, "{what}");
    assert_eq!(
        (told.incarnation, told.vsock.cid, &told.labels),
        (before.incarnation, before.vsock.cid, &before.labels),
        "{what}"
    );
    assert!(told.unreadable.is_some(), "{what}: {told:#?}");
    assert_eq!(host.status("a").reach, Reach::Vanished, "{what}");
    let again = host.run("a", &["--daemon"], &[]).output().expect("pepita runs");
    assert_eq!(again.status.code(), Some(73), "{what}: {}", errors(&again));
    host.fails(&["adopt", "--name", "a"], 65);
    host.fails(&["wait", "--name", "a"], 65);
    host.fails(&["destroy", "--name", "a"], 65);
    assert!(runs(&vmm) && runs(&monitor), "{what}: it runs on");
    host.ok(&["destroy", "--name", "a", "--force"]);
    assert!(!runs(&vmm) && !runs(&monitor), "{what}");
    assert!(!host.dir.join(".ends/a").exists(), "{what}: the last words are left (semantics 10.8)");
    // The name and the CID are free again.
    let cid = before.vsock.cid.to_string();
    host.start_with("a", &["--vsock-cid", &cid], &[]);
    host.destroy("a", &["--force"]);
}

#[test]
fn a_vm_whose_files_are_removed_is_told_and_never_runs_twice() {
    for (what, remove) in REMOVALS.into_iter().chain(REMOVALS_BUT_STATE) {
        let host = Host::of(Form::Process);
        host.start_with("a", &["--label", "owner=edge"], &[]);
        let before = host.until("a", |status| status.daemon.state == DaemonState::Ready);
        remove_under_monitor(&host, &before, remove);
        check_vanished(&host, what, &before);
    }
}

#[test]
fn a_microvm_whose_directory_is_removed_is_told_and_never_runs_twice() {
    let host = Host::of(Form::Qemu);
    host.start_with("a", &["--label", "owner=edge"], &[]);
    let before = host.until("a", |status| status.daemon.state == DaemonState::Ready);
    remove_under_monitor(&host, &before, |dir| std::fs::remove_dir_all(dir).expect("removed"));
    check_vanished(&host, "the directory of a microVM", &before);
}

#[test]
fn a_vm_without_files_and_without_a_monitor_is_ended_before_the_next_one_starts() {
    for (what, remove) in REMOVALS {
        let host = Host::of(Form::Process);
        let (before, vmm) = orphan(&host);
        remove(&host.vm("a"));
        assert!(runs(&vmm), "{what}");
        let cid = before.vsock.cid.to_string();
        host.start_with("a", &["--vsock-cid", &cid], &[]);
        assert!(!runs(&vmm), "{what}: two processes of one VM");
        host.destroy("a", &["--force"]);
    }
}

#[test]
fn a_vm_without_a_monitor_whose_lock_and_socket_were_removed_keeps_its_name_and_is_adopted() {
    let host = Host::of(Form::Process);
    let (before, vmm) = orphan(&host);
    ["lock", "ctl.sock"].iter().for_each(|name| remove_file(&host.vm("a"), name));
    let again = host.run("a", &["--daemon"], &[]).output().expect("pepita runs");
    assert_eq!(again.status.code(), Some(73), "{}", errors(&again));
    let told = listed(&host);
    assert_eq!((told.state, told.reach, told.monitor_pid), (VmState::Unknown, Reach::Usual, None));
    host.ok(&["adopt", "--name", "a"]);
    let adopted = host.until("a", |status| status.daemon.state == DaemonState::Ready);
    assert_eq!((adopted.vmm_pid, adopted.incarnation), (before.vmm_pid, before.incarnation));
    host.destroy("a", &[]);
    assert!(!runs(&vmm));
}

#[test]
fn a_vm_without_a_monitor_of_which_only_the_state_is_left_is_ended_by_force_alone() {
    let host = Host::of(Form::Process);
    let (before, vmm) = orphan(&host);
    remove_all_but(&host.vm("a"), &["state.json"]);
    let again = host.run("a", &["--daemon"], &[]).output().expect("pepita runs");
    assert_eq!(again.status.code(), Some(65), "{}", errors(&again));
    assert!(listed(&host).unreadable.is_some_and(|why| why.contains("spec.json")));
    host.fails(&["adopt", "--name", "a"], 65);
    host.fails(&["destroy", "--name", "a"], 65);
    assert!(runs(&vmm));
    host.ok(&["destroy", "--name", "a", "--force"]);
    assert!(!runs(&vmm));
    let cid = before.vsock.cid.to_string();
    host.start_with("a", &["--vsock-cid", &cid], &[]);
    host.destroy("a", &["--force"]);
}

#[test]
fn a_vm_that_ends_by_itself_without_its_directory_leaves_the_name_free() {
    let host = Host::of(Form::Process);
    let before = host.ready("a", &[]);
    let monitor = process(before.monitor_pid);
    remove_under_monitor(&host, &before, |dir| std::fs::remove_dir_all(dir).expect("removed"));
    kill(before.vmm_pid, Signal::KILL);
    await_end(&monitor);
    let cid = before.vsock.cid.to_string();
    host.start_with("a", &["--vsock-cid", &cid], &[]);
    assert_eq!(host.status("a").reach, Reach::Usual);
    host.destroy("a", &["--force"]);
}

#[test]
fn a_missing_socket_or_lock_costs_no_vm_and_a_forced_removal_still_works() {
    for name in ["ctl.sock", "lock", "spec.json", "token", "state.json"] {
        let host = Host::of(Form::Process);
        let before = host.ready("a", &[]);
        let vmm = process(before.vmm_pid);
        remove_file(&host.vm("a"), name);
        let again = host.run("a", &["--daemon"], &[]).output().expect("pepita runs");
        assert_eq!(again.status.code(), Some(73), "{name}: {}", errors(&again));
        assert_eq!(listed(&host).name, "a", "{name}");
        host.call(&["adopt", "--name", "a"]);
        assert!(runs(&vmm), "{name}");
        let monitors =
            crate::host::processes_in(&host.dir).into_iter().filter(|p| p.what.contains(" monitor ")).count();
        assert_eq!(monitors, 1, "{name}: two monitors of one VM");
        host.destroy("a", &["--force"]);
        assert!(!runs(&vmm), "{name}");
    }
}

#[test]
fn a_forced_removal_of_a_vm_of_which_nothing_can_be_read_releases_its_cid() {
    let host = Host::of(Form::Process);
    orphan(&host);
    for name in ["spec.json", "state.json"] {
        std::fs::write(host.vm("a").join(name), "{").expect("written");
    }
    host.fails(&["destroy", "--name", "a"], 65);
    // The host checks at its end that no claim of a CID is left.
    host.destroy("a", &["--force"]);
}

#[test]
fn monitors_that_do_not_answer_cost_their_rows_and_no_more() {
    let host = Host::of(Form::Process);
    let names = ["a", "b", "c", "d"];
    let records: Vec<StatusRecord> = names.iter().map(|name| host.ready(name, &[])).collect();
    for record in &records[..3] {
        kill(record.monitor_pid, Signal::STOP);
    }
    // More clients wait for this monitor than the kernel keeps for it.
    let mut waiting = Vec::new();
    let flags = rustix::net::SocketFlags::NONBLOCK | rustix::net::SocketFlags::CLOEXEC;
    let address = rustix::net::SocketAddrUnix::new(host.vm("a").join("ctl.sock")).expect("an address");
    loop {
        let (family, kind) = (rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM);
        let socket = rustix::net::socket_with(family, kind, flags, None).expect("a socket");
        if rustix::net::connect(&socket, &address).is_err() {
            break;
        }
        waiting.push(socket);
    }
    let listed: Vec<StatusRecord> = serde_json::from_value(host.json(&["list", "--json"])).expect("records");
    let seen: Vec<(&str, VmState, Reach)> =
        listed.iter().map(|record| (record.name.as_str(), record.state, record.reach)).collect();
    let silent = |name| (name, VmState::Unknown, Reach::Silent);
    let expected = [silent("a"), silent("b"), silent("c"), ("d", VmState::Running, Reach::Usual)];
    assert_eq!(seen, expected);
    assert!(host.ok(&["list"]).contains("does not answer"));
    assert_eq!(host.status("a").reach, Reach::Silent);
    drop(waiting);
    kill(records[1].monitor_pid, Signal::CONT);
    assert_eq!(host.status("b").reach, Reach::Usual);
    for name in names {
        host.destroy(name, &["--force"]);
    }
}

#[test]
fn what_is_no_run_directory_of_a_vm_is_left_as_it_is() {
    // A directory of run directories that is really somebody's home: no call may remove what is in it.
    let host = Host::of(Form::Process);
    let photo = host.vm("photos").join("2025/a.jpg");
    std::fs::create_dir_all(photo.parent().expect("a folder")).expect("made");
    std::fs::write(&photo, "x").expect("written");
    std::fs::create_dir(host.vm("empty")).expect("made");
    std::os::unix::fs::symlink(host.vm("photos"), host.vm("link")).expect("made");
    for call in [&["list"][..], &["status", "--name", "photos"], &["destroy", "--name", "photos", "--force"]]
    {
        host.command(call).output().expect("pepita runs");
        assert_eq!(std::fs::read(&photo).expect("still there"), b"x", "{call:?}");
        assert!(host.vm("link").is_symlink() && host.vm("empty").is_dir(), "{call:?}");
        assert!(!host.vm("photos").join("lock").exists(), "{call:?}");
    }
    let refused = host.run("photos", &["--daemon"], &[]).output().expect("pepita runs");
    assert_eq!(refused.status.code(), Some(73), "{}", errors(&refused));
    assert_eq!(std::fs::read(&photo).expect("still there"), b"x");
    for name in ["photos", "empty"] {
        std::fs::remove_dir_all(host.vm(name)).expect("removed");
    }
    std::fs::remove_file(host.vm("link")).expect("removed");
}
