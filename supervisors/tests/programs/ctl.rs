//! Tests of each command of `pepitactl`.

use crate::events::{self, Pattern, vm};
use crate::host::{Daemon, Host, group, program, stderr, stdout, ticker};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::process::Command;

/// Returns a VM of the status.
fn shown(host: &Host, name: &str) -> Value {
    let status: Value = serde_json::from_str(&host.ctl_ok(&["status", "--json"])).expect("JSON");
    let vms = status["groups"][0]["vms"].as_array().expect("VMs");
    vms.iter().find(|vm| vm["name"] == name).unwrap_or_else(|| panic!("no {name} in {status}")).clone()
}

#[test]
fn vms_are_shown_and_controlled() {
    let host = Host::new("", &group(&["a", "b"]));
    let mut daemon = host.ready();
    assert_eq!(shown(&host, "a")["vmm_pid"], host.vmm_pid("a"));
    let status = host.ctl_ok(&["status"]);
    assert!(status.starts_with("GROUP  VM  PHASE"), "{status}");
    assert_eq!(status.lines().count(), 3, "a heading and a row for each VM: {status}");
    let tree = host.ctl_ok(&["tree"]);
    assert!(tree.contains("└── web: one_for_one") && tree.contains("├── a #1 ready"), "{tree}");

    host.ctl_ok(&["restart", "a"]);
    daemon.until_event(vm("a", 2, "ready"));
    host.ctl_ok(&["stop", "a", "b"]);
    daemon.until_event(vm("b", 1, "stopped"));
    host.ctl_ok(&["start", "b"]);
    daemon.until_event(vm("b", 2, "ready"));
    host.ctl_ok(&["pause", "b"]);
    daemon.until_event(vm("b", 2, "paused"));
    assert_eq!(shown(&host, "b")["phase"], "paused");
    host.ctl_ok(&["resume", "b"]);
    assert_eq!(daemon.until_event(vm("b", 2, "ready"))["from"], "paused");
    host.ctl_ok(&["signal", "b", "KILL"]);
    let failed = daemon.until_event(vm("b", 2, "backoff"));
    assert_eq!(failed["decision"]["action"], "restart");
    assert_eq!(failed["decision"]["delay_ms"], 100);
    daemon.until_event(vm("b", 3, "ready"));
    assert_eq!(shown(&host, "b")["attempts"], 1);
    host.ctl_ok(&["reset", "b"]);
    host.ctl_ok(&["wait", "b"]);
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
    assert!(host.ctl_ok(&["logs", "a"]).contains("tick 1"));
    let refused = host.ctl(&["logs", "nope"]);
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn last_words_outlive_restarts_and_destroys_and_are_in_the_events() {
    let fails = ticker("a", &["--say", "LAST WORDS", "--after", "300", "--exit", "3"]);
    // A VM that is not ready in time is destroyed at once.
    let late = ticker("b", &["--no-ready", "--say", "NEVER READY"]) + "start.timeout = \"1s\"\n";
    let host = Host::new("", &format!("[[group]]\nname = \"web\"\nintensity = 100\n{fails}{late}"));
    let mut daemon = host.start();
    let failed = daemon.until_event(vm("a", 1, "backoff"));
    assert!(failed["ending"]["console"].to_string().contains("LAST WORDS"), "{failed}");
    assert!(failed["text"].as_str().is_some_and(|text| text.contains("LAST WORDS")), "{failed}");
    let mut follow = Command::new(program("pepitactl"));
    let mut follow = Daemon::start(follow.arg("--config").arg(host.path("c.toml")).args(["logs", "-f", "a"]));
    follow.until("has ended: exit 3");
    follow.until("has started");
    follow.until("LAST WORDS");
    follow.until("has ended: exit 3");
    daemon.until_event(vm("b", 2, "starting"));
    assert!(daemon.story().contains("NEVER READY"), "{}", daemon.story());
    for name in ["a", "b"] {
        let words = host.ctl_ok(&["logs", "--previous", name]);
        assert!(words.contains(if name == "a" { "LAST WORDS" } else { "NEVER READY" }), "{name}: {words}");
    }
    assert!(host.ctl_ok(&["logs", "--previous=2", "a"]).contains("LAST WORDS"));
    daemon.stop();
    follow.kill();
    let words = host.pepita(&["logs", "--name", "duende-vm-a"]);
    assert!(stdout(&words).contains("LAST WORDS"), "{words:?}");
    let none = host.pepita(&["logs", "--name", "duende-vm-c", "--previous"]);
    assert_eq!(none.status.code(), Some(4), "{none:?}");
    host.assert_nothing_left();
}

#[test]
fn events_are_printed_from_the_first_and_followed_to_the_last() {
    let host = Host::new("", &group(&["a"]));
    let mut daemon = host.ready();
    let mut command = Command::new(program("pepitactl"));
    let command =
        command.env("PEPITACTL_SOCKET", host.path("c/c.sock")).args(["events", "--follow", "--json"]);
    let mut follower = Daemon::start(command);
    follower.until_event(Pattern::TreeReady);
    let kept: Vec<Value> = host.ctl_ok(&["events", "--json"]).lines().filter_map(events::parse).collect();
    assert_eq!(kept[0]["seq"], 1, "{kept:?}");
    assert!(vm("a", 1, "starting").matches(&kept[0]), "{kept:?}");
    assert!(Pattern::TreeReady.matches(kept.last().expect("events")), "{kept:?}");
    let lines = host.ctl_ok(&["events"]);
    assert_eq!(lines.lines().count(), kept.len(), "a line for each event: {lines}");
    daemon.stop();
    assert_eq!(follower.end().code(), Some(70), "{}", follower.story());
    let last = follower.events().pop().expect("events");
    assert!(Pattern::TreeEnded.matches(&last), "{}", follower.story());
    host.assert_nothing_left();
}

#[test]
fn a_reload_is_planned_refused_applied() {
    let host = Host::new("", &group(&["a"]));
    let mut daemon = host.ready();
    assert_eq!(host.ctl_ok(&["plan"]), "nothing differs\n");
    host.configure("", &format!("[[group]]\nname = \"web\"\n{}", ticker("a", &["--interval", "100"])));
    let plan = host.ctl_ok(&["plan", "--json"]);
    assert!(plan.contains("command"), "the key that differs: {plan}");
    assert_eq!(shown(&host, "a")["needs_restart"], false, "a plan changes nothing");
    host.ctl_ok(&["reload"]);
    assert_eq!(shown(&host, "a")["needs_restart"], true);
    host.ctl_ok(&["reload", "--restart"]);
    daemon.until_event(vm("a", 2, "ready"));
    host.configure("nonsense = 1\nrubbish = 2", &group(&["a"]));
    for call in ["plan", "reload"] {
        let refused = host.ctl(&[call]);
        assert_eq!(refused.status.code(), Some(78));
        let mistakes = stderr(&refused);
        assert!(mistakes.contains("nonsense") && mistakes.contains("rubbish"), "{mistakes}");
    }
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn a_shutdown_is_waited_for_and_prints_what_happens() {
    for (args, left) in
        [(&["shutdown"][..], 0), (&["shutdown", "--leave"], 1), (&["shutdown", "--destroy"], 0)]
    {
        let host = Host::new("", &group(&["a"]));
        let mut daemon = host.ready();
        let output = host.ctl_ok(args);
        assert!(daemon.end().success());
        let events = daemon.events();
        let find = |pattern: Pattern<'_>| {
            let found = events.iter().find(|event| pattern.matches(event));
            found.unwrap_or_else(|| panic!("no {pattern:?}:\n{}", daemon.story()))
        };
        assert_eq!(find(Pattern::Note("requested"))["note"]["method"], "shutdown");
        let reason = find(Pattern::TreeEnded)["reason"].as_str().expect("a sentence");
        assert!(output.lines().count() > 1 && output.lines().last() == Some(reason), "{output}");
        assert_eq!(stdout(&host.pepita(&["list", "--format", "name"])).lines().count(), left, "{args:?}");
    }
}

#[test]
fn refusals_and_absences_have_their_exit_codes_and_messages() {
    let host = Host::new("", &group(&["a"]));
    let absent = host.ctl(&["status"]);
    assert_eq!(absent.status.code(), Some(69));
    assert!(stderr(&absent).contains("is pepitad running?"), "{}", stderr(&absent));
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
fn commands_that_need_no_supervisor_work_without_one() {
    let host = Host::new("", &group(&["a"]));
    let good = host.path("c.toml");
    let check = host.ctl_ok(&["check", good.to_str().expect("UTF-8")]);
    assert!(check.contains("1 VM in 1 group"), "{check}");
    assert_eq!(host.ctl(&["check", "/nowhere.toml"]).status.code(), Some(78));
    assert!(host.ctl_ok(&["completions", "bash"]).contains("_pepitactl"));
    assert!(host.ctl_ok(&["man"]).contains(".TH pepitactl"));
    // The socket is found although the file has mistakes now.
    host.configure("rubbish = 1", "");
    let mut command = Command::new(program("pepitactl"));
    let output = command.arg("--config").arg(&good).arg("status").output().expect("the program runs");
    assert!(stderr(&output).contains("c/c.sock"), "{}", stderr(&output));
}

#[test]
fn top_shows_each_change_and_restores_the_terminal() {
    let host = Host::new("", &group(&["a", "b"]));
    let mut daemon = host.ready();
    let (ctl, socket) = (program("pepitactl"), host.path("c/c.sock"));
    // script(1) gives it a terminal.
    let mut terminal = Command::new("script");
    let call = format!("{} --socket {} top", ctl.display(), socket.display());
    let mut top = Daemon::start(terminal.args(["-qefc", &call, "/dev/null"]));
    top.until("Ctrl-C ends this view");
    kill(Pid::from_raw(host.vmm_pid("b").cast_signed()), Signal::SIGKILL).expect("a running process");
    for change in [vm("b", 1, "backoff"), vm("b", 2, "ready")] {
        let event = daemon.until_event(change);
        top.until(event["text"].as_str().expect("a sentence"));
    }
    daemon.stop();
    assert_eq!(top.end().code(), Some(70), "the supervisor has ended: {}", top.story());
    let story = top.story();
    assert!(
        story.contains("\x1b[?1049h") && story.contains("\x1b[?1049l"),
        "to the alternate screen, and back"
    );
    host.assert_nothing_left();
}
