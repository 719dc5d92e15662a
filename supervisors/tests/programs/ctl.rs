//! Tests of each command of `pepitactl`.

use crate::events::{self, Pattern, vm};
use crate::host::{Daemon, Host, group, make_fifo, program, stderr, stdout, ticker};
use crate::relay::Relay;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
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
    assert_eq!(status.lines().count(), 4, "a heading, a row for each VM, and what the VMs are: {status}");
    let tree = host.ctl_ok(&["tree"]);
    assert!(tree.contains("└── web: one_for_one") && tree.contains("├── a #1 ready"), "{tree}");
    // A VM that is named is shown with what it uses of the host.
    let full = host.ctl_ok(&["status", "a"]);
    assert!(full.contains("\na host: memory ") && full.contains("monitor "), "{full}");
    assert!(!full.contains("a guest:"), "a plain process has none: {full}");
    let full: Value = serde_json::from_str(&host.ctl_ok(&["status", "a", "--json"])).expect("JSON");
    let usage = &full["groups"][0]["vms"][0]["usage"];
    let roles: Vec<&Value> =
        usage["processes"].as_array().expect("processes").iter().map(|p| &p["role"]).collect();
    assert_eq!(roles, ["vmm", "monitor", "daemon"], "{usage}");
    assert!(
        usage["rss_kib"].as_u64().is_some_and(|kib| kib > 0)
            && usage["processes"][0]["pid"] == host.vmm_pid("a"),
        "{usage}"
    );

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
    // The first event says that the VM is a plain process.
    assert!(vm("a", 1, "starting").matches(&kept[1]), "{kept:?}");
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
    assert!(host.ctl_ok(&["reload"]).contains("these VMs run on as they were until their next start"));
    // A further plan and reload say what a restart does, although nothing differs any more.
    assert!(host.ctl_ok(&["plan"]).ends_with("with --restart these VMs are restarted: a\n"));
    assert_eq!(shown(&host, "a")["needs_restart"], true);
    let restarted = host.ctl_ok(&["reload", "--restart"]);
    assert!(restarted.contains("vm \"a\": unchanged; an earlier change needs a restart"), "{restarted}");
    assert!(restarted.ends_with("these VMs are restarted: a\n"), "{restarted}");
    daemon.until_event(vm("a", 2, "ready"));
    assert_eq!(host.ctl_ok(&["reload", "--restart"]), "nothing differs\n");
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
fn an_output_that_cannot_be_written_is_no_success() {
    let host = Host::new("", &format!("[[group]]\nname = \"web\"\n{}", ticker("a", &["--say", "a line"])));
    let mut daemon = host.ready();
    let mut follow = Command::new(program("pepitactl"));
    Daemon::start(follow.arg("--config").arg(host.path("c.toml")).args(["logs", "-f", "a"])).until("a line");
    let [config, socket] = ["c.toml", "c/c.sock"].map(|path| host.path(path).display().to_string());
    let calls: &[(&str, &[&str])] = &[
        ("pepitad", &["--help"]),
        ("pepitad", &["--version"]),
        ("pepitad", &["--schema"]),
        ("pepitad", &["--config", &config, "--check"]),
        ("pepitactl", &["--help"]),
        ("pepitactl", &["--version"]),
        ("pepitactl", &["completions", "bash"]),
        ("pepitactl", &["man"]),
        ("pepitactl", &["check", &config]),
        ("pepitactl", &["-s", &socket, "status"]),
        ("pepitactl", &["-s", &socket, "status", "--json"]),
        ("pepitactl", &["-s", &socket, "status", "a"]),
        ("pepitactl", &["-s", &socket, "tree"]),
        ("pepitactl", &["-s", &socket, "events"]),
        ("pepitactl", &["-s", &socket, "events", "--json"]),
        ("pepitactl", &["-s", &socket, "plan"]),
        ("pepitactl", &["-s", &socket, "plan", "--json"]),
        ("pepitactl", &["-s", &socket, "reload"]),
        ("pepitactl", &["-s", &socket, "logs", "a"]),
        ("pepitactl", &["-s", &socket, "logs", "web"]),
        ("daemonctl", &["--help"]),
        ("daemonctl", &["--version"]),
    ];
    for (name, args) in calls {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("opened");
        let output = Command::new(program(name)).args(*args).stdout(full).output().expect("the program runs");
        assert_eq!(output.status.code(), Some(74), "{name} {args:?}: {}", stderr(&output));
        let words = stderr(&output);
        assert!(words.contains("standard output: No space left"), "{name} {args:?}: {words}");
        let (reader, gone) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = Command::new(program(name)).args(*args).stdout(gone).output().expect("the program runs");
        assert_eq!((output.status.code(), &stderr(&output)[..]), (Some(0), ""), "{name} {args:?}");
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
    let status = |file: &Path| {
        let mut command = Command::new(program("pepitactl"));
        command.arg("--config").arg(file).arg("status").output().expect("the program runs")
    };
    // The socket is found although the file has mistakes now.
    for mistake in ["rubbish = 1", "shutdown_timeout = 99999999999999999999"] {
        host.configure(mistake, "");
        let output = status(&good);
        assert_eq!(output.status.code(), Some(69), "{mistake}: {}", stderr(&output));
        assert!(stderr(&output).contains("c/c.sock"), "{}", stderr(&output));
    }
    // Where it cannot be found, the mistake has its place, as `check` says it.
    let wrong = host.path("wrong.toml");
    std::fs::write(&wrong, "[supervisor]\ncontrol_socket = \n").expect("written");
    let mistakes = stderr(&host.ctl(&["check", wrong.to_str().expect("UTF-8")]));
    assert!(mistakes.contains("wrong.toml:2:18"), "{mistakes}");
    for (file, words) in [
        (&wrong, mistakes.trim_end()),
        (&host.path("none.toml"), "none.toml: No such file"),
        (&PathBuf::from("/dev/zero"), "/dev/zero: is not a regular file"),
    ] {
        let output = status(file);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains(words) && said.contains("`-s SOCKET` works without the file"), "{said}");
    }
}

#[test]
fn a_configuration_that_may_have_no_end_or_block_is_refused_while_the_vms_go_on() {
    let host = Host::new("", &group(&["a"]));
    let mut daemon = host.ready();
    let (file, aside) = (host.path("c.toml"), host.path("aside.toml"));
    std::fs::rename(&file, &aside).expect("there");
    let refused = |daemon: &mut Daemon| {
        for call in ["plan", "reload"] {
            let output = host.ctl(&[call]);
            assert_eq!(output.status.code(), Some(78), "{}", stderr(&output));
            assert!(stderr(&output).contains("c.toml: is not a regular file"), "{}", stderr(&output));
        }
        daemon.signal(Signal::SIGHUP);
        let told = daemon.until_event(Pattern::Note("not-reloaded"));
        let why = told["note"]["why"].as_str().expect("a reason");
        assert!(why.contains("c.toml: is not a regular file"), "{why}");
        let checked = host.pepitad(&["--check"]).output().expect("pepitad runs");
        assert_eq!(checked.status.code(), Some(78), "{}", stderr(&checked));
        std::fs::remove_file(&file).expect("there");
    };
    symlink("/dev/zero", &file).expect("made");
    refused(&mut daemon);
    make_fifo(&file);
    refused(&mut daemon);
    symlink(&aside, &file).expect("made");
    assert_eq!(host.ctl_ok(&["plan"]), "nothing differs\n", "a link to a file is as good as the file");
    daemon.stop();
    host.assert_nothing_left();
}

/// Returns the `[[group.vm]]` of a daemon that ends before it is ready.
fn broken(name: &str) -> String {
    format!("[[group.vm]]\nname = \"{name}\"\ncommand = [\"/bin/sh\", \"-c\", \"exit 3\"]\n")
}

#[test]
fn stop_start_and_restart_return_when_it_is_done() {
    // A daemon that takes a moment to end, and then is gone for certain.
    let slow = "[[group.vm]]\nname = \"slow\"\nstart.ready = \"started\"\n\
        command = [\"/bin/sh\", \"-c\", \"trap 'sleep 1; exit 0' TERM; while :; do sleep 0.1; done\"]\n";
    let host = Host::new("", &format!("{}{slow}", group(&["a", "b"])));
    let mut daemon = host.ready();
    host.ctl_ok(&["stop", "slow"]);
    assert_eq!(shown(&host, "slow")["phase"], "stopped", "it is down when the command returns");
    host.ctl_ok(&["stop", "slow"]);
    host.ctl_ok(&["start", "duende-vm-slow"]);
    assert_eq!(shown(&host, "slow")["phase"], "ready");
    host.ctl_ok(&["restart", "slow", "--timeout", "5min"]);
    assert_eq!(
        (&shown(&host, "slow")["phase"], &shown(&host, "slow")["incarnation"]),
        (&"ready".into(), &3.into())
    );
    host.ctl_ok(&["stop", "slow", "--no-wait"]);
    let late = host.ctl(&["stop", "slow", "--timeout", "0"]);
    assert_eq!(late.status.code(), Some(75), "{}", stderr(&late));
    assert!(stderr(&late).contains("slow is stopping"), "{}", stderr(&late));
    host.ctl_ok(&["stop", "slow"]);

    // A group, in order; what the operator has stopped stays down when it is restarted.
    host.ctl_ok(&["restart", "web"]);
    for (vm, incarnation, phase) in [("a", 2, "ready"), ("b", 2, "ready"), ("slow", 3, "stopped")] {
        assert_eq!(
            (&shown(&host, vm)["incarnation"], &shown(&host, vm)["phase"]),
            (&incarnation.into(), &phase.into())
        );
    }
    host.ctl_ok(&["stop", "all"]);
    daemon.until_event(vm("a", 2, "stopped"));
    daemon.assert_order(&[vm("b", 2, "stopped"), vm("a", 2, "stopped")]);
    host.ctl_ok(&["start", "group:web"]);
    assert_eq!(shown(&host, "b")["phase"], "ready");
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn a_start_that_fails_is_said_with_its_reason() {
    let host = Host::new("", &format!("{}{}autostart = false\n", group(&["a"]), broken("bad")));
    let mut daemon = host.ready();
    for command in ["start", "restart"] {
        let failed = host.ctl(&[command, "bad"]);
        assert_eq!(failed.status.code(), Some(70), "{}", stderr(&failed));
        assert!(stderr(&failed).contains("bad did not come up: exit 3"), "{}", stderr(&failed));
    }
    // In a group the first VM is restarted, and the failure of the second is told.
    let failed = host.ctl(&["restart", "web"]);
    assert_eq!(failed.status.code(), Some(70), "{}", stderr(&failed));
    assert_eq!(shown(&host, "a")["incarnation"], 2);
    host.ctl_ok(&["stop", "bad"]);
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn targets_are_vms_groups_and_all_and_a_typing_mistake_is_answered_with_what_was_meant() {
    let two = format!("{}[[group]]\nname = \"storage\"\n{}", group(&["api", "www"]), ticker("db", &[]));
    let host = Host::new("", &two);
    let mut daemon = host.ready();
    let rows = |targets: &[&str]| -> Vec<String> {
        let args: Vec<&str> = ["status"].iter().chain(targets).copied().collect();
        let table = host.ctl_ok(&args);
        // Below the table stands what a VM uses of its host: `db host: …`.
        let names = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1));
        names.filter(|name| !name.ends_with(':')).map(str::to_owned).collect()
    };
    assert_eq!(rows(&["storage"]), ["db"]);
    assert_eq!(rows(&["duende-vm-www", "db"]), ["www", "db"]);
    assert_eq!(rows(&["all"]), ["api", "www", "db"]);
    let status: Value = serde_json::from_str(&host.ctl_ok(&["status", "db", "--json"])).expect("JSON");
    assert_eq!(
        (status["groups"].as_array().map(Vec::len), &status["groups"][0]["name"]),
        (Some(1), &"storage".into())
    );
    for args in [
        &["restart", "apii"][..],
        &["logs", "apii"],
        &["status", "duende-vm-apii"],
        &["events", "apii"],
        &["wait", "apii"],
        &["signal", "apii", "HUP"],
        &["stop", "db", "apii"],
    ] {
        let unknown = host.ctl(args);
        assert_eq!(unknown.status.code(), Some(1), "{args:?}: {}", stderr(&unknown));
        assert!(stderr(&unknown).contains("did you mean \"api\"?"), "{args:?}: {}", stderr(&unknown));
    }
    assert_eq!(shown(&host, "api")["phase"], "ready");
    let db = host.ctl_ok(&["events", "db", "--json"]);
    assert!(db.lines().count() > 1 && db.lines().filter_map(events::parse).all(|e| e["vm"] == "db"), "{db}");
    // A signal that a daemon ignores unless it does something with it: WINCH.
    host.ctl_ok(&["signal", "web", "28"]);
    host.ctl_ok(&["pause", "web"]);
    host.ctl_ok(&["resume", "all"]);
    host.ctl_ok(&["wait", "web", "db"]);
    let mut follow = Command::new(program("pepitactl"));
    let mut follow =
        Daemon::start(follow.arg("--socket").arg(host.path("c/c.sock")).args(["logs", "-f", "web"]));
    follow.until("api | tick 1");
    follow.until("www | tick 2");
    follow.signal(Signal::SIGTERM);
    assert!(follow.end().success());
    let logs = host.ctl_ok(&["logs", "web"]);
    assert!(logs.contains("api | ") && logs.contains("www | ") && !logs.contains("db | "), "{logs}");
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn a_wait_ends_as_soon_as_what_it_waits_for_cannot_come() {
    let bad = "restart.policy = \"never\"\nautostart = false\n";
    let waits = format!(
        "[[group]]\nname = \"later\"\nafter = [\"broken\"]\n{}[[group]]\nname = \"broken\"\n{}restart.policy = \"never\"\n",
        ticker("z", &[]),
        broken("y")
    );
    let host = Host::new("", &format!("{}{}{bad}{waits}", group(&["a"]), broken("b")));
    let mut daemon = host.start();
    daemon.until_event(vm("y", 1, "failed"));
    for (targets, words) in [
        (&["wait", "b"][..], "b is stopped; `pepitactl start b` starts it"),
        (&["wait", "y"], "y has failed: exit 3"),
        (&["wait", "z"], "z waits for group broken"),
        (&["wait"], "y has failed: exit 3"),
    ] {
        // The time to wait is never reached: an end by it would be 75.
        let all: Vec<&str> = targets.iter().copied().chain(["--timeout", "1h"]).collect();
        let ended = host.ctl(&all);
        assert_eq!(ended.status.code(), Some(70), "{targets:?}: {}", stderr(&ended));
        assert!(stderr(&ended).contains(words), "{targets:?}: {}", stderr(&ended));
    }
    // A VM that is removed while it is waited for.
    host.ctl_ok(&["wait", "a"]);
    host.ctl_ok(&["pause", "a"]);
    let relay = Relay::listen(&host.path("relay"), &host.path("c/c.sock"));
    let mut wait = Command::new(program("pepitactl"));
    let mut wait =
        Daemon::start(wait.arg("--socket").arg(relay.path()).args(["wait", "a", "--timeout", "1h"]));
    // It has found the VM when it begins to hear of events.
    relay.until_call("events");
    host.configure("", &format!("[[group]]\nname = \"web\"\n{}{bad}{waits}", broken("b")));
    host.ctl_ok(&["reload"]);
    assert_eq!(wait.end().code(), Some(70), "{}", wait.story());
    assert!(wait.story().contains("removed from the configuration"), "{}", wait.story());
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn a_supervisor_that_is_stopped_is_named_and_ends_no_wait_with_something_untrue() {
    let host = Host::new("", &group(&["a"]));
    let mut daemon = host.ready();
    daemon.suspend();
    let pid = format!("(pid {})", daemon.pid());
    for args in [
        &["status"][..],
        &["tree"],
        &["events"],
        &["events", "--follow"],
        &["plan"],
        &["stop", "a"],
        &["logs", "a"],
        &["shutdown"],
        &["wait"],
    ] {
        let all: Vec<&str> = ["--patience", "300ms"].iter().chain(args).copied().collect();
        let silent = host.ctl(&all);
        assert_eq!(silent.status.code(), Some(69), "{args:?}: {}", stderr(&silent));
        let words = stderr(&silent);
        assert!(words.contains("has not answered for 300ms") && words.contains(&pid), "{args:?}: {words}");
        assert!(words.contains("kill -CONT"), "it says that it is stopped: {words}");
    }
    let late = host.ctl(&["wait", "--timeout", "0"]);
    assert_eq!(late.status.code(), Some(75), "{}", stderr(&late));
    assert!(
        stderr(&late).contains("has not answered") && !stderr(&late).contains("no supervisor"),
        "{}",
        stderr(&late)
    );
    // What was reported as not done is not done later either.
    host.configure("", &group(&["a", "b"]));
    let reload = host.ctl(&["--patience", "300ms", "reload"]);
    assert_eq!(reload.status.code(), Some(69), "{}", stderr(&reload));
    daemon.signal(Signal::SIGCONT);
    host.ctl_ok(&["wait", "--timeout", "0"]);
    daemon.stop();
    assert!(!daemon.story().contains("reload"), "{}", daemon.story());
    host.assert_nothing_left();
}

#[test]
fn a_reload_of_a_file_that_was_cut_off_changes_nothing_until_it_is_allowed() {
    let host = Host::new("", &group(&["a", "b"]));
    let mut daemon = host.ready();
    let whole = std::fs::read_to_string(host.path("c.toml")).expect("written before");
    let cut = whole.split("[defaults.").next().expect("its first tables");
    std::fs::write(host.path("c.toml"), cut).expect("written");
    let plan = host.ctl_ok(&["plan"]);
    assert!(plan.contains("removes every VM (a, b)") && plan.contains("--allow-removal"), "{plan}");
    let refused = host.ctl(&["reload"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("nothing was changed"), "{}", stderr(&refused));
    daemon.signal(Signal::SIGHUP);
    let told = daemon.until_event(Pattern::Note("not-reloaded"));
    assert!(told["note"]["why"].as_str().is_some_and(|why| why.contains("removes every VM")), "{told}");
    assert!(host.ctl_ok(&["events"]).contains("a reload was refused"));
    assert_eq!(
        (&shown(&host, "a")["phase"], &shown(&host, "b")["incarnation"]),
        (&"ready".into(), &1.into())
    );
    host.ctl_ok(&["reload", "--allow-removal"]);
    daemon.until_event(vm("a", 1, "stopped"));
    daemon.stop();
    host.assert_nothing_left();
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
