//! Virtual CPUs stand still and run again.

use crate::support::{Form, SLACK, World, figure, kill, times};
use pepita_wire::VmState;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime};

fn pauses(form: Form, rounds: usize) {
    let world = World::new(form);
    world.ready("a", &["--interval", "20"]);
    let mut link = world.link("a");
    let mut figures = Vec::new();
    for _ in 0..rounds {
        let began = Instant::now();
        world.ok(&["signal", "--name", "a", "--signal", "STOP"]);
        assert_eq!(world.status("a").state, VmState::Paused);
        world.ok(&["signal", "--name", "a", "--signal", "CONT"]);
        assert_eq!(world.status("a").state, VmState::Running);
        // The conversation has survived.
        link.ask("ping", Value::Null);
        figures.push(began.elapsed());
    }
    figure(&format!("{form:?}: pause, resume, ping"), figures);

    world.ok(&["signal", "--name", "a", "--signal", "STOP"]);
    let took = world.destroy("a", &[]);
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
        let world = World::new(form);
        let before = world.ready("a", &[]);
        world.ok(&["signal", "--name", "a", "--signal", "STOP"]);
        kill(before.monitor_pid, Signal::KILL);
        // Returns, though the agent cannot answer.
        world.ok(&["adopt", "--name", "a"]);
        world.until("a", |status| status.state == VmState::Paused);
        world.ok(&["signal", "--name", "a", "--signal", "CONT"]);
        world.until("a", |status| status.state == VmState::Running && status.agent.ready);
        world.ok(&["signal", "--name", "a", "--signal", "STOP"]);
        let took = world.destroy("a", &[]);
        assert!(took < Duration::from_secs(1) + SLACK, "{took:?}");
    }
}

#[test]
fn a_resumed_guest_has_the_right_time() {
    let world = World::new(Form::Qemu);
    world.ready("a", &[]);
    world.ok(&["signal", "--name", "a", "--signal", "STOP"]);
    std::thread::sleep(Duration::from_secs(3));
    world.ok(&["signal", "--name", "a", "--signal", "CONT"]);
    let command = ["/usr/bin/ticker", "--no-ready", "--show", "clock", "--exit", "0"];
    let answer = world.ask("a", "exec", json!({ "command": command }));
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_millis();
    let output = answer["output"].as_str().unwrap_or_default();
    let guest: u128 = output.trim().strip_prefix("clock=").and_then(|ms| ms.parse().ok()).expect("a time");
    println!("the guest's clock after 3 s of pause: {} ms off", now.abs_diff(guest));
    assert!(now.abs_diff(guest) < 2000, "{output}");
    world.destroy("a", &[]);
}
