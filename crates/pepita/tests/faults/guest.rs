//! What the agent in the guest does: memory, sd_notify, commands.

use crate::support::{Form, World, times};
use pepita_wire::record::DaemonState;
use pepita_wire::{ErrorKind, Exit, GuestEvent};
use serde_json::json;

#[test]
fn a_daemon_that_eats_the_guest_s_memory_is_told_as_that_and_the_agent_survives() {
    let world = World::new(Form::Qemu);
    for round in 0..times(1, 20) {
        let name = format!("o{round}");
        world.start(&name, &["--eat", "4096"]);
        let exit = world.exit(&name);
        assert_eq!(exit.exit, Exit::GuestOom, "{:?} {:?}", exit.evidence, exit.console);
        assert!(exit.evidence.iter().any(|e| e.contains("over vsock")), "{:?}", exit.evidence);
        world.destroy(&name, &[]);
    }
}

#[test]
fn a_command_that_eats_the_guest_s_memory_takes_neither_daemon_nor_agent() {
    let world = World::new(Form::Qemu);
    world.ready("a", &[]);
    let command = ["/usr/bin/ticker", "--no-ready", "--eat", "4096", "--exit", "0"];
    let answer = world.ask("a", "exec", json!({ "command": command }));
    assert_eq!(answer["exit"]["signal"], json!(9), "{answer}");
    let answer = world.ask(
        "a",
        "exec",
        json!({ "command": ["/usr/bin/ticker", "--no-ready", "--show", "cpus", "--exit", "3"] }),
    );
    assert_eq!((&answer["exit"]["code"], &answer["output"]), (&json!(3), &json!("cpus=1\n")));
    world.destroy("a", &[]);
}

#[test]
fn what_the_daemon_says_of_itself_is_heard() {
    for form in [Form::Qemu, Form::Process] {
        let world = World::new(form);
        world.start("a", &["--ready-after", "300", "--watchdog", "50"]);
        world.until("a", |status| matches!(status.daemon.state, DaemonState::Running | DaemonState::Ready));
        let status = world.until("a", |status| status.daemon.state == DaemonState::Ready);
        let status = if status.daemon.status.is_empty() {
            world.until("a", |s| !s.daemon.status.is_empty())
        } else {
            status
        };
        assert_eq!(status.daemon.status, "ticking");
        let mut link = world.link("a");
        link.watch();
        assert!(
            matches!(link.until(|e| matches!(e, GuestEvent::Started { .. })), GuestEvent::Started { pid } if pid > 1)
        );
        link.until(|event| *event == GuestEvent::Ready);
        for _ in 0..3 {
            link.until(|event| matches!(event, GuestEvent::Health(health) if health.watchdog));
        }
        // However often it has said that it lives, what it said at first is still to be heard.
        let mut late = world.link("a");
        late.watch();
        late.until(|event| matches!(event, GuestEvent::Health(health) if health.status.as_deref() == Some("ticking")));
        world.ok(&["signal", "--name", "a", "--signal", "TERM"]);
        assert_eq!(world.exit("a").exit, Exit::code(0));
        world.destroy("a", &[]);
    }
}

#[test]
fn a_command_runs_in_the_guest_and_its_end_and_output_come_back() {
    for form in [Form::Qemu, Form::Process] {
        let world = World::new(form);
        world.ready("a", &[]);
        let ticker = match form {
            Form::Qemu => "/usr/bin/ticker".to_owned(),
            Form::Process => crate::support::guest_file("ticker").to_string_lossy().into_owned(),
        };
        let exec = |params| world.ask("a", "exec", params);
        let answer = exec(json!({ "command": [ticker, "--no-ready", "--print", "128", "--exit", "7"] }));
        assert_eq!(
            (&answer["exit"]["code"], answer["output"].as_str().map(str::len)),
            (&json!(7), Some(128))
        );
        let answer = exec(json!({ "command": [ticker, "--no-ready"], "timeout_ms": 300 }));
        assert_eq!((&answer["timed_out"], &answer["exit"]["signal"]), (&json!(true), &json!(9)));
        let answer = exec(json!({ "command": ["/nowhere"] }));
        assert_eq!(answer["exit"]["exec"]["errno"], json!(2));

        // In bulk the connection is its output.
        let mut link = world.link("a");
        let refused = link.outcome("exec", json!({ "command": ["/nowhere"], "bulk": true }));
        assert_eq!(refused.map_err(|e| e.kind), Err(ErrorKind::Os));
        let print = [&*ticker, "--no-ready", "--print", "1048576", "--exit", "7"];
        link.ask("exec", json!({ "command": print, "bulk": true }));
        let printed = String::from_utf8(link.rest()).expect("digits");
        let numbers = printed.lines().map(|line| line.parse::<u64>().expect("a number"));
        assert!(numbers.eq(0..1_048_576 / 64), "not a byte lost");
        world.destroy("a", &[]);
    }
}

#[test]
fn the_status_says_truthfully_how_limits_are_held() {
    let world = World::new(Form::Qemu);
    let status = world.start_with("a", &["--hold"], &[]);
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
    world.destroy("a", &["--force"]);
}
