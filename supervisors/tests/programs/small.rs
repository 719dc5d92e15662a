//! The small supervisors: each runs to its end by itself, shows its one thing, and leaves nothing.

use crate::host::{Daemon, Host, program};
use std::process::Command;

fn run(name: &str) -> Daemon {
    let host = Host::new("", "");
    let mut daemon = Daemon::start(Command::new(program(name)).env("PEPITA_RUN_DIR", host.path("r")));
    let status = daemon.end();
    assert!(status.success(), "{status}:\n{}", daemon.story());
    host.assert_nothing_left();
    daemon
}

#[test]
fn one_for_one_restarts_the_one() {
    run("one_for_one").assert_order(&[
        "worker-2 #1: ready -> backoff",
        "worker-2 #2: backoff -> starting",
        "worker-1 was not touched",
        "worker-2 was restarted",
        "worker-3 was not touched",
        "stopped",
    ]);
}

#[test]
fn one_for_all_restarts_all() {
    run("one_for_all").assert_order(&[
        "member-1 was restarted",
        "member-2 was restarted",
        "member-3 was restarted",
        "stopped",
    ]);
}

#[test]
fn rest_for_one_restarts_the_rest() {
    run("rest_for_one").assert_order(&[
        "source was not touched",
        "filter was restarted",
        "sink was restarted",
        "report was not touched",
        "stopped",
    ]);
}

#[test]
fn embedded_ends_with_its_job() {
    let daemon = run("embedded");
    daemon.assert_order(&["job #1: running -> ready", "jobs has ended", "stopped"]);
}
