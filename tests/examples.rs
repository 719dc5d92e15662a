//! Every example ends by itself, prints the expected lines, and leaves no process behind. The VMs are plain processes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The time limit of an example. It is shorter than a daemon's grace, so that no example may wait until a grace is
/// over.
const PATIENCE: Duration = Duration::from_secs(29);

fn target() -> PathBuf {
    let own = std::env::current_exe().expect("our own path");
    own.ancestors().nth(2).expect("target/<profile>/deps/<test>").to_owned()
}

/// Runs an example and returns its output.
fn run(name: &str) -> String {
    let (target, dir) =
        (target(), tempfile::Builder::new().prefix("px").tempdir_in("/tmp").expect("a folder"));
    let pepita = target.join("pepita");
    assert!(pepita.exists(), "{}: run `cargo build --workspace --bins` first", pepita.display());
    let example = target.join("examples").join(name);
    assert!(example.exists(), "{}: run `cargo build --examples` first", example.display());
    let began = Instant::now();
    let mut command = Command::new("timeout");
    command.arg("120").arg(example);
    let output = command.env("PEPITA_RUN_DIR", dir.path()).output().unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(began.elapsed() < PATIENCE, "{name} took {:?}", began.elapsed());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let list = |args: &[&str]| {
        let output = Command::new(&pepita).arg("--run-dir").arg(dir.path()).args(args).output();
        String::from_utf8_lossy(&output.expect("pepita runs").stdout).into_owned()
    };
    let left = list(&["list", "--format", "name"]);
    for vm in left.lines() {
        list(&["destroy", "--force", "--name", vm]);
    }
    assert!(output.status.success(), "{name}: {output:?}");
    assert_eq!(left, "", "{name} has left VMs");
    text
}

fn assert_order(text: &str, words: &[&str]) {
    let mut lines = text.lines();
    for word in words {
        assert!(lines.any(|line| line.contains(word)), "{word:?} is missing or too early:\n{text}");
    }
}

#[test]
fn embed() {
    assert_order(&run("embed"), &["job #1: waiting -> starting", "ready: 1 VMs"]);
}

#[test]
fn react_to_events() {
    let words = ["flaky comes back in", "flaky comes back in", "flaky needs a person", "exit 3"];
    assert_order(&run("react_to_events"), &[&words[..], &["stopped"]].concat());
}

#[test]
fn on_demand() {
    assert_order(&run("on_demand"), &["both are ready", "ann has gone, bob is ready", "stopped"]);
}

#[test]
fn talk_to_a_guest() {
    let words =
        ["the daemon runs with pid Some(", "hello from Linux (exit 0)", "no VM \"nobody\"", "stopped"];
    assert_order(&run("talk_to_a_guest"), &words);
}

#[test]
fn exit_codes() {
    let words = [
        "-> backoff; exit 75; restart in 0.1 s: its code is in always_restart_exit_codes",
        "importer #2",
        "failed",
        "stopped",
    ];
    assert_order(&run("exit_codes"), &words);
}

#[test]
fn health_service() {
    assert_order(&run("health_service"), &["200 OK", "503 Service Unavailable", "stopped"]);
}

#[test]
fn every_example_is_here() {
    let own = include_str!("examples.rs");
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for file in dir.read_dir().expect("examples/").flatten() {
        let name = file.path().file_stem().expect("a name").to_string_lossy().into_owned();
        assert!(own.contains(&format!("run(\"{name}\")")), "{name} is not run");
        let lines = std::fs::read_to_string(file.path()).expect("text").lines().count();
        assert!(lines < 60, "{name} has {lines} lines");
    }
}
