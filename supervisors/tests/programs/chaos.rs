//! Random kills of every process there is: VMMs, monitors, vsock back-ends, and the supervisor itself, which the test
//! starts again as systemd would.

use crate::host::Host;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const VMS: [&str; 4] = ["a", "b", "c", "d"];

/// The process to kill: a process of a VM, or the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Vmm,
    Monitor,
    Backend,
    Supervisor,
}

impl Victim {
    const ALL: [Self; 4] = [Self::Vmm, Self::Monitor, Self::Backend, Self::Supervisor];
}

/// Returns the pid of this process of a VM; `None` when it does not run, and for the supervisor.
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

/// A kill every 200 to 800 ms: incarnations only grow, no incarnation ends twice, a name never has two VMMs, and all
/// VMs are ready again after the last kill. `PEPITA_CHAOS_SECONDS` (default 45) says for how long, `PEPITA_CHAOS_SEED`
/// who is killed; the seed is printed. Each kind of victim is killed at least once.
#[test]
fn random_kills_are_survived() {
    let seconds = std::env::var("PEPITA_CHAOS_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(45);
    let rows: String = VMS.iter().map(|vm| format!("[[group.vm]]\nname = \"{vm}\"\n")).collect();
    let host = Host::with_microvms(&format!("[[group]]\nname = \"web\"\nintensity = 100000\n{rows}"));
    let mut daemon = host.ready();
    let seed = std::env::var("PEPITA_CHAOS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("PEPITA_CHAOS_SEED={seed} repeats these kills");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut kills: BTreeMap<Victim, usize> = BTreeMap::new();
    let mut story: Vec<Value> = Vec::new();
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(random.u64(200..800)));
        let vm = VMS[random.usize(..VMS.len())];
        let drawn = match random.u8(..10) {
            0..3 => Victim::Vmm,
            3..6 => Victim::Monitor,
            6..9 => Victim::Backend,
            _ => Victim::Supervisor,
        };
        let missing = Victim::ALL.into_iter().find(|victim| !kills.contains_key(victim));
        let victim = missing.unwrap_or(drawn);
        let killed = match victim {
            Victim::Supervisor => {
                daemon.kill();
                story.append(&mut daemon.take_events());
                daemon = host.start();
                true
            }
            // The process may have ended by itself meanwhile.
            Victim::Vmm | Victim::Monitor | Victim::Backend => {
                pid_of(&host, victim, vm).is_some_and(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok())
            }
        };
        if killed {
            *kills.entry(victim).or_default() += 1;
        }
        let qemus = host.processes().iter().filter(|stat| is_live_qemu(stat)).count();
        assert!(qemus <= VMS.len(), "{qemus} VMMs of {} names", VMS.len());
    }
    let last_kill = Instant::now();
    let waited = host.ctl(&["wait", "--timeout", "90"]);
    assert!(waited.status.success(), "not all ready again: {}", daemon.story());
    println!("{kills:?} killed in {seconds} s; all ready {:?} after the last", last_kill.elapsed());
    for victim in Victim::ALL {
        assert!(kills.contains_key(&victim), "no {victim:?} was killed: {kills:?}");
    }
    for vm in VMS {
        host.vmm_pid(vm);
    }
    assert_eq!(
        host.processes().iter().filter(|stat| is_live_qemu(stat)).count(),
        VMS.len(),
        "one VMM a name"
    );
    daemon.stop();
    story.append(&mut daemon.take_events());
    check_story(&story);
    host.assert_nothing_left();
}

fn is_live_qemu(stat: &str) -> bool {
    stat.contains("(qemu") && !stat.contains(") Z ")
}

/// Asserts that incarnations only grow, and that each ends at most once.
pub(crate) fn check_story(story: &[Value]) {
    let all = || story.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
    let mut ends: BTreeMap<(&str, u64), usize> = BTreeMap::new();
    for event in story {
        let (Some(vm), Some(number)) = (event["vm"].as_str(), event["incarnation"].as_u64()) else {
            continue;
        };
        let known = newest.entry(vm).or_default();
        assert!(number >= *known, "{event}\n{}", all());
        *known = number;
        if event["to"] == "backoff" {
            *ends.entry((vm, number)).or_default() += 1;
        }
    }
    println!("newest incarnations {newest:?}, {} ends reported", ends.len());
    let twice: Vec<_> = ends.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?} ended twice:\n{}", all());
}
