//! Tests that a stop keeps its one deadline, even if the daemon, the agent or the monitor does not cooperate.

use crate::host::{Form, Host, SLACK, errors, kill, times};
use rustix::process::Signal;
use std::process::Stdio;
use std::time::{Duration, Instant};

fn within(what: &str, took: Duration, deadline: Duration) {
    println!("{what}: {took:?} of {deadline:?}");
    assert!(took < deadline + Duration::from_secs(1) + SLACK, "{what}: {took:?}");
}

const SECOND: Duration = Duration::from_secs(1);

fn ignored_term(form: Form) {
    let host = Host::of(form);
    host.ready("a", &["--ignore-term"]);
    within("TERM is ignored", host.destroy("a", &["--timeout", "1s"]), SECOND);
    host.ready("a", &[]);
    within("TERM is heard", host.destroy("a", &["--timeout", "60s"]), Duration::ZERO);
}

fn dead_agent(form: Form) {
    let host = Host::of(form);
    let status = host.ready("a", &[]);
    // The whole guest, or the agent of a plain process, is stopped.
    kill(status.vmm_pid, Signal::STOP);
    within("the agent is deaf", host.destroy("a", &["--timeout", "1s"]), SECOND);
}

fn stopped_twice(form: Form) {
    let host = Host::of(form);
    host.ready("a", &["--ignore-term"]);
    let began = Instant::now();
    let stop = |timeout| {
        let args = ["destroy", "--name", "a", "--timeout", timeout];
        host.command(&args).stdout(Stdio::null()).spawn().expect("the program runs")
    };
    let mut all = [stop("2s"), stop("60s"), stop("60s")];
    for one in &mut all {
        assert!(one.wait().expect("an end").success());
    }
    within("stopped three times", began.elapsed(), 2 * SECOND);

    // A forced end in the middle of a graceful stop.
    host.ready("a", &["--ignore-term"]);
    let mut graceful = stop("60s");
    host.until("a", |status| status.state == pepita_wire::VmState::Stopping);
    within("destroyed in the middle of a stop", host.destroy("a", &["--force"]), Duration::ZERO);
    assert!(graceful.wait().expect("an end").success());
}

fn in_the_middle_of_boot(form: Form) {
    let host = Host::of(form);
    for round in 0..times(4, 40) {
        let run = host.run("a", &["--daemon"], &[]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn();
        let run = run.expect("the program runs");
        std::thread::sleep(Duration::from_millis(40 * round as u64));
        let options: &[&str] = if round % 2 == 0 { &[] } else { &["--force"] };
        // The order may come before there is a VM to destroy. In that case the launch continues, and its directory
        // exists.
        let began = Instant::now();
        host.ok(&[&["destroy", "--name", "a"], options].concat());
        within("destroyed in the middle of boot", began.elapsed(), Duration::ZERO);
        let run = run.wait_with_output().expect("an end");
        // The VM was up, or was ended on the way.
        assert!(matches!(run.status.code(), Some(0 | 75)), "{}", errors(&run));
        // If the order came before there was a VM, the VM exists now.
        host.ok(&["destroy", "--name", "a", "--force"]);
    }
}

fn deaf_monitor(form: Form) {
    let host = Host::of(form);
    let status = host.ready("a", &[]);
    kill(status.monitor_pid, Signal::STOP);
    let took = host.destroy("a", &["--force"]);
    println!("destroyed with a monitor that stands still: {took:?}");
    assert!(took < Duration::from_secs(25), "{took:?}");
}

#[test]
fn a_daemon_that_ignores_term_is_killed_at_the_deadline() {
    ignored_term(Form::Qemu);
    ignored_term(Form::Process);
}

#[test]
fn a_dead_agent_does_not_hold_up_the_end() {
    dead_agent(Form::Qemu);
    dead_agent(Form::Process);
}

#[test]
fn a_stop_asked_for_again_extends_nothing_and_force_overtakes_it() {
    stopped_twice(Form::Qemu);
    stopped_twice(Form::Process);
}

#[test]
fn a_vm_is_destroyed_in_the_middle_of_its_boot() {
    in_the_middle_of_boot(Form::Qemu);
    in_the_middle_of_boot(Form::Process);
}

#[test]
fn a_monitor_that_stands_still_is_ended_with_its_vm() {
    deaf_monitor(Form::Process);
}
