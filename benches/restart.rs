//! Measures the time from a SIGKILL until the daemon runs again: until its new process has written its pid to a file. The
//! baseline are other supervisors, as far as they are installed, measured in the same run and the same way.
//!
//! Variables, with their defaults: `PEPITA_RESTART_KILLS` (200), `PEPITA_RESTART_VMS` (100 daemons, which are killed at once at
//! the end), `PEPITA_RESTART_ONLY` (`pepita`, `pepita, spares`, `pepita, VM`, or the name of another supervisor).

mod common;
mod peers;

use common::{Aim, Figure, Place, all_ready, in_memory, in_ms, kill, ms, percentile, spare_ready};
use pepita_supervisor::spec::VmSpec;
use pepita_supervisor::tree::Tree;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// How long to wait for a restart before the benchmark fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the median restart and that of all at once are aimed to be, beside these supervisors.
const AIMS: [(&str, f64, Option<f64>); 2] = [("runit", 1.0, Some(1.0)), ("erlang", 1.3, None)];

/// Where the files of the supervisors are.
pub(crate) struct Home {
    pub(crate) dir: &'static Path,
    /// What a figure says of it.
    suffix: &'static str,
}

/// Returns the kinds of file systems that are measured: the usual run directory is in memory.
fn homes() -> [Home; 2] {
    let disk = Home { dir: Path::new("/var/tmp"), suffix: ", files on a disk" };
    [Home { dir: in_memory(), suffix: "" }, disk]
}

/// Ours: what of a VM is killed, and how many spares it has.
struct Way {
    who: &'static str,
    suffix: &'static str,
    standby: u32,
    /// The agent is killed, which is the VM itself when that is a process. Otherwise its daemon, as those of the others.
    kills_the_vm: bool,
}

const WAYS: [Way; 3] = [
    Way { who: "pepita", suffix: "", standby: 0, kills_the_vm: false },
    Way { who: "pepita, spares", suffix: ", with a spare", standby: 1, kills_the_vm: false },
    Way { who: "pepita, VM", suffix: ", the VM killed instead", standby: 0, kills_the_vm: true },
];

/// What was measured of a supervisor.
pub(crate) struct Measured {
    who: String,
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

pub(crate) fn report(who: String, home: &Home, mut times: Vec<Duration>, all: Duration) -> Measured {
    times.sort();
    let (median, p99) = (percentile(&times, 0.5), percentile(&times, 0.99));
    println!(
        "{:<32} {:>6} kills  median {:>10}  p99 {:>10}  {} at once {:>12}",
        format!("{who}{}", home.suffix),
        times.len(),
        ms(median),
        ms(p99),
        many(),
        ms(all)
    );
    Measured { who, times, many: all }
}

/// Stores our figures of one way, each beside those of every other supervisor.
fn store(way: &Way, home: &Home, ours: &Measured, others: &[Measured]) {
    let named = |what: &str| format!("{what}{}{}", way.suffix, home.suffix);
    let one = Figure::times("restart", &named("SIGKILL until the daemon runs"), &ours.times);
    let all = named("all killed at once until all run");
    let all = Figure::value("restart", &all, "ms", in_ms(ours.many), 1);
    if others.is_empty() {
        one.clone().record();
        all.clone().record();
    }
    for other in others {
        let aims = AIMS.iter().find(|(who, ..)| *who == other.who);
        let mut times = other.times.clone();
        times.sort();
        let mut one = one.clone().against(&other.who, in_ms(percentile(&times, 0.5)));
        let mut all = all.clone().against(&other.who, in_ms(other.many));
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

async fn pepita(way: &'static Way, home: &'static Home) -> Measured {
    let place = Place::below(home.dir);
    let daemon = place.daemon();
    let files: Vec<PathBuf> = (0..many()).map(|n| place.path(&format!("pid-{n}"))).collect();
    let vm = |(n, file): (usize, &PathBuf)| {
        let vm = place.vm(&format!("vm-{n}"), &[&daemon, file]);
        VmSpec { standby: way.standby, ..vm }
    };
    let vms = files.iter().enumerate().map(vm);
    // Each VM is in a group of its own, because groups start at the same time.
    let groups = vms.enumerate().map(|(n, vm)| Place::group(&format!("g-{n}"), vec![vm])).collect();
    let (sender, receiver) = std::sync::mpsc::channel();
    place.with(groups, |tree| measure(tree, way, home, files, sender)).await;
    receiver.recv().expect("all is measured")
}

async fn measure(tree: Tree, way: &Way, home: &Home, files: Vec<PathBuf>, measured: Sender<Measured>) {
    all_ready(&tree, &[], PATIENCE).await;
    for n in 0..many() {
        spare_ready(&tree, &format!("vm-{n}"), PATIENCE).await;
    }
    // What is killed of the VM with this number.
    let victim = |n: usize| {
        let status = tree.status();
        let vm = status.vm(&format!("vm-{n}")).expect("there is such a VM");
        if way.kills_the_vm { vm.vmm_pid.expect("a running process") } else { pid_in(&files[n]) }
    };
    let mut times = Vec::new();
    for n in (0..kills()).map(|n| n % many()) {
        let (name, file, victim) = (format!("vm-{n}"), files[n].clone(), victim(n));
        let incarnation = tree.status().vm(&name).expect("there is such a VM").incarnation.0;
        let former = pid_in(&file);
        let back = tokio::task::spawn_blocking(move || {
            let before = Instant::now();
            kill(victim);
            await_other(&file, former);
            before.elapsed()
        });
        times.push(back.await.expect("no panic"));
        all_ready(&tree, &[(name.clone(), incarnation)], PATIENCE).await;
        spare_ready(&tree, &name, PATIENCE).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    let former: Vec<u32> = files.iter().map(|file| pid_in(file)).collect();
    let victims: Vec<u32> = (0..many()).map(victim).collect();
    let back = tokio::task::spawn_blocking(move || {
        let before = Instant::now();
        victims.into_iter().for_each(kill);
        for (file, former) in files.iter().zip(former) {
            await_other(file, former);
        }
        before.elapsed()
    });
    let all = back.await.expect("no panic");
    measured.send(report(way.who.to_owned(), home, times, all)).expect("the caller waits");
}

#[tokio::main]
async fn main() {
    let only = std::env::var("PEPITA_RESTART_ONLY").ok();
    let wanted = |who: &str| only.as_deref().is_none_or(|only| only == who);
    static HOMES: LazyLock<[Home; 2]> = LazyLock::new(homes);
    for home in HOMES.iter() {
        let mut ours = Vec::new();
        for way in WAYS.iter().filter(|way| wanted(way.who)) {
            ours.push((way, pepita(way, home).await));
        }
        let peers = peers::ALL.iter().filter(|peer| wanted(peer.name));
        let others: Vec<Measured> = peers.filter_map(|peer| peers::measure(peer, home)).collect();
        for (way, ours) in &ours {
            store(way, home, ours, &others);
        }
    }
}
