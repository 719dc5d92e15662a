//! Measures the time from a SIGKILL until the daemon runs again: until its new process has written its pid to a file. The
//! baseline are other supervisors, as far as they are installed, measured in the same run and the same way.
//!
//! Variables, with their defaults: `PEPITA_RESTART_KILLS` (200), `PEPITA_RESTART_VMS` (100 daemons, which are killed at once at
//! the end), `PEPITA_RESTART_ONLY` (`pepita`, or the name of another supervisor).

mod common;
mod peers;

use common::{Aim, Figure, Place, all_ready, in_ms, kill, ms, percentile};
use pepita_supervisor::tree::Tree;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long to wait for a restart before the benchmark fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the median restart and that of all at once are aimed to be, beside these supervisors.
const AIMS: [(&str, f64, Option<f64>); 2] = [("runit", 1.0, Some(1.0)), ("erlang", 1.3, None)];

/// What was measured of a supervisor.
pub(crate) struct Measured {
    who: &'static str,
    times: Vec<Duration>,
    /// The time until all daemons, killed at once, ran again.
    many: Duration,
}

/// Returns how many daemons run, and how many are killed at once at the end.
pub(crate) fn many() -> usize {
    std::env::var("PEPITA_RESTART_VMS").ok().and_then(|n| n.parse().ok()).unwrap_or(100)
}

/// Returns the pid that the daemon wrote last; 0 when it has written none.
pub(crate) fn pid_in(file: &Path) -> u32 {
    // Without the newline the file is not complete yet.
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.strip_suffix('\n').and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Waits until the file has another pid than `former`, and returns it.
pub(crate) fn await_other(file: &Path, former: u32) -> u32 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match pid_in(file) {
            0 => {}
            pid if pid != former => return pid,
            _ => {}
        }
        assert!(Instant::now() < deadline, "{}: the daemon was not restarted", file.display());
        std::thread::sleep(Duration::from_micros(100));
    }
}

pub(crate) fn report(who: &'static str, mut times: Vec<Duration>, all: Duration) -> Measured {
    times.sort();
    let (median, p99) = (percentile(&times, 0.5), percentile(&times, 0.99));
    println!(
        "{who:<12} {:>6} kills  median {:>10}  p99 {:>10}  {} at once {:>12}",
        times.len(),
        ms(median),
        ms(p99),
        many(),
        ms(all)
    );
    Measured { who, times, many: all }
}

/// Stores our figures, each beside those of every other supervisor.
fn store(ours: &Measured, others: &[Measured]) {
    let one = Figure::times("restart", "SIGKILL until the daemon runs", &ours.times);
    let all = Figure::value("restart", "all killed at once until all run", "ms", in_ms(ours.many), 1);
    if others.is_empty() {
        one.clone().record();
        all.clone().record();
    }
    for other in others {
        let aims = AIMS.iter().find(|(who, ..)| *who == other.who);
        let mut times = other.times.clone();
        times.sort();
        let mut one = one.clone().against(other.who, in_ms(percentile(&times, 0.5)));
        let mut all = all.clone().against(other.who, in_ms(other.many));
        if let Some((_, aim, aim_of_all)) = aims {
            one = one.ratio_aim(Aim::AtMost(*aim));
            all = aim_of_all.map_or(all.clone(), |aim| all.ratio_aim(Aim::AtMost(aim)));
        }
        one.record();
        all.record();
    }
}

pub(crate) fn kills() -> usize {
    std::env::var("PEPITA_RESTART_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(200)
}

async fn pepita() -> Measured {
    let place = Place::new();
    let daemon = place.daemon();
    let files: Vec<PathBuf> = (0..many()).map(|n| place.path(&format!("pid-{n}"))).collect();
    let vms = files.iter().enumerate().map(|(n, file)| place.vm(&format!("vm-{n}"), &[&daemon, file]));
    // Each VM is in a group of its own, because groups start at the same time.
    let groups = vms.enumerate().map(|(n, vm)| Place::group(&format!("g-{n}"), vec![vm])).collect();
    let (sender, receiver) = std::sync::mpsc::channel();
    place.with(groups, |tree| measure(tree, files, sender)).await;
    receiver.recv().expect("all is measured")
}

async fn measure(tree: Tree, files: Vec<PathBuf>, measured: std::sync::mpsc::Sender<Measured>) {
    all_ready(&tree, &[], PATIENCE).await;
    let mut times = Vec::new();
    for n in 0..kills() {
        let (name, file) = (format!("vm-{}", n % many()), files[n % many()].clone());
        let vm = tree.status().vm(&name).cloned().expect("there is such a VM");
        let (former, vmm) = (pid_in(&file), vm.vmm_pid.expect("a running process"));
        let back = tokio::task::spawn_blocking(move || {
            let before = Instant::now();
            kill(vmm);
            await_other(&file, former);
            before.elapsed()
        });
        times.push(back.await.expect("no panic"));
        all_ready(&tree, &[(name, vm.incarnation.0)], PATIENCE).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    let status = tree.status();
    let former: Vec<u32> = files.iter().map(|file| pid_in(file)).collect();
    let vmms: Vec<u32> = status.vms().filter_map(|vm| vm.vmm_pid).collect();
    let back = tokio::task::spawn_blocking(move || {
        let before = Instant::now();
        vmms.into_iter().for_each(kill);
        for (file, former) in files.iter().zip(former) {
            await_other(file, former);
        }
        before.elapsed()
    });
    let all = back.await.expect("no panic");
    measured.send(report("pepita", times, all)).expect("the caller waits");
}

#[tokio::main]
async fn main() {
    let only = std::env::var("PEPITA_RESTART_ONLY").ok();
    let wanted = |who: &str| only.as_deref().is_none_or(|only| only == who);
    let ours = if wanted("pepita") { Some(pepita().await) } else { None };
    let peers = peers::ALL.iter().filter(|peer| wanted(peer.name));
    let others: Vec<Measured> = peers.filter_map(peers::measure).collect();
    if let Some(ours) = ours {
        store(&ours, &others);
    }
}
