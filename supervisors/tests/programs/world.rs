//! Tests of what supervision means to a daemon: its last work when it is unhealthy, the background, signals while its VM
//! starts, and what it inherits.

use crate::events::vm;
use crate::host::{Daemon, Host, program};
use std::path::PathBuf;
use std::process::Command;

/// Returns a group with one VM `a`, a shell script with these further keys.
fn script(text: &str, keys: &str) -> String {
    let command = ["/bin/sh", "-c", text];
    format!(
        "[[group]]\nname = \"web\"\n[[group.vm]]\nname = \"a\"\ncommand = {command:?}\nstart.ready = \"started\"\n{keys}\n"
    )
}

#[test]
fn an_unhealthy_daemon_does_its_last_work_and_a_deaf_one_is_killed() {
    // semantics 1.12
    let probes = "health.interval = \"200ms\"\nhealth.retries = 2\nhealth.command = [\"/bin/false\"]\n";
    let gentle = "trap 'echo got TERM >>said; exit 0' TERM; cd $0; while :; do sleep 0.05; done";
    let deaf = "trap 'echo got TERM >>said' TERM; cd $0; while :; do sleep 0.05; done";
    for text in [gentle, deaf] {
        let host = Host::new("", "");
        let text = text.replace("$0", &host.path("").to_string_lossy());
        host.configure("", &script(&text, &format!("{probes}health.stop_timeout = \"1s\"")));
        let mut daemon = host.start();
        let down = daemon.until_event(vm("a", 1, "backoff"));
        assert_eq!(down["ending"]["kind"], "unhealthy", "{}", daemon.story());
        let said = std::fs::read_to_string(host.path("said")).unwrap_or_default();
        assert_eq!(said.lines().next(), Some("got TERM"), "{}", daemon.story());
        daemon.stop();
        host.assert_nothing_left();
    }
}

#[test]
fn a_daemon_that_goes_to_the_background_is_told_so_in_an_event() {
    // semantics 1.16
    let host = Host::new("", &script("setsid sleep 1000 & sleep 0.1; exit 0", ""));
    let mut daemon = host.start();
    let line = daemon.until("it must stay in the foreground");
    assert!(line.contains("ended with 0 after"), "{line}");
    daemon.until_event(vm("a", 1, "completed"));
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn pepitactl_signals_a_vm_that_waits_to_be_restarted_and_it_stays_down() {
    // semantics 7.15
    let host = Host::new(
        "",
        &script("exit 3", "restart.backoff.initial_delay = \"60s\"\nrestart.backoff.max_delay = \"60s\""),
    );
    let mut daemon = host.start();
    daemon.until_event(vm("a", 1, "backoff"));
    let refused = host.ctl(&["signal", "a", "HUP"]);
    assert!(!refused.status.success(), "there is no daemon to be reloaded");
    host.ctl_ok(&["signal", "a", "TERM"]);
    daemon.until_event(vm("a", 1, "stopped"));
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn a_supervisor_under_nohup_makes_no_daemons_that_ignore_a_hangup() {
    // semantics 1.18
    let text = "cd DIR; grep -E 'Sig(Blk|Ign)' /proc/self/status >signals; env >environment; \
                echo $WATCHDOG_USEC $WATCHDOG_PID $$ >watchdog; mv watchdog done; exec sleep 1000";
    for wrapper in
        [&["nohup"][..], &["env", "--ignore-signal=HUP,USR1,USR2,CHLD", "--block-signal=TERM,WINCH"]]
    {
        let host = Host::new("", "");
        let text = text.replace("DIR", &host.path("").to_string_lossy());
        host.configure("", &script(&text, "health.watchdog = \"60s\""));
        let mut command = Command::new(wrapper[0]);
        command
            .args(&wrapper[1..])
            .arg(program("pepitad"))
            .arg("--config")
            .arg(host.path("c.toml"))
            .arg("--json");
        for name in
            ["SECRET", "LISTEN_FDS", "RUST_LOG", "PEPITACTL_SOCKET", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY"]
        {
            command.env(name, "leaked");
        }
        let mut daemon = Daemon::start(&mut command);
        daemon.until_event(vm("a", 1, "ready"));
        let read = |name: &str| std::fs::read_to_string(host.path(name)).unwrap_or_default();
        let deadline = std::time::Instant::now() + crate::host::PATIENCE;
        while !host.path("done").exists() && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let signals = read("signals");
        // The C library of the agent may ignore its own two signals in what it spawns.
        let mask = |line: &str| u64::from_str_radix(line.split_whitespace().last().unwrap_or_default(), 16);
        let masks: Vec<u64> =
            signals.lines().map(|line| mask(line).expect("a mask") & !(0b11 << 31)).collect();
        assert_eq!(masks, [0, 0], "{wrapper:?}: {signals}");
        assert!(!read("environment").contains("leaked"), "{}", read("environment"));
        let watchdog = read("done");
        let words: Vec<&str> = watchdog.split_whitespace().collect();
        assert_eq!((words[0], words[1]), ("60000000", words[2]));
        // The shell, which has descriptors of its own, becomes `sleep`, which opens its libraries for a moment. What was
        // inherited stays.
        let descriptors = || -> Vec<(String, PathBuf)> {
            let entries = std::fs::read_dir(format!("/proc/{}/fd", words[2])).expect("it runs").flatten();
            let named = entries.map(|fd| (fd.file_name().to_string_lossy().into_owned(), fd.path()));
            let mut all: Vec<_> =
                named.map(|(name, path)| (name, path.read_link().unwrap_or_default())).collect();
            all.sort();
            all
        };
        let are_standard =
            |all: &[(String, PathBuf)]| all.iter().map(|(name, _)| name.as_str()).eq(["0", "1", "2"]);
        while !are_standard(&descriptors()) && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert!(are_standard(&descriptors()), "{:?}", descriptors());
        // The supervisor itself hears SIGTERM, too, whatever it has inherited.
        daemon.stop();
        host.assert_nothing_left();
    }
}
