//! Kills of the supervisor at random moments, while clients send commands and daemons are killed.

use crate::chaos::check_story;
use crate::host::{Daemon, Host};
use crate::injection::{DAEMON, live, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const VMS: usize = 20;
/// The number of kills between two looks at the whole.
const ROUND: usize = 10;

fn name(vm: usize) -> String {
    format!("v{vm}")
}

fn who(host: &Host, vm: usize) -> std::path::PathBuf {
    host.path(&format!("who-{vm}"))
}

fn host() -> Host {
    let host = Host::new("", "");
    let vm = |vm: usize| {
        let command = ["/bin/sh", "-c", DAEMON, &who(&host, vm).to_string_lossy()].map(str::to_owned);
        // Every fourth VM has a warm spare.
        let standby = u32::from(vm.is_multiple_of(4));
        format!(
            "[[group.vm]]\nname = \"{}\"\nstart.ready = \"started\"\nrestart.policy = \"always\"\nstandby = {standby}\n\
             command = {command:?}\n",
            name(vm)
        )
    };
    let group = |group: usize| {
        let vms: String = (0..VMS / 2).map(|index| vm(group * VMS / 2 + index)).collect();
        format!("[[group]]\nname = \"g{group}\"\nintensity = 1000000\n{vms}")
    };
    host.configure("", &(group(0) + &group(1)));
    host
}

/// Returns the daemons of a VM that run at the same time: a daemon that ended while the others were looked at does not
/// count.
fn at_once(host: &Host, vm: usize) -> Vec<u32> {
    let first = live(&who(host, vm));
    if first.len() <= 1 {
        return first;
    }
    let again = live(&who(host, vm));
    first.into_iter().filter(|pid| again.contains(pid)).collect()
}

/// Asserts that every file of the journal is whole, and that none was set aside.
fn assert_journal_readable(dir: &Path) {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        // A supervisor that is killed in its first moment has made no directory yet.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return,
        Err(e) => panic!("{}: {e}", dir.display()),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            assert_journal_readable(&path);
        } else if path.extension().is_some_and(|extension| extension == "json") {
            let bytes = std::fs::read(&path).expect("a readable file");
            let read: Result<Value, _> = serde_json::from_slice(&bytes);
            assert!(read.is_ok(), "{}: {read:?}: {}", path.display(), String::from_utf8_lossy(&bytes));
        }
        assert!(!path.to_string_lossy().contains("unreadable"), "{} was set aside", path.display());
    }
}

/// Ends the load when it is dropped, also by a panic: the panic would wait for the load otherwise.
struct EndOfLoad<'a>(&'a AtomicBool);

impl Drop for EndOfLoad<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends random commands, and kills random daemons, until `done`.
fn load(host: &Host, seed: u64, done: &AtomicBool, sent: &AtomicUsize) {
    let mut random = fastrand::Rng::with_seed(seed);
    while !done.load(Ordering::Relaxed) {
        let vm = random.usize(..VMS);
        match random.u8(..6) {
            0 => drop(host.ctl(&["restart", &name(vm)])),
            1 => drop(host.ctl(&["stop", &name(vm)])),
            2 | 3 => drop(host.ctl(&["start", &name(vm)])),
            4 => drop(host.ctl(&["status"])),
            _ => {
                for pid in live(&who(host, vm)) {
                    // The daemon may have ended by itself meanwhile.
                    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
                }
            }
        }
        sent.fetch_add(1, Ordering::Relaxed);
    }
}

/// Starts every VM that a command has stopped; all are ready, each with one daemon.
fn assert_whole(host: &Host, daemon: &Daemon) {
    let waited = host.ctl(&["wait", "--timeout", "90"]);
    assert!(waited.status.success(), "not all ready again: {}", daemon.story());
    host.ctl_ok(&["start", "all"]);
    for vm in 0..VMS {
        // The phase `ready` comes a moment before the shell has written its pid.
        until(&format!("{} has one daemon; {:?}", name(vm), at_once(host, vm)), || {
            at_once(host, vm).len() == 1
        });
    }
}

/// Kills the supervisor at random moments, with 20 VMs under a load of commands. No VM has two daemons at any time, none
/// is lost, no end is told twice, the journal can always be read. `PEPITA_SUPERVISOR_KILLS` (default 40) says how often.
#[test]
fn a_supervisor_that_is_killed_at_random_moments_loses_and_doubles_nothing() {
    let kills: usize =
        std::env::var("PEPITA_SUPERVISOR_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(40);
    let seed = std::env::var("PEPITA_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("PEPITA_SEED={seed}");
    let host = host();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut story: Vec<Value> = Vec::new();
    let mut killed = 0;
    let sent = AtomicUsize::new(0);
    while killed < kills {
        let done = AtomicBool::new(false);
        let mut daemon = host.start();
        std::thread::scope(|scope| {
            let _end = EndOfLoad(&done);
            for _ in 0..3 {
                let seed = random.u64(..);
                let (host, done, sent) = (&host, &done, &sent);
                scope.spawn(move || load(host, seed, done, sent));
            }
            for _ in 0..ROUND {
                // A random moment: of the start, of the adoptions, of the commands.
                std::thread::sleep(Duration::from_millis(random.u64(..400)));
                daemon.kill();
                killed += 1;
                story.append(&mut daemon.events());
                assert_journal_readable(&host.path("s"));
                for vm in 0..VMS {
                    let daemons = at_once(&host, vm);
                    assert!(daemons.len() <= 1, "{} has the daemons {daemons:?}", name(vm));
                }
                daemon = host.start();
            }
        });
        assert_whole(&host, &daemon);
        daemon.kill();
        story.append(&mut daemon.events());
    }
    let mut daemon = host.ready();
    assert_whole(&host, &daemon);
    daemon.stop();
    story.append(&mut daemon.events());
    check_story(&story);
    for vm in 0..VMS {
        assert_eq!(live(&who(&host, vm)), [] as [u32; 0], "an orphan of {}", name(vm));
    }
    host.assert_nothing_left();
    println!("{killed} kills, {} commands", sent.load(Ordering::Relaxed));
}
