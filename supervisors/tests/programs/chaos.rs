//! Kills at random, of whatever there is to kill: VMMs, monitors, vsock back-ends, and the supervisor itself, which is
//! started again as systemd would.

use crate::host::{Daemon, Host};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const VMS: [&str; 4] = ["a", "b", "c", "d"];

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Vmm,
    Monitor,
    Backend,
    Supervisor,
}

/// The process that this is of a VM now, if it is there.
fn pid_of(host: &Host, victim: Victim, vm: &str) -> Option<i32> {
    let output = host.pepita(&["status", "--name", &format!("duende-vm-{vm}"), "--json"]);
    let status: pepita_wire::StatusRecord = serde_json::from_slice(&output.stdout).ok()?;
    let pid = match victim {
        Victim::Vmm => status.vmm_pid?,
        Victim::Monitor => status.monitor_pid?,
        Victim::Backend => {
            let state = std::fs::read(format!("{}/state.json", status.dir)).ok()?;
            let state: serde_json::Value = serde_json::from_slice(&state).ok()?;
            u32::try_from(state.get("backend")?.get("pid")?.as_u64()?).ok()?
        }
        Victim::Supervisor => return None,
    };
    i32::try_from(pid).ok()
}

/// `a #3: …` in an event's line.
fn incarnation(line: &str) -> Option<(&str, u64)> {
    let mut words = line.split(' ').skip(1);
    let (vm, number) = (words.next()?, words.next()?);
    let number = number.strip_prefix('#')?.strip_suffix(':')?.parse().ok()?;
    VMS.contains(&vm).then_some((vm, number))
}

/// Every 200 to 800 ms: incarnations only grow, none ends twice, there are never two VMMs of one name, and all are Ready
/// again after the last kill. Seconds: `PEPITA_CHAOS_SECONDS` (default 45).
#[test]
fn random_kills_are_survived() {
    let seconds = std::env::var("PEPITA_CHAOS_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(45);
    let rows: String = VMS.iter().map(|vm| format!("[[group.vm]]\nname = \"{vm}\"\n")).collect();
    let host = Host::with_microvms(&format!("[[group]]\nname = \"web\"\nintensity = 100000\n{rows}"));
    let mut daemon = host.ready();
    let mut random = fastrand::Rng::with_seed(7);
    let mut kills: BTreeMap<Victim, usize> = BTreeMap::new();
    let mut story: Vec<String> = Vec::new();
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(random.u64(200..800)));
        let vm = VMS[random.usize(..VMS.len())];
        let victim = match random.u8(..10) {
            0..3 => Victim::Vmm,
            3..6 => Victim::Monitor,
            6..9 => Victim::Backend,
            _ => Victim::Supervisor,
        };
        let killed = match victim {
            Victim::Supervisor => {
                daemon.kill();
                story.append(&mut daemon.seen);
                daemon = Daemon::start(&mut host.pepitad(&[]));
                true
            }
            // It may have ended by itself meanwhile.
            _ => {
                pid_of(&host, victim, vm).is_some_and(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok())
            }
        };
        *kills.entry(victim).or_default() += usize::from(killed);
        let qemus = host.processes().iter().filter(|stat| is_live_qemu(stat)).count();
        assert!(qemus <= VMS.len(), "{qemus} VMMs of {} names", VMS.len());
    }
    let last_kill = Instant::now();
    let waited = host.ctl(&["wait", "--timeout", "90"]);
    assert!(waited.status.success(), "not all ready again: {}", daemon.story());
    println!("{kills:?} killed in {seconds} s; all ready {:?} after the last", last_kill.elapsed());
    for vm in VMS {
        host.vmm_pid(vm);
    }
    assert_eq!(
        host.processes().iter().filter(|stat| is_live_qemu(stat)).count(),
        VMS.len(),
        "one VMM a name"
    );
    daemon.stop();
    story.append(&mut daemon.seen);
    judge(&story);
    host.assert_nothing_left();
}

fn is_live_qemu(stat: &str) -> bool {
    stat.contains("(qemu") && !stat.contains(") Z ")
}

/// Incarnations only grow, and each ends at most once.
fn judge(story: &[String]) {
    let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
    let mut ends: BTreeMap<(&str, u64), usize> = BTreeMap::new();
    for line in story {
        let Some((vm, number)) = incarnation(line) else { continue };
        let known = newest.entry(vm).or_default();
        assert!(number >= *known, "{line}\n{}", story.join("\n"));
        *known = number;
        if line.contains("-> backoff") {
            *ends.entry((vm, number)).or_default() += 1;
        }
    }
    println!("newest incarnations {newest:?}, {} ends told", ends.len());
    let twice: Vec<_> = ends.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?} ended twice:\n{}", story.join("\n"));
}
