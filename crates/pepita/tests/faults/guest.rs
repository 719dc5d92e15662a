//! Tests of the agent in the guest: memory, sd_notify, commands.

use crate::host::{Form, Host, times};
use pepita_wire::record::DaemonState;
use pepita_wire::{ErrorKind, Exit, GuestEvent};
use serde_json::json;

#[test]
fn a_daemon_that_eats_the_guest_s_memory_is_told_as_that_and_the_agent_survives() {
    let host = Host::of(Form::Qemu);
    for round in 0..times(1, 20) {
        let name = format!("o{round}");
        host.start(&name, &["--eat", "4096"]);
        let exit = host.exit(&name);
        assert_eq!(exit.exit, Exit::GuestOom, "{:?} {:?}", exit.evidence, exit.console);
        assert!(exit.evidence.iter().any(|e| e.contains("over vsock")), "{:?}", exit.evidence);
        host.destroy(&name, &[]);
    }
}

#[test]
fn a_command_that_eats_the_guest_s_memory_takes_neither_daemon_nor_agent() {
    let host = Host::of(Form::Qemu);
    host.ready("a", &[]);
    let command = ["/usr/bin/ticker", "--no-ready", "--eat", "4096", "--exit", "0"];
    let eater = host.exec("a", &command, 0);
    assert!(matches!(eater.exit, Exit::GuestOom | Exit::Signalled { signal: 9, .. }), "{eater:?}");
    let other = host.exec("a", &["/usr/bin/ticker", "--no-ready", "--show", "cpus", "--exit", "3"], 0);
    assert_eq!((other.exit, other.output.as_str()), (Exit::code(3), "cpus=1\n"));
    host.destroy("a", &[]);
}

// Without this device the first getrandom(2) of a guest waits for about a second.
#[test]
fn a_guest_has_a_source_of_entropy_from_its_host() {
    let host = Host::of(Form::Qemu);
    host.ready("a", &[]);
    let cat =
        ["/usr/bin/ticker", "--no-ready", "--cat", "/sys/class/misc/hw_random/rng_current", "--exit", "0"];
    assert_eq!(host.exec("a", &cat, 0).output.trim(), "virtio_rng.0");
    host.destroy("a", &[]);
}

#[test]
fn what_the_daemon_says_of_itself_is_heard() {
    for form in [Form::Qemu, Form::Process] {
        let host = Host::of(form);
        host.start("a", &["--ready-after", "300", "--watchdog", "50"]);
        host.until("a", |status| matches!(status.daemon.state, DaemonState::Running | DaemonState::Ready));
        let status = host.until("a", |status| status.daemon.state == DaemonState::Ready);
        let status = if status.daemon.status.is_empty() {
            host.until("a", |s| !s.daemon.status.is_empty())
        } else {
            status
        };
        assert_eq!(status.daemon.status, "ticking");
        let mut link = host.link("a");
        link.watch();
        assert!(
            matches!(link.until(|e| matches!(e, GuestEvent::Started { .. })), GuestEvent::Started { pid } if pid > 1)
        );
        link.until(|event| *event == GuestEvent::Ready);
        for _ in 0..3 {
            link.until(|event| matches!(event, GuestEvent::Health(health) if health.watchdog));
        }
        // The first events of the daemon are still reported after any number of heartbeats.
        let mut late = host.link("a");
        late.watch();
        late.until(|event| matches!(event, GuestEvent::Health(health) if health.status.as_deref() == Some("ticking")));
        host.ok(&["signal", "--name", "a", "--signal", "TERM"]);
        assert_eq!(host.exit("a").exit, Exit::code(0));
        host.destroy("a", &[]);
    }
}

#[test]
fn a_signal_that_ends_the_daemon_is_answered_before_its_end_is_told() {
    for (form, rounds) in [(Form::Qemu, times(1, 20)), (Form::Process, times(20, 200))] {
        let host = Host::of(form);
        for _ in 0..rounds {
            host.ready("a", &[]);
            let mut link = host.link("a");
            link.watch();
            link.ask("signal", json!({ "signal": 10 }));
            let has_ended = |event: &GuestEvent| matches!(event, GuestEvent::Exited(_));
            assert!(!link.has_heard(has_ended), "{form:?}");
            assert_eq!(link.until(has_ended), GuestEvent::Exited(Exit::signal(10)));
            assert_eq!(host.exit("a").exit, Exit::signal(10));
            host.destroy("a", &[]);
        }
    }
}

#[test]
fn a_microvm_that_is_signalled_while_it_boots_is_stopped_or_gets_the_signal_when_it_runs() {
    // semantics 7.15: what a client does: start, ask for the status, signal.
    let host = Host::of(Form::Qemu);
    host.start("t", &[]);
    assert!(host.ok(&["status", "--name", "t"]).contains("\"state\": \"running\""));
    host.ok(&["signal", "--name", "t", "--signal", "TERM"]);
    assert_eq!(host.exit("t").exit, Exit::StopRequested);
    host.destroy("t", &[]);
    host.start("u", &[]);
    host.ok(&["signal", "--name", "u", "--signal", "USR1"]);
    assert_eq!(host.exit("u").exit, Exit::signal(10));
    host.destroy("u", &[]);
}

#[test]
fn a_command_runs_in_the_guest_and_its_end_and_output_come_back() {
    for form in [Form::Qemu, Form::Process] {
        let host = Host::of(form);
        host.ready("a", &[]);
        let ticker = match form {
            Form::Qemu => "/usr/bin/ticker".to_owned(),
            Form::Process => crate::host::guest_file("ticker").to_string_lossy().into_owned(),
        };
        let printed = host.exec("a", &[&ticker, "--no-ready", "--print", "128", "--exit", "7"], 0);
        assert_eq!((printed.exit, printed.output.len()), (Exit::code(7), 128));
        let endless = host.exec("a", &[&ticker, "--no-ready"], 300);
        assert_eq!((endless.timed_out, endless.exit), (true, Exit::signal(9)));
        let none = host.exec("a", &["/nowhere"], 0);
        assert!(matches!(none.exit, Exit::NotExecutable { errno: 2, .. }), "{none:?}");

        // With `bulk`, the connection carries the raw output.
        let mut link = host.link("a");
        let refused = link.outcome("exec", json!({ "command": ["/nowhere"], "bulk": true }));
        assert_eq!(refused.map_err(|e| e.kind), Err(ErrorKind::Os));
        let print = [&*ticker, "--no-ready", "--print", "1048576", "--exit", "7"];
        link.ask("exec", json!({ "command": print, "bulk": true }));
        let printed = String::from_utf8(link.rest()).expect("digits");
        let numbers = printed.lines().map(|line| line.parse::<u64>().expect("a number"));
        assert!(numbers.eq(0..1_048_576 / 64), "not a byte lost");
        host.destroy("a", &[]);
    }
}

#[test]
fn the_status_says_truthfully_how_limits_are_held() {
    let host = Host::of(Form::Qemu);
    let status = host.start_with("a", &["--hold"], &[]);
    let cgroup =
        std::fs::read_to_string(format!("/proc/{}/cgroup", status.vmm_pid.expect("a VMM"))).expect("a VMM");
    println!("limits: {}", status.limits);
    assert_eq!(
        status.limits == "cgroup2",
        cgroup.lines().any(|line| line.starts_with("0::") && line.ends_with("-a"))
    );
    let limits =
        std::fs::read_to_string(format!("/proc/{}/limits", status.vmm_pid.expect("a VMM"))).expect("a VMM");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    host.destroy("a", &["--force"]);
}
