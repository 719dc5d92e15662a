//! Tests in which a part of a VM is killed: its VMM, its monitor, its back-end, its kernel.

use crate::host::{Form, Host, PATIENCE, figure, kill, processes_in, times};
use pepita_launcher::client::Client;
use pepita_wire::record::DaemonState;
use pepita_wire::{Ask, Exit, MonitorRequest, ProcessExit, VmState};
use rustix::fs::inotify;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Kills a process. Returns the time until the exit record existed: from the kill, and from the moment at which the
/// kernel reported the end of the VMM. (The kernel needs time to free a guest's memory.)
fn until_record(dir: &Path, killed: Option<u32>, vmm: Option<u32>) -> (Duration, Duration) {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).expect("inotify");
    inotify::add_watch(&watch, dir, inotify::WatchFlags::MOVED_TO).expect("a directory");
    let vmm = vmm.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).expect("a pid");
    let vmm = pidfd_open(vmm, PidfdFlags::empty()).expect("a running process");
    let watched = vmm.try_clone().expect("a descriptor");
    let gone = std::thread::spawn(move || {
        pepita_launcher::host::wait::wait_readable(&watched, PATIENCE);
        Instant::now()
    });
    let began = Instant::now();
    kill(killed, Signal::KILL);
    while !dir.join("exit.json").exists() {
        rustix::io::read(&watch, &mut [0_u8; 1024]).expect("an event");
    }
    let written = Instant::now();
    let ended = pepita_launcher::host::wait::wait_readable(&vmm, Duration::ZERO);
    assert!(ended, "the exit record was written while the VMM still ran");
    (written - began, written.saturating_duration_since(gone.join().expect("a moment")))
}

fn killed_vmm(form: Form, rounds: usize) {
    let host = Host::of(form);
    let (mut all, mut ours) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let name = format!("k{round}");
        let status = host.ready(&name, &[]);
        let (since_kill, since_gone) = until_record(&host.vm(&name), status.vmm_pid, status.vmm_pid);
        all.push(since_kill);
        ours.push(since_gone);
        let exit = host.exit(&name);
        let killed = ProcessExit { code: None, signal: Some(9) };
        let expected = (&Exit::VmmCrashed(killed), Some(killed), None);
        assert_eq!((&exit.exit, exit.vmm, exit.daemon_exit()), expected, "{:?}", exit.evidence);
        // A new start with the same name is another incarnation.
        let again = host.start_with(&name, &["--hold"], &[]);
        assert_eq!(again.incarnation, 2);
        host.destroy(&name, &["--force"]);
    }
    figure(&format!("{form:?}: VMM killed -> exit record"), all);
    figure(&format!("{form:?}: VMM gone -> exit record"), ours);
}

#[test]
fn a_killed_vmm_is_a_crash_and_its_record_is_there_at_once() {
    killed_vmm(Form::Qemu, times(3, 50));
}

#[test]
fn a_killed_plain_process_is_a_crash_and_takes_its_daemon_along() {
    killed_vmm(Form::Process, times(5, 50));
}

fn killed_monitor(form: Form) {
    let host = Host::of(form);
    for round in 0..times(2, 50) {
        let name = format!("m{round}");
        let before = host.ready(&name, &[]);
        kill(before.monitor_pid, Signal::KILL);
        // The pause is long enough for processes that would die with the monitor.
        std::thread::sleep(Duration::from_millis(200));
        let orphan = host.status(&name);
        assert_eq!(
            (orphan.state, orphan.monitor_pid, orphan.vmm_pid),
            (VmState::Unknown, None, before.vmm_pid)
        );
        host.ok(&["adopt", "--name", &name]);
        let after =
            host.until(&name, |status| status.agent.ready && status.daemon.state == DaemonState::Ready);
        assert_eq!(
            (after.vmm_pid, after.state, after.daemon.state),
            (before.vmm_pid, VmState::Running, DaemonState::Ready)
        );
        assert!(after.revision > before.revision && after.monitor_pid != before.monitor_pid);
        assert!(after.uptime_ms >= before.uptime_ms);

        // The end of a VMM whose parent is gone has no code, whether or not the VM was adopted. "unknown" is not 0.
        if round % 2 == 0 {
            kill(after.monitor_pid, Signal::KILL);
        }
        kill(after.vmm_pid, Signal::KILL);
        let exit = host.exit(&name);
        assert_eq!((exit.exit, exit.vmm), (Exit::Unknown, None), "{:?}", exit.evidence);
        assert!(host.status(&name).state.is_terminal());
        host.destroy(&name, &[]);
    }
}

#[test]
fn a_vm_outlives_its_monitor_is_adopted_and_its_unseen_end_is_unknown() {
    killed_monitor(Form::Qemu);
}

#[test]
fn a_plain_process_outlives_its_monitor_and_is_adopted() {
    killed_monitor(Form::Process);
}

#[test]
fn the_daemon_s_own_end_is_told_exactly_after_an_adoption() {
    for form in [Form::Qemu, Form::Process] {
        let host = Host::of(form);
        let before = host.ready("a", &["--after", "5000", "--exit", "42"]);
        kill(before.monitor_pid, Signal::KILL);
        let exit = host.exit("a");
        assert_eq!(exit.exit, Exit::code(42));
        host.destroy("a", &[]);
    }
}

#[test]
fn adopters_at_once_make_one_monitor() {
    let host = Host::of(Form::Process);
    let before = host.ready("a", &[]);
    kill(before.monitor_pid, Signal::KILL);
    let adopt = || host.command(&["adopt", "--name", "a", "--json"]).spawn().expect("the program runs");
    let all: Vec<_> = (0..8).map(|_| adopt()).collect();
    for mut one in all {
        assert!(one.wait().expect("an end").success());
    }
    let monitors = processes_in(&host.dir).into_iter().filter(|p| p.what.contains(" monitor ")).count();
    assert_eq!((monitors, host.status("a").vmm_pid), (1, before.vmm_pid));
    host.destroy("a", &[]);
}

#[test]
fn a_killed_back_end_is_a_lost_transport() {
    let host = Host::of(Form::Qemu);
    for round in 0..times(1, 20) {
        let name = format!("b{round}");
        let vmm = host.ready(&name, &[]).vmm_pid;
        let backend = processes_in(&host.dir).into_iter().find(|p| p.what.contains("vhost-device-vsock"));
        let (all, ours) = until_record(&host.vm(&name), backend.map(|p| p.pid), vmm);
        println!("back-end killed -> exit record: {all:?}, of those {ours:?} after the VMM was gone");
        let exit = host.exit(&name);
        assert_eq!(exit.exit, Exit::TransportLost, "{:?}", exit.evidence);
        host.destroy(&name, &[]);
    }
}

#[test]
fn a_guest_that_panics_says_so_with_the_console_s_last_lines() {
    let host = Host::of(Form::Qemu);
    for round in 0..times(2, 50) {
        let name = format!("p{round}");
        host.start(&name, &["--after", "300", "--panic-kernel"]);
        let exit = host.exit(&name);
        assert!(matches!(exit.exit, Exit::GuestPanic { .. }), "{:?}", exit.evidence);
        let told = |lines: &[String]| {
            lines.iter().any(|line| line.contains("Kernel panic - not syncing: sysrq triggered"))
        };
        assert!(told(&exit.evidence) && told(&exit.console), "{:?} {:?}", exit.evidence, exit.console);
        assert!(exit.daemon_exit().is_none() && exit.console.len() > 5, "{:?}", exit.console);
        host.destroy(&name, &[]);
    }
}

/// Stops a VMM unseen by its monitor, which would dial no VM that it has paused, and lets a client ask for a connection
/// that the guest cannot answer before it is resumed.
fn dial_stopped(host: &Host, name: &str) -> UnixStream {
    kill(host.status(name).vmm_pid, Signal::STOP);
    let mut client = UnixStream::connect(host.vm(name).join("ctl.sock")).expect("its monitor");
    client.write_all(b"{\"id\":1,\"method\":\"dial\"}\n").expect("written");
    // The monitor begins the dial before it answers these.
    host.status(name);
    host.status(name);
    client
}

/// Resumes a VM. The back-end of its vsock, which carries every connection, must have survived the pause.
fn resume_and_ping(host: &Host, name: &str) {
    host.ask(name, MonitorRequest::Resume);
    host.until(name, |status| status.agent.ready);
    assert_eq!(host.ask(name, MonitorRequest::Forward(Ask::Ping)), serde_json::json!({}));
    // A client that stays gets a connection, by which it talks to the agent.
    host.dialled(name).ask("ping", serde_json::Value::Null);
}

#[test]
fn a_vm_outlives_a_client_that_hangs_up_before_its_guest_has_answered() {
    let host = Host::of(Form::Qemu);
    host.ready("a", &[]);
    for _ in 0..3 {
        drop(dial_stopped(&host, "a"));
    }
    resume_and_ping(&host, "a");
    host.destroy("a", &[]);
}

#[test]
fn a_vm_whose_back_end_lives_on_without_the_thread_that_serves_the_guest_ends_and_says_why() {
    let host = Host::of(Form::Qemu);
    host.ready("a", &[]);
    // A client that hangs up before the guest has answered makes a thread of vhost-device-vsock panic, if the back-end has
    // read its request by then, and the process goes on.
    let vmm = host.status("a").vmm_pid;
    for _ in 0..10 {
        kill(vmm, Signal::STOP);
        let mut client = UnixStream::connect(host.vm("a").join("v.sock")).expect("the back-end");
        client.write_all(b"CONNECT 5000\n").expect("written");
        // Nothing tells when the back-end has read it.
        std::thread::sleep(Duration::from_millis(200));
        drop(client);
        kill(vmm, Signal::CONT);
        let mut monitor = Client::open(&host.vm("a")).expect("its monitor");
        // An answer of the agent came through the back-end, and without an answer the VM has ended.
        if !matches!(monitor.ask(MonitorRequest::Forward(Ask::Ping), Some(PATIENCE)), Ok(Ok(_))) {
            break;
        }
    }
    let exit = host.exit("a");
    assert_eq!(exit.exit, Exit::TransportLost, "{:?}", exit.evidence);
    let told = |what: &str| exit.evidence.iter().any(|text| text.contains(what));
    assert!(told("vring_worker has ended") && told("panicked at"), "{:?}", exit.evidence);
    host.destroy("a", &[]);
}

/// Returns the number of open descriptors of a process.
fn descriptors(pid: Option<u32>) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", pid.expect("a process"))).expect("it runs").count()
}

#[test]
fn a_vm_outlives_monitors_that_are_killed_before_its_guest_has_answered() {
    let host = Host::of(Form::Qemu);
    let first = host.ready("a", &[]);
    let mut counts = Vec::new();
    // The first of these monitors has started the VM, the others have adopted it.
    for _ in 0..3 {
        let before = host.status("a");
        let _client = dial_stopped(&host, "a");
        kill(before.monitor_pid, Signal::KILL);
        host.ok(&["adopt", "--name", "a"]);
        resume_and_ping(&host, "a");
        counts.push(descriptors(first.vmm_pid));
    }
    assert_eq!(host.status("a").vmm_pid, first.vmm_pid);
    // What QEMU holds for the former monitors is given back.
    assert!(counts[2] <= counts[0] + 1, "{counts:?}");
    host.destroy("a", &[]);
}
