//! `pepitad` from its start to its end, and every way in which it refuses to start.

use crate::events::{self, Pattern, vm};
use crate::host::{Daemon, Host, group, program, stderr, stdout, ticker};
use serde_json::Value;
use std::os::unix::net::UnixListener;
use std::process::Command;

fn code(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().expect("the program runs");
    (output.status.code(), stdout(&output), stderr(&output))
}

#[test]
fn sigterm_stops_the_vms_in_reverse_order() {
    let host = Host::new("", &group(&["a", "b"]));
    let mut daemon = host.start();
    let started = daemon.until_event(Pattern::Note("started"));
    assert_eq!((&started["note"]["vms"], &started["note"]["groups"]), (&2.into(), &1.into()));
    daemon.until_event(Pattern::TreeReady);
    daemon.stop();
    daemon.assert_order(&[
        vm("a", 1, "ready"),
        vm("b", 1, "ready"),
        Pattern::TreeReady,
        Pattern::Note("stopping"),
        vm("b", 1, "stopped"),
        vm("a", 1, "stopping"),
        vm("a", 1, "stopped"),
        Pattern::TreeEnded,
    ]);
    host.assert_nothing_left();
}

#[test]
fn for_people_each_event_is_a_line_with_a_time() {
    let host = Host::new("", &group(&["a"]));
    let mut daemon = Daemon::start(&mut host.pepitad(&[]));
    host.ctl_ok(&["wait"]);
    let events = host.ctl_ok(&["events", "--json"]);
    daemon.stop();
    for event in events.lines().filter_map(events::parse) {
        let text = event["text"].as_str().expect("a sentence");
        assert!(daemon.seen.iter().any(|line| line.ends_with(text)), "{text:?}\n{}", daemon.story());
    }
    for line in &daemon.seen {
        let time = line.split(' ').next().unwrap_or_default();
        let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "00:00:00.000", "a time, and no colours in a pipe: {line}");
    }
    host.assert_nothing_left();
}

#[test]
fn with_json_each_line_is_an_event() {
    let host = Host::new("", &group(&["a"]));
    let mut daemon = host.start();
    daemon.until_event(Pattern::TreeReady);
    daemon.stop();
    let events: Vec<Value> = daemon
        .seen
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let seqs: Vec<u64> = events.iter().filter_map(|event| event["seq"].as_u64()).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "from the first event on, none is missing");
    assert!(events.iter().any(|event| event["event"] == "supervisor"));
    host.assert_nothing_left();
}

#[test]
fn with_quiet_nothing_is_printed() {
    let host = Host::new("", &group(&["a"]));
    let mut daemon = Daemon::start(&mut host.pepitad(&["--quiet"]));
    host.ctl_ok(&["wait"]);
    daemon.stop();
    assert_eq!(daemon.seen, [] as [&str; 0]);
    host.assert_nothing_left();
}

#[test]
fn all_mistakes_are_printed_at_once_and_nothing_is_started() {
    let host = Host::new("on_exti = \"stop\"", "[[group]]\nname = \"web\"\nstrategy = \"one_for_some\"\n");
    for args in [&[][..], &["--check"]] {
        let (code, out, err) = code(&mut host.pepitad(args));
        assert_eq!((code, out.as_str()), (Some(78), ""), "{err}");
        assert!(err.contains("on_exti") && err.contains("one_for_some"), "both mistakes: {err}");
    }
    host.assert_nothing_left();
}

#[test]
fn a_check_gives_advice_and_starts_nothing() {
    let host = Host::new(
        "",
        &format!("[[group]]\nname = \"web\"\nintensity = 1\n{}{}", ticker("a", &[]), ticker("b", &[])),
    );
    let (code, out, err) = code(&mut host.pepitad(&["--check"]));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("too few for 2 VMs") && out.contains("good; 2 VMs in 1 group"), "{out}");
    assert!(!host.path("s").exists() && !host.path("c").exists());
}

#[test]
fn memory_in_which_the_images_cannot_boot_is_refused_by_a_check() {
    let host = Host::with_microvms(&group(&["a"]));
    let (good, out, err) = code(&mut host.pepitad(&["--check"]));
    assert_eq!(good, Some(0), "{out}{err}");
    let text = std::fs::read_to_string(host.path("c.toml")).expect("written before");
    for memory in [32, 48, 64] {
        let text = text.replace("memory_mb = 128", &format!("memory_mb = {memory}"));
        std::fs::write(host.path("c.toml"), text).expect("written");
        let (code, _, err) = code(&mut host.pepitad(&["--check"]));
        assert_eq!(code, Some(78), "{memory}: {err}");
        assert!(err.contains("too little: this kernel and root need"), "{memory}: {err}");
    }
    host.assert_nothing_left();
}

#[test]
fn the_schema_is_printed_without_a_configuration() {
    let mut pepitad = std::process::Command::new(env!("CARGO_BIN_EXE_pepitad"));
    let output = pepitad.arg("--schema").output().expect("the program runs");
    assert!(output.status.success());
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(schema, pepita_supervisor::config::schema());
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_pepitad")).output().expect("the program runs");
    assert_eq!(output.status.code(), Some(64), "without --schema a configuration is required");
}

#[test]
fn a_second_supervisor_is_refused_and_the_first_goes_on() {
    let host = Host::new("", &group(&["a"]));
    let mut daemon = host.ready();
    let (socket, _, err) = code(&mut host.pepitad(&[]));
    assert_eq!(socket, Some(73), "{err}");
    assert!(err.contains("another supervisor answers here"), "{err}");
    // With another socket, the lock on the state directory refuses the second supervisor.
    let text = std::fs::read_to_string(host.path("c.toml")).expect("written before");
    std::fs::write(host.path("d.toml"), text.replace("c/c.sock", "c/d.sock")).expect("written");
    let (lock, _, err) = code(Command::new(program("pepitad")).arg("--config").arg(host.path("d.toml")));
    assert_eq!(lock, Some(73), "{err}");
    assert!(err.contains("in use by another supervisor"), "{err}");
    assert!(!host.path("c/d.sock").exists());
    host.ctl_ok(&["status"]);
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn the_socket_of_a_dead_supervisor_is_replaced_and_another_file_is_not() {
    let host = Host::new("", &group(&["a"]));
    std::fs::create_dir(host.path("c")).expect("made");
    drop(UnixListener::bind(host.path("c/c.sock")).expect("bound"));
    host.ready().stop();
    std::fs::write(host.path("c/c.sock"), "").expect("written");
    let (code, _, err) = code(&mut host.pepitad(&[]));
    assert_eq!(code, Some(73), "{err}");
    std::fs::remove_file(host.path("c/c.sock")).expect("the file is still there");
    host.assert_nothing_left();
}

#[test]
fn a_control_socket_whose_folder_cannot_be_made_is_no_other_supervisor() {
    let host = Host::new("", &group(&["a"]));
    let text = std::fs::read_to_string(host.path("c.toml")).expect("written before");
    // A file where a folder should be, and a file system that takes no folders.
    std::fs::write(host.path("file"), "").expect("written");
    for socket in ["file/c.sock", "/proc/none/c.sock"] {
        std::fs::write(host.path("c.toml"), text.replace("c/c.sock", socket)).expect("written");
        let (code, _, err) = code(&mut host.pepitad(&[]));
        assert_eq!(code, Some(77), "{err}");
        assert!(err.contains(socket.rsplit_once('/').expect("a path").0), "{err}");
    }
    host.assert_nothing_left();
}

#[test]
fn a_launcher_that_is_missing_or_another_program_is_named() {
    for (launcher, word) in [("/nowhere/pepita", "no program"), ("/bin/true", "not the launcher")] {
        let host = Host::new(&format!("pepita = {launcher:?}"), &group(&["a"]));
        let (code, _, err) = code(&mut host.pepitad(&[]));
        assert_eq!(code, Some(69), "{err}");
        assert!(err.contains(word), "{err}");
        assert!(!host.path("c/c.sock").exists());
    }
}

#[test]
fn a_tree_that_gives_up_ends_the_program_with_an_error() {
    let groups = format!("[[group]]\nname = \"web\"\nintensity = 1\n{}", ticker("a", &["--exit", "3"]));
    let host = Host::new("intensity = 0", &groups);
    let mut daemon = host.start();
    assert_eq!(daemon.end().code(), Some(70), "{}", daemon.story());
    let events = daemon.events();
    let failed: Vec<_> = events.iter().filter(|event| event["failed"] == true).map(|e| &e["event"]).collect();
    assert_eq!(failed, ["group-ended", "tree-ended"], "{}", daemon.story());
    host.assert_no_process_left();
}

#[test]
fn wrong_arguments_are_usage_errors() {
    let host = Host::new("", "");
    assert_eq!(code(&mut Command::new(program("pepitad"))).0, Some(64));
    assert_eq!(code(&mut host.pepitad(&["--json", "--quiet"])).0, Some(64));
    let (filter, _, err) = code(&mut host.pepitad(&["--log", "a=b=c"]));
    assert_eq!(filter, Some(64), "{err}");
    let (help, out, _) = code(Command::new(program("pepitad")).arg("--help"));
    assert!(help == Some(0) && out.contains("Exit codes"), "{out}");
    let (file, _, err) = code(Command::new(program("pepitad")).args(["--config", "/nowhere.toml"]));
    assert!(file == Some(78) && err.contains("/nowhere.toml"), "{err}");
}

/// Runs a copy of `pepitad` in a folder without `pepita`, so that PATH decides which launcher is found.
fn alone(host: &Host, path: &str) -> (Option<i32>, String) {
    std::fs::create_dir_all(host.path("alone")).expect("made");
    // Copied by another process: a file that this process has written may still be open for writing in a child of another
    // test, and execve(2) fails with ETXTBSY then.
    let copied =
        Command::new("cp").arg(program("pepitad")).arg(host.path("alone")).status().expect("cp runs");
    assert!(copied.success());
    let mut command = Command::new(host.path("alone/pepitad"));
    command.arg("--config").arg(host.path("c.toml")).env("PATH", path);
    let (code, _, stderr) = code(&mut command);
    (code, stderr)
}

#[test]
fn another_program_named_pepita_first_in_path_is_refused_by_its_path() {
    let host = Host::new("", &group(&["a"]));
    let (foreign, ours) = (host.path("foreign"), program("pepita"));
    std::fs::create_dir(&foreign).expect("made");
    // true(1) exits with 0 for any arguments.
    std::os::unix::fs::symlink("/bin/true", foreign.join("pepita")).expect("linked");
    let path = format!("{}:{}", foreign.display(), ours.parent().expect("a folder").display());
    let (code, words) = alone(&host, &path);
    assert_eq!(code, Some(69), "{words}");
    for wanted in [&foreign.join("pepita").display().to_string(), "this is not the launcher"] {
        assert!(words.contains(wanted), "{wanted:?} is not in: {words}");
    }
    assert_eq!(host.processes(), [] as [&str; 0]);
}

#[test]
fn without_a_launcher_the_searched_folders_are_named() {
    let host = Host::new("", &group(&["a"]));
    std::fs::create_dir(host.path("empty")).expect("made");
    let (code, words) = alone(&host, &host.path("empty").to_string_lossy());
    assert_eq!(code, Some(69), "{words}");
    for place in ["alone", "empty"] {
        assert!(words.contains(&*host.path(place).to_string_lossy()), "{place} is not in: {words}");
    }
}
