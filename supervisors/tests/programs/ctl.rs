//! `pepitactl`, each command of it.

use crate::host::{Daemon, Host, group, program, stderr, stdout, ticker};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::Command;

fn line(text: &str, vm: &str) -> String {
    let found = text.lines().find(|line| line.split_whitespace().nth(1) == Some(vm));
    found.unwrap_or_else(|| panic!("no {vm} in:\n{text}")).to_owned()
}

#[test]
fn vms_are_shown_and_steered() {
    let host = Host::new("", &group(&["a", "b"]));
    let mut daemon = host.ready();
    let status = host.told(&["status"]);
    assert!(status.starts_with("GROUP  VM  PHASE"), "{status}");
    assert!(line(&status, "a").contains(&host.vmm_pid("a").to_string()), "{status}");
    let tree = host.told(&["tree"]);
    assert!(tree.contains("└── web: one_for_one, window 0/6 in 1m"), "{tree}");
    assert!(tree.contains("├── a #1 ready"), "{tree}");

    host.told(&["restart", "a"]);
    daemon.until("a #2: running -> ready");
    host.told(&["stop", "a", "b"]);
    daemon.until("b #1: stopping -> stopped");
    host.told(&["start", "b"]);
    daemon.until("b #2: running -> ready");
    host.told(&["pause", "b"]);
    daemon.until("b #2: ready -> paused");
    assert!(line(&host.told(&["status"]), "b").contains("paused"));
    host.told(&["resume", "b"]);
    daemon.until("b #2: paused -> ");
    host.told(&["signal", "b", "KILL"]);
    daemon.until("b #2: ready -> backoff; restart in 0.1 s: on-failure");
    daemon.until("b #3: running -> ready");
    assert_eq!(line(&host.told(&["status"]), "b").split_whitespace().nth(4), Some("1"), "one attempt");
    host.told(&["reset", "b"]);
    host.told(&["wait", "b"]);
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn logs_are_those_of_the_launcher() {
    let host = Host::new("", &group(&["a"]));
    let mut daemon = host.ready();
    let mut follow = Command::new(program("pepitactl"));
    let mut follow = Daemon::start(follow.arg("--config").arg(host.path("c.toml")).args(["logs", "-f", "a"]));
    follow.until("tick 2");
    assert!(host.told(&["logs", "a"]).contains("tick 1"));
    let refused = host.ctl(&["logs", "nope"]);
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn events_are_told_from_the_start_and_followed_to_the_end() {
    let host = Host::new("", &group(&["a"]));
    let mut daemon = host.ready();
    let mut command = Command::new(program("pepitactl"));
    let command =
        command.env("PEPITACTL_SOCKET", host.path("c/c.sock")).args(["events", "--follow", "--json"]);
    let mut follower = Daemon::start(command);
    follower.until("tree: ready");
    let events = host.told(&["events"]);
    assert!(events.lines().next().is_some_and(|line| line.ends_with("a #0: stopped -> waiting")), "{events}");
    assert!(events.trim_end().ends_with("tree: ready"), "{events}");
    daemon.stop();
    assert_eq!(follower.end().code(), Some(70), "{}", follower.story());
    let last = follower.seen.iter().rev().find(|line| line.starts_with('{')).cloned();
    assert!(last.is_some_and(|line| line.contains("tree: ended: stopped")), "{}", follower.story());
    host.assert_nothing_left();
}

#[test]
fn a_reload_is_planned_refused_applied() {
    let host = Host::new("", &group(&["a"]));
    let mut daemon = host.ready();
    assert_eq!(host.told(&["plan"]), "nothing differs\n");
    host.configure("", &format!("[[group]]\nname = \"web\"\n{}", ticker("a", &["--interval", "100"])));
    let plan = host.told(&["plan"]);
    assert!(plan.contains("vm \"a\": needs a restart: command"), "{plan}");
    assert!(!host.told(&["status"]).contains("a restart applies it"), "a plan changes nothing");
    host.told(&["reload"]);
    assert!(host.told(&["status"]).contains("a restart applies it"));
    host.told(&["reload", "--restart"]);
    daemon.until("a #2: running -> ready");
    host.configure("nonsense = 1\nrubbish = 2", &group(&["a"]));
    for call in ["plan", "reload"] {
        let refused = host.ctl(&[call]);
        assert_eq!(refused.status.code(), Some(78));
        let told = stderr(&refused);
        assert!(told.contains("nonsense") && told.contains("rubbish"), "{told}");
    }
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn a_shutdown_is_waited_for_and_shows_what_happens() {
    for (args, told, left) in [
        (&["shutdown"][..], "stopped", 0),
        (&["shutdown", "--leave"], "left its VMs running", 1),
        (&["shutdown", "--destroy"], "stopped", 0),
    ] {
        let host = Host::new("", &group(&["a"]));
        let mut daemon = host.ready();
        let output = host.told(args);
        assert!(output.ends_with(&format!("{told}\n")), "{output}");
        assert!(daemon.end().success());
        assert_eq!(stdout(&host.pepita(&["list", "--format", "name"])).lines().count(), left, "{args:?}");
    }
}

#[test]
fn refusals_and_absences_have_their_numbers_and_say_what_to_do() {
    let host = Host::new("", &group(&["a"]));
    let nobody = host.ctl(&["status"]);
    assert_eq!(nobody.status.code(), Some(69));
    assert!(stderr(&nobody).contains("is pepitad running?"), "{}", stderr(&nobody));
    let waited = host.ctl(&["wait", "--timeout", "0"]);
    assert_eq!(waited.status.code(), Some(75), "{}", stderr(&waited));
    let mut daemon = host.ready();
    for (args, code) in [
        (&["start", "nope"][..], 1),
        (&["wait", "nope"], 1),
        (&["signal", "a", "LOUD"], 64),
        (&["frobnicate"], 64),
        (&["start"], 64),
        (&["top"], 64),
    ] {
        let output = host.ctl(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn what_needs_no_supervisor_works_without_one() {
    let host = Host::new("", &group(&["a"]));
    let good = host.path("c.toml");
    let check = host.told(&["check", good.to_str().expect("UTF-8")]);
    assert!(check.contains("good; 1 VM in 1 group"), "{check}");
    assert_eq!(host.ctl(&["check", "/nowhere.toml"]).status.code(), Some(78));
    assert!(host.told(&["completions", "bash"]).contains("_pepitactl"));
    assert!(host.told(&["man"]).contains(".TH pepitactl"));
    // The socket is found although the file has mistakes by now.
    host.configure("rubbish = 1", "");
    let mut command = Command::new(program("pepitactl"));
    let output = command.arg("--config").arg(&good).arg("status").output().expect("it runs");
    assert!(stderr(&output).contains("c/c.sock"), "{}", stderr(&output));
}

#[test]
fn top_shows_each_change_and_leaves_the_terminal_as_it_was() {
    let host = Host::new("", &group(&["a", "b"]));
    let mut daemon = host.ready();
    let (ctl, socket) = (program("pepitactl"), host.path("c/c.sock"));
    // script(1) is a terminal for it.
    let mut terminal = Command::new("script");
    let told = format!("{} --socket {} top", ctl.display(), socket.display());
    let mut top = Daemon::start(terminal.args(["-qefc", &told, "/dev/null"]));
    top.until("Ctrl-C ends this view");
    top.until("b #1: running -> ready");
    kill(Pid::from_raw(host.vmm_pid("b").cast_signed()), Signal::SIGKILL).expect("it runs");
    top.until("b #1: ready -> backoff");
    top.until("b #2: running -> ready");
    daemon.stop();
    assert_eq!(top.end().code(), Some(70), "the supervisor has ended: {}", top.story());
    let story = top.story();
    assert!(story.contains("\x1b[?1049h") && story.contains("\x1b[?1049l"), "the other screen, and back");
    host.assert_nothing_left();
}
