//! Tests of what `pepitactl` shows of the inside of VMs: output, files, disks and commands in the guest.

use crate::events::vm;
use crate::host::{Daemon, Host, PATIENCE, group, program, stderr, stdout, ticker};
use nix::sys::signal::Signal;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn a_command_in_a_vm_has_its_own_exit_code_and_goes_on_without_the_supervisor() {
    // semantics 16.2
    let host = Host::new("", &group(&["a"]));
    let mut daemon = host.ready();
    let exec = |words: &[&str]| host.ctl(&[&["exec", "-e", "A=1 2"], words].concat());
    let output =
        exec(&["-w", "/usr", "duende-vm-a", "--", "sh", "-c", "echo $A $PWD; echo err >&2; exit 42"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(42), "1 2 /usr\n"));
    assert_eq!(stderr(&output), "err\n");
    assert_eq!(exec(&["a", "--", "/nowhere"]).status.code(), Some(127));
    for (target, said) in [("nope", "nope"), ("web", "one VM")] {
        let refused = exec(&[target, "--", "true"]);
        assert_eq!(refused.status.code(), Some(125), "{target}: {}", stderr(&refused));
        assert!(stderr(&refused).contains(said), "{}", stderr(&refused));
    }
    let mut command = Command::new(program("pepitactl"));
    command.arg("--config").arg(host.path("c.toml")).args(["exec", "-i", "a", "--", "cat"]);
    let mut cat = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("pepitactl runs");
    let (mut input, output) = (cat.stdin.take().expect("piped"), cat.stdout.take().expect("piped"));
    let mut output = BufReader::new(output);
    let mut echo = |words: &str| {
        input.write_all(words.as_bytes()).expect("written");
        let mut line = String::new();
        output.read_line(&mut line).expect("a line");
        assert_eq!(line, words);
    };
    echo("before\n");
    daemon.kill();
    echo("without\n");
    let mut daemon = host.ready();
    echo("after\n");
    drop(input);
    assert!(cat.wait().expect("an end").success());
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn files_are_copied_into_a_vm_and_out_of_it() {
    let host = Host::new("", &group(&["a"]));
    let mut daemon = host.ready();
    std::fs::write(host.path("f"), "words").expect("written");
    let path = |name: &str| host.path(name).display().to_string();
    host.ctl_ok(&["cp", &path("f"), &format!("a:{}", path("g"))]);
    host.ctl_ok(&["cp", "--max-size", "16MiB", &format!("duende-vm-a:{}", path("g")), &path("h")]);
    assert_eq!(std::fs::read(host.path("h")).expect("there"), b"words");
    for (source, code) in [("web:/x", 1), ("nope:/x", 1), ("a:/nowhere/x", 74)] {
        let refused = host.ctl(&["cp", source, &path("i")]);
        assert_eq!(refused.status.code(), Some(code), "{source}: {}", stderr(&refused));
    }
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn disks_are_those_of_the_supervisor() {
    let host = Host::new("", &group(&["a"]));
    let mut daemon = host.ready();
    assert_eq!(host.ctl_ok(&["disk", "list", "--json"]).trim(), "[]");
    let dir = host.path("s/disks");
    std::fs::create_dir_all(&dir).expect("made");
    let disk = dir.join("data.ext4");
    let made = Command::new("/sbin/mke2fs").args(["-q", "-t", "ext4"]).arg(&disk).arg("16M").status();
    assert!(made.expect("mke2fs").success());
    let user = r#"{"vm":"duende-vm-a","mount":"/data"}"#;
    std::fs::write(dir.join("data.json"), user).expect("written");
    let lock = std::fs::File::open(&disk).expect("there");
    lock.lock().expect("the lock of a VM");
    let list = host.ctl_ok(&["disk", "ls"]);
    assert!(list.contains("data") && list.contains("/data") && list.contains("duende-vm-a"), "{list}");
    let refused = host.ctl(&["disk", "remove", "data"]);
    assert_eq!(refused.status.code(), Some(75), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("duende-vm-a uses it"), "{}", stderr(&refused));
    drop(lock);
    host.ctl_ok(&["disk", "grow", "data", "24MiB"]);
    assert_eq!(disk.metadata().expect("there").len(), 24 << 20);
    assert_eq!(host.ctl(&["disk", "grow", "nope", "24MiB"]).status.code(), Some(4));
    assert_eq!(host.ctl(&["disk", "grow", "data", "24 parsecs"]).status.code(), Some(64));
    host.ctl_ok(&["disk", "remove", "--yes", "data"]);
    assert!(!disk.exists());
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
fn the_output_of_several_vms_is_printed_in_the_order_of_time() {
    let dir = tempfile::tempdir().expect("a folder");
    let talker = |name: &str| {
        let go = dir.path().join(name);
        let script = format!(
            "for n in 1 2 3; do until [ -e {0}$n ]; do sleep 0.02; done; echo word $n; done; exec sleep 1000",
            go.display()
        );
        format!(
            "[[group.vm]]\nname = \"{name}\"\nstart.ready = \"started\"\ncommand = {:?}\n",
            ["/bin/sh", "-c", &script]
        )
    };
    let host = Host::new("", &format!("[[group]]\nname = \"web\"\n{}{}", talker("a"), talker("b")));
    let mut daemon = host.ready();
    let mut follow = Command::new(program("pepitactl"));
    let mut follow =
        Daemon::start(follow.arg("--socket").arg(host.path("c/c.sock")).args(["logs", "-ft", "web"]));
    for word in 1..=3 {
        for name in ["a", "b"] {
            std::fs::write(dir.path().join(format!("{name}{word}")), "").expect("written");
            follow.until(&format!("#1 word {word}"));
            let deadline = Instant::now() + PATIENCE;
            while !host.ctl_ok(&["logs", name]).contains(&format!("word {word}")) {
                assert!(Instant::now() < deadline, "{name} never said word {word}");
            }
            // The times of what one VM says are known to a tenth of a second.
            std::thread::sleep(Duration::from_millis(120));
        }
    }
    let all = "a | word 1\nb | word 1\na | word 2\nb | word 2\na | word 3\nb | word 3\n";
    for targets in [&[][..], &["all"], &["web"], &["b", "group:web"]] {
        assert_eq!(host.ctl_ok(&[&["logs"], targets].concat()), all, "{targets:?}");
    }
    assert_eq!(host.ctl_ok(&["logs", "-n", "1", "a", "b"]), "a | word 3\nb | word 3\n");
    assert_eq!(host.ctl_ok(&["logs", "--tail=2", "b"]), "word 2\nword 3\n");
    let stamped = host.ctl_ok(&["logs", "-t", "web"]);
    let times: Vec<&str> = stamped.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    assert!(times.len() == 6 && times.is_sorted(), "{stamped}");
    let texts: String =
        stamped.lines().map(|line| format!("{}\n", line.replacen(&line[4..32], "", 1))).collect();
    assert_eq!(texts, all, "{stamped}");
    // Colours are for terminals.
    assert!(!stamped.contains('\u{1b}') && !follow.story().contains('\u{1b}'), "{stamped}");
    // Each VM is killed, and its last words are those of the end before.
    host.ctl_ok(&["signal", "web", "KILL"]);
    follow.until("[pepita: incarnation 1 has ended");
    follow.until("[pepita: incarnation 2 has started]");
    host.ctl_ok(&["wait", "a", "b"]);
    assert_eq!(host.ctl_ok(&["logs", "--previous", "--tail", "1", "web"]), "a | word 3\nb | word 3\n");
    follow.signal(Signal::SIGTERM);
    assert!(follow.end().success());
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
fn a_vm_that_has_never_run_is_told_from_one_whose_output_is_gone() {
    let never = ticker("n", &[]) + "autostart = false\n";
    let spoken = ticker("s", &["--say", "a line"]);
    let host = Host::new("", &format!("[[group]]\nname = \"web\"\n{spoken}{never}"));
    let mut daemon = host.ready();
    host.ctl_ok(&["stop", "s"]);
    for options in [&[][..], &["--previous"], &["--since", "1h"]] {
        let logs = host.ctl(&[&["logs", "n"], options].concat());
        assert_eq!(
            (logs.status.code(), &stderr(&logs)[..]),
            (Some(1), "pepitactl: n has never run; `pepitactl start n` starts it\n"),
            "{options:?}"
        );
    }
    // The output of a VM that is down is still printed. In a group, one that has never run is no failure.
    assert!(host.ctl_ok(&["logs", "s"]).contains("a line"));
    let group = host.ctl(&["logs", "web"]);
    assert_eq!(group.status.code(), Some(0), "{}", stderr(&group));
    assert!(stdout(&group).contains("s | a line"), "{}", stdout(&group));
    assert!(stderr(&group).contains("pepitactl: n has never run"), "{}", stderr(&group));
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn a_follower_ends_when_what_it_follows_is_removed_and_when_its_reader_is_gone() {
    let host = Host::new("", &group(&["a", "b", "c"]));
    let mut daemon = host.ready();
    let follower = |args: &[&str]| {
        let mut command = Command::new(program("pepitactl"));
        command.arg("--socket").arg(host.path("c/c.sock")).args(args);
        command
    };
    let mut logs = Daemon::start(&mut follower(&["logs", "-f", "a"]));
    logs.until("tick 1");
    let mut events = Daemon::start(&mut follower(&["events", "-f", "a"]));
    events.until("a #1");
    host.configure("", &group(&["b", "c"]));
    host.ctl_ok(&["reload"]);
    for mut follower in [logs, events] {
        follower.until("a was removed from the configuration");
        assert_eq!(follower.end().code(), Some(70), "{}", follower.story());
    }
    // From here on nothing happens that would be written.
    let mut events = follower(&["events", "-f"]).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut line = String::new();
    BufReader::new(events.stdout.take().expect("piped")).read_line(&mut line).expect("text");
    let deadline = Instant::now() + PATIENCE;
    while events.try_wait().expect("our child").is_none() {
        assert!(Instant::now() < deadline, "it follows for nobody");
        std::thread::sleep(Duration::from_millis(5));
    }
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn output_and_events_are_chosen_by_time() {
    let host = Host::new("", &group(&["a"]));
    let mut daemon = host.ready();
    let mut follow = Command::new(program("pepitactl"));
    let mut follow =
        Daemon::start(follow.arg("--socket").arg(host.path("c/c.sock")).args(["logs", "-f", "a"]));
    follow.until("tick 1");
    let count = |args: &[&str]| host.ctl_ok(args).lines().count();
    let all = count(&["events"]);
    assert!(all > 2);
    for since in ["1h", "1970-01-01T00:00:00Z", "1960-01-01T00:00:00Z", "@0", "100years ago"] {
        assert_eq!(count(&["events", "--since", since]), all, "{since}");
        assert!(host.ctl_ok(&["logs", "a", "--since", since]).contains("tick 1"), "{since}");
    }
    for span in [["--since", "9998-01-01T00:00:00Z"], ["--until", "1960-01-01T00:00:00Z"], ["--until", "@1"]]
    {
        assert_eq!(count(&["events", span[0], span[1]]), 0, "{span:?}");
        assert_eq!(host.ctl_ok(&["logs", "a", span[0], span[1]]), "", "{span:?}");
    }
    let later = host.ctl_ok(&["logs", "a", "--until", "9998-01-01T00:00:00Z"]);
    assert!(later.contains("tick 1"), "{later}");
    let never = host.ctl(&["events", "--since", "1h", "--until", "2h"]);
    assert_eq!(never.status.code(), Some(64), "{}", stderr(&never));
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn words_of_a_guest_do_not_steer_the_terminal() {
    let evil = "[[group.vm]]\nname = \"evil\"\nrestart.policy = \"never\"\ncommand = [\"/no/such\\u001b]0;x\\u0007\\u009bfile\"]\n";
    let host = Host::new("", &format!("{}{evil}", group(&["a"])));
    let mut daemon = Daemon::start(&mut host.pepitad(&[]));
    host.ctl(&["wait", "evil"]);
    let (ctl, socket) = (program("pepitactl"), host.path("c/c.sock"));
    for args in ["status", "status evil", "status --json", "tree", "events", "events --json", "wait evil"] {
        // Into a pipe, and on a terminal, which script(1) makes.
        let call = format!("{} --socket {} {args}", ctl.display(), socket.display());
        let piped = host.ctl(&args.split(' ').collect::<Vec<_>>());
        let terminal =
            Command::new("script").args(["-qefc", &call, "/dev/null"]).output().expect("script runs");
        for text in [stdout(&piped) + &stderr(&piped), stdout(&terminal)] {
            assert!(text.contains("]0;x"), "{args}: {text:?}");
            assert!(!text.contains(['\u{7}', '\u{9b}']) && !text.contains("\u{1b}]"), "{args}: {text:?}");
        }
    }
    daemon.stop();
    let story = daemon.story();
    assert!(story.contains("]0;x") && !story.contains(['\u{7}', '\u{9b}', '\u{1b}']), "{story:?}");
    host.assert_nothing_left();
}
