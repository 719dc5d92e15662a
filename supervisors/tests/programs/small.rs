//! Tests of the small supervisors: each program ends by itself, shows its strategy, and leaves no process or file
//! behind.

use crate::host::{Daemon, Host, program};
use std::process::Command;

/// Runs a program to its end and returns its output.
fn run(name: &str) -> Vec<String> {
    let host = Host::new("", "");
    let mut program = Daemon::start(Command::new(program(name)).env("PEPITA_RUN_DIR", host.path("r")));
    let status = program.end();
    assert!(status.success(), "{status}:\n{}", program.story());
    host.assert_nothing_left();
    program.seen.clone()
}

/// Returns the VMs in the order of the configuration, and whether each was restarted.
fn restarted(output: &[String]) -> Vec<(&str, bool)> {
    let row = |line: &'_ String| -> Option<(usize, bool)> {
        let (name, what) = line.rsplit_once(": ")?;
        match what {
            "restarted" => Some((name.len(), true)),
            "not restarted" => Some((name.len(), false)),
            _ => None,
        }
    };
    output.iter().filter_map(|line| row(line).map(|(end, restarted)| (&line[..end], restarted))).collect()
}

#[test]
fn one_for_one_restarts_the_failed_vm() {
    let output = run("one_for_one");
    assert_eq!(restarted(&output), [("worker-1", false), ("worker-2", true), ("worker-3", false)]);
}

#[test]
fn one_for_all_restarts_all_vms() {
    let output = run("one_for_all");
    assert_eq!(restarted(&output), [("member-1", true), ("member-2", true), ("member-3", true)]);
}

#[test]
fn rest_for_one_restarts_the_failed_vm_and_those_after_it() {
    let output = run("rest_for_one");
    let expected = [("source", false), ("filter", true), ("sink", true), ("report", false)];
    assert_eq!(restarted(&output), expected);
}

#[test]
fn embedded_does_its_own_work_until_its_job_has_ended() {
    let output = run("embedded");
    let work =
        output.iter().find_map(|line| line.strip_prefix("meanwhile this program did ")).expect("a line");
    let pieces: u32 = work.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
    assert!(pieces > 0, "{output:?}");
}
