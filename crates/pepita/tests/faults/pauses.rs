//! Tests of paused and resumed virtual CPUs.

use crate::host::{Form, Host, SLACK, figure, kill, times};
use pepita_wire::agent::Exec;
use pepita_wire::{Ask, Exit, MonitorRequest, VmState};
use rustix::process::Signal;
use serde_json::Value;
use std::time::{Duration, Instant, SystemTime};

fn pauses(form: Form, rounds: usize) {
    let host = Host::of(form);
    host.ready("a", &["--interval", "20"]);
    let mut link = host.link("a");
    let mut figures = Vec::new();
    for _ in 0..rounds {
        let began = Instant::now();
        host.ok(&["signal", "--name", "a", "--signal", "STOP"]);
        assert_eq!(host.status("a").state, VmState::Paused);
        host.ok(&["signal", "--name", "a", "--signal", "CONT"]);
        assert_eq!(host.status("a").state, VmState::Running);
        // The conversation continues after the pauses.
        link.ask("ping", Value::Null);
        figures.push(began.elapsed());
    }
    figure(&format!("{form:?}: pause, resume, ping"), figures);

    host.ok(&["signal", "--name", "a", "--signal", "STOP"]);
    let took = host.destroy("a", &[]);
    println!("{form:?}: destroyed while paused in {took:?}");
    assert!(took < Duration::from_secs(1) + SLACK, "{took:?}");
}

#[test]
fn a_vm_is_paused_and_resumed_again_and_again_with_a_link_open() {
    pauses(Form::Qemu, times(10, 50));
}

#[test]
fn a_plain_process_is_paused_and_resumed_again_and_again() {
    pauses(Form::Process, times(10, 50));
}

#[test]
fn a_paused_vm_is_paused_for_the_monitor_that_adopts_it_too() {
    for form in [Form::Qemu, Form::Process] {
        let host = Host::of(form);
        let before = host.ready("a", &[]);
        host.ok(&["signal", "--name", "a", "--signal", "STOP"]);
        kill(before.monitor_pid, Signal::KILL);
        // The adoption returns, although the agent cannot answer.
        host.ok(&["adopt", "--name", "a"]);
        host.until("a", |status| status.state == VmState::Paused);
        host.ok(&["signal", "--name", "a", "--signal", "CONT"]);
        host.until("a", |status| status.state == VmState::Running && status.agent.ready);
        host.ok(&["signal", "--name", "a", "--signal", "STOP"]);
        let took = host.destroy("a", &[]);
        assert!(took < Duration::from_secs(1) + SLACK, "{took:?}");
    }
}

#[test]
fn a_paused_vm_is_adopted_however_many_of_its_monitors_were_killed_and_tells_of_its_panic_later() {
    let host = Host::of(Form::Qemu);
    host.ready("a", &[]);
    host.ok(&["signal", "--name", "a", "--signal", "STOP"]);
    // QEMU is stopped and takes none of these connections, and the backlog of its socket has a length of one.
    for _ in 0..5 {
        kill(host.status("a").monitor_pid, Signal::KILL);
        host.ok(&["adopt", "--name", "a"]);
        host.until("a", |status| status.state == VmState::Paused);
    }
    host.ok(&["signal", "--name", "a", "--signal", "CONT"]);
    host.until("a", |status| status.state == VmState::Running && status.agent.ready);
    // QEMU alone tells of a panic.
    let command = ["/usr/bin/ticker", "--no-ready", "--after", "3000", "--panic-kernel"];
    let exec = Exec { command: command.map(str::to_owned).into(), timeout_ms: 0, bulk: false };
    let exec = MonitorRequest::Forward(Ask::Exec(exec));
    let _ = pepita_launcher::client::ask(&host.vm("a"), exec);
    let exit = host.exit("a");
    assert!(matches!(exit.exit, Exit::GuestPanic { .. }), "{:?} {:?}", exit.exit, exit.evidence);
    host.destroy("a", &[]);
}

#[test]
fn a_signal_to_a_paused_vm_is_refused_and_never_delivered_except_kill() {
    // semantics 7.15
    let host = Host::of(Form::Process);
    host.ready("a", &[]);
    host.ok(&["signal", "--name", "a", "--signal", "STOP"]);
    for signal in ["TERM", "USR1"] {
        let refused = host.fails(&["signal", "--name", "a", "--signal", signal], 75);
        assert!(refused.contains("the VM is paused; resume it first"), "{refused}");
    }
    host.ok(&["signal", "--name", "a", "--signal", "CONT"]);
    // A command goes to the agent on the line that the signals would have taken.
    assert_eq!(host.exec("a", &["/bin/true"], 0).exit, Exit::code(0));
    assert_eq!(host.status("a").state, VmState::Running);
    host.ok(&["signal", "--name", "a", "--signal", "STOP"]);
    host.ok(&["signal", "--name", "a", "--signal", "KILL"]);
    assert_eq!(host.exit("a").exit, Exit::Killed);
    host.destroy("a", &["--force"]);
}

#[test]
fn a_resumed_guest_has_the_right_time() {
    let host = Host::of(Form::Qemu);
    host.ready("a", &[]);
    host.ok(&["signal", "--name", "a", "--signal", "STOP"]);
    std::thread::sleep(Duration::from_secs(3));
    host.ok(&["signal", "--name", "a", "--signal", "CONT"]);
    let command = ["/usr/bin/ticker", "--no-ready", "--show", "clock", "--exit", "0"];
    let output = host.exec("a", &command, 0).output;
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_millis();
    let guest: u128 = output.trim().strip_prefix("clock=").and_then(|ms| ms.parse().ok()).expect("a time");
    println!("the guest's clock after 3 s of pause: {} ms off", now.abs_diff(guest));
    assert!(now.abs_diff(guest) < 2000, "{output}");
    host.destroy("a", &[]);
}
