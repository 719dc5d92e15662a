//! Tests of promotions: a VM that waits with its daemon held takes the place of a VM that has ended.

use crate::host::{Form, Host, errors, guest_file, kill};
use pepita_launcher::client;
use pepita_launcher::host::priority::is_low;
use pepita_wire::launch::SPARE_LABEL;
use pepita_wire::record::{DaemonState, Part};
use pepita_wire::{ErrorKind, Exit, GuestEvent, MonitorRequest, Outcome, StatusRecord, VmId, VmState};
use rustix::process::Signal;
use serde_json::json;

/// Starts a spare and waits until it can be promoted.
fn spare(host: &Host, name: &str, of: &str) -> StatusRecord {
    let booting = host.start_with(name, &["--hold", "--label", &format!("{SPARE_LABEL}={of}")], &[]);
    // Others may not raise a priority that they have lowered.
    let lowers = rustix::process::geteuid().is_root();
    let is_lowered = is_low(booting.vmm_pid.expect("a running process")) || host.status(name).agent.ready;
    assert!(!lowers || is_lowered, "nobody waits for it");
    let ready = host.until(name, |status| status.agent.ready);
    let vmm = ready.vmm_pid.expect("a running process");
    assert!(!is_low(vmm), "a spare that is ready has the usual priority");
    assert_eq!(ready.daemon.state, DaemonState::Held);
    ready
}

fn promote(host: &Host, spare: &str, name: &str, incarnation: u64) -> Outcome {
    let request = MonitorRequest::Promote { name: VmId::new(name).expect("a name"), incarnation };
    client::ask(&host.vm(spare), request).expect("an answer")
}

fn names(host: &Host) -> Vec<String> {
    let all = host.json(&["list", "--json"]);
    let all: Vec<StatusRecord> = serde_json::from_value(all).expect("records");
    all.into_iter().map(|status| status.name).collect()
}

fn promoted_again_and_again(form: Form) {
    let host = Host::of(form);
    let first = host.ready("a", &[]);
    let one = spare(&host, "a-1", "a");
    assert_eq!(names(&host), ["a", "a-1"]);
    // The place of a VM that runs is not taken.
    let refused = promote(&host, "a-1", "a", 2).expect_err("it runs");
    assert_eq!(refused.kind, ErrorKind::Conflict, "{refused}");
    assert_eq!(host.status("a-1").labels.get(SPARE_LABEL).map(String::as_str), Some("a"));
    kill(first.vmm_pid, Signal::KILL);
    host.exit("a");

    promote(&host, "a-1", "a", 2).expect("promoted");
    let now = host.until("a", |status| status.daemon.state == DaemonState::Ready);
    assert_eq!((now.vmm_pid, now.incarnation, now.state), (one.vmm_pid, 2, VmState::Running));
    assert!(!now.labels.contains_key(SPARE_LABEL) && now.agent.incarnation == Some(1), "{now:?}");
    if form == Form::Process {
        assert!(
            !is_low(now.daemon.pid.expect("a process of this host")),
            "its daemon has the usual priority"
        );
    }
    let timings = now.timings.as_ref().expect("measured");
    let parts: Vec<Part> = timings.parts.iter().map(|timed| timed.part).collect();
    assert_eq!(parts, [Part::Promotion, Part::Daemon, Part::Ready], "a promotion is a start of its own");
    assert_eq!(names(&host), ["a"]);
    // The run directory is lent: the name of the spare is free for no other VM, and ends none.
    host.fails(&["status", "--name", "a-1"], 4);
    let refused = host.run("a-1", &["--hold"], &[]).output().expect("a call");
    assert_eq!(refused.status.code(), Some(73), "{}", errors(&refused));
    host.ok(&["destroy", "--name", "a-1", "--force"]);
    let refused = promote(&host, "a", "b", 1).expect_err("its daemon runs");
    assert_eq!(refused.kind, ErrorKind::Busy, "{refused}");

    // The VM outlives its monitor, and its guest still expects the number that it was booted with.
    kill(now.monitor_pid, Signal::KILL);
    host.ok(&["adopt", "--name", "a"]);
    let adopted = host.until("a", |status| status.agent.ready && status.daemon.state == DaemonState::Ready);
    assert_eq!((adopted.vmm_pid, adopted.incarnation), (one.vmm_pid, 2));

    // The next spare takes the place of one that was promoted.
    let two = spare(&host, "a-2", "a");
    kill(adopted.vmm_pid, Signal::KILL);
    host.exit("a");
    promote(&host, "a-2", "a", 3).expect("promoted");
    let now = host.until("a", |status| status.daemon.state == DaemonState::Ready);
    assert_eq!((now.vmm_pid, now.incarnation), (two.vmm_pid, 3));
    assert!(!host.vm("a-1").exists(), "nothing is left of the former one");

    // A start by that name gets a run directory of its own.
    kill(now.vmm_pid, Signal::KILL);
    assert_eq!(host.exit("a").incarnation, 3);
    let cold = host.ready("a", &[]);
    assert!(!host.vm("a").is_symlink() && !host.vm("a-2").exists());
    assert_eq!(cold.incarnation, 1);
    host.destroy("a", &["--force"]);
    // Without a former VM, the name is free.
    spare(&host, "a-3", "a");
    promote(&host, "a-3", "a", 9).expect("promoted");
    host.until("a", |status| status.daemon.state == DaemonState::Ready);
    host.destroy("a", &["--force"]);
    assert!(names(&host).is_empty());
    let left = std::fs::read_dir(host.vm("a").parent().expect("a directory")).expect("readable").flatten();
    let left: Vec<_> = left
        .map(|entry| entry.file_name())
        .filter(|name| !name.as_encoded_bytes().starts_with(b"."))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_microvm_takes_the_place_of_another() {
    promoted_again_and_again(Form::Qemu);
}

#[test]
fn a_plain_process_takes_the_place_of_another() {
    promoted_again_and_again(Form::Process);
}

/// A guest that was prepared for a start of its daemon starts that one alone, and its daemon was executed by nobody before.
fn prepared(form: Form) {
    let host = Host::of(form);
    let booted = host.start_with("a", &["--hold"], &[]);
    host.until("a", |status| status.agent.ready);
    let mut link = host.dialled("a");
    let ticker = match form {
        Form::Qemu => "/usr/bin/ticker".to_owned(),
        Form::Process => guest_file("ticker").to_string_lossy().into_owned(),
    };
    let start = |text: &str| json!({ "command": [ticker, "--say", text], "env": {} });
    for _ in 0..2 {
        link.ask("prepare", start("one"));
    }
    for method in ["prepare", "start"] {
        let refused = link.outcome(method, start("two")).expect_err("it is prepared for another start");
        assert_eq!(refused.kind, ErrorKind::BadRequest, "{refused}");
    }
    assert_eq!(link.ask("status", json!({}))["started"], false);
    if form == Form::Process {
        // The process that waits may be killed as any other. The daemon is started all the same.
        let agent = booted.vmm_pid.expect("a running process");
        let children = || {
            let file = format!("/proc/{agent}/task/{agent}/children");
            std::fs::read_to_string(file).expect("it runs").trim().to_owned()
        };
        kill(Some(children().parse().expect("one forerunner")), Signal::KILL);
        // Nobody but its parent is told when it is reaped.
        while !children().is_empty() {
            std::thread::yield_now();
        }
    }
    link.watch();
    let pid = link.ask("start", start("one"))["pid"].as_u64().expect("a pid");
    let started = link.until(|event| matches!(event, GuestEvent::Started { .. }));
    assert!(matches!(started, GuestEvent::Started { pid: told } if u64::from(told) == pid), "{started:?}");
    link.until(|event| *event == GuestEvent::Ready);
    let refused = link.outcome("prepare", start("one")).expect_err("it runs");
    assert_eq!(refused.kind, ErrorKind::Conflict, "{refused}");
    let output = host.ok(&["logs", "--name", "a"]);
    assert_eq!(output.matches("one\n").count(), 1, "{output}");
    host.destroy("a", &["--force"]);
}

#[test]
fn a_microvm_that_is_prepared_starts_that_daemon_alone() {
    prepared(Form::Qemu);
}

#[test]
fn a_plain_process_that_is_prepared_starts_that_daemon_alone() {
    prepared(Form::Process);
}

#[test]
fn a_step_that_fails_while_a_spare_is_prepared_is_the_end_of_the_vm_that_it_becomes() {
    let host = Host::of(Form::Qemu);
    let of = format!("{SPARE_LABEL}=a");
    host.start_with("a-1", &["--hold", "--label", &of, "--user", "nobody-here"], &[]);
    let spare = host.until("a-1", |status| status.agent.ready);
    assert_eq!(spare.daemon.state, DaemonState::Held);
    promote(&host, "a-1", "a", 2).expect("promoted");
    let exit = host.exit("a").exit;
    assert!(
        matches!(&exit, Exit::NotExecutable { .. }) && exit.to_string().contains("nobody-here"),
        "{exit}"
    );
    host.destroy("a", &[]);
}

#[test]
fn the_work_directory_is_the_one_at_its_path_when_the_daemon_is_executed() {
    let host = Host::of(Form::Process);
    let current = host.path().join("current");
    for release in ["one", "two"] {
        std::fs::create_dir(host.path().join(release)).expect("made");
    }
    std::os::unix::fs::symlink("one", &current).expect("a link");
    let (of, directory) = (format!("{SPARE_LABEL}=a"), current.to_string_lossy());
    host.start_with("a-1", &["--hold", "--label", &of, "--workdir", &directory], &[]);
    host.until("a-1", |status| status.agent.ready);
    std::fs::remove_file(&current).expect("removed");
    std::os::unix::fs::symlink("two", &current).expect("a link");
    let refused = promote(&host, "a-1", "b", 1).expect_err("it is a spare of another VM");
    assert_eq!(refused.kind, ErrorKind::Busy, "{refused}");
    promote(&host, "a-1", "a", 2).expect("promoted");
    let now = host.until("a", |status| status.daemon.state == DaemonState::Ready);
    let daemon = now.daemon.pid.expect("a process of this host");
    let entered = std::fs::read_link(format!("/proc/{daemon}/cwd")).expect("it runs");
    assert_eq!(entered.file_name(), Some("two".as_ref()));
    host.destroy("a", &["--force"]);
    for release in ["one", "two"] {
        std::fs::remove_dir(host.path().join(release)).expect("removed");
    }
    std::fs::remove_file(current).expect("removed");
}
