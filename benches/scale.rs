//! Measures how the cost of a tree grows with the number of its VMs: `make bench-scale`. First with the real launcher and
//! `--vmm process`, then with a launcher, monitors and guests that exist only in memory, so that the supervisor alone is
//! measured. Each size runs in a process of its own, whose memory when it was empty is the baseline of the memory for a VM.
//!
//! Variables, with their defaults: `PEPITA_SCALE_VMS` (`100,1000`: the sizes with processes), `PEPITA_SCALE_SCRIPTED`
//! (`100,1000,10000`: the sizes in memory), `PEPITA_SCALE_REST_SECONDS` (60). `PEPITA_SCALE_ONE` (`process:100`,
//! `scripted:100`) measures one size in this process.

mod common;
#[path = "scale/scripted.rs"]
mod scripted;
#[path = "../tests/support/mod.rs"]
mod support;

use common::{Aim, Figure, Place, all_ready, in_ms, kill, ms};
use pepita_supervisor::tree::Tree;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How many VMs are in a group. The VMs of a group start one after the other, and groups at the same time.
const GROUP: usize = 10;

/// How long to wait for all VMs before the benchmark fails.
const PATIENCE: Duration = Duration::from_secs(300);

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Returns the resident memory of this process, in KiB.
fn rss_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

/// Returns the processor time that these processes have used.
fn used(pids: &[u32]) -> Duration {
    let ticks = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<u64> = stat.rsplit_once(") ")?.1.split(' ').map(|f| f.parse().unwrap_or(0)).collect();
        Some(fields.get(11)? + fields.get(12)?)
    };
    // USER_HZ is 100 on all architectures that this project runs on.
    Duration::from_millis(pids.iter().filter_map(ticks).sum::<u64>() * 10)
}

/// Returns the pids of the monitors and agents of this run directory.
fn others(run: &Path) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").expect("/proc").flatten();
    let here =
        pids.filter(|pid| std::fs::read_link(pid.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(run)));
    here.filter_map(|pid| pid.file_name().to_str()?.parse().ok()).collect()
}

/// Returns the sizes that a variable has.
///
/// # Panics
///
/// When it has anything else.
fn sizes(variable: &str, default: &str) -> Vec<usize> {
    let text = std::env::var(variable).unwrap_or_else(|_| default.to_owned());
    let numbers = text.split(',').map(str::trim).filter(|number| !number.is_empty());
    let sizes = numbers.map(|number| number.parse().ok().filter(|n| *n > 0));
    let sizes: Option<Vec<usize>> = sizes.collect();
    sizes.unwrap_or_else(|| panic!("${variable} is {text:?}: numbers above 0 with commas are right"))
}

/// Returns a figure of a tree of this many VMs, with the aim for the size for which there is one.
fn figure(what: &str, unit: &str, value: f64, vms: usize, aim: Option<(usize, f64)>) -> Figure {
    let figure = Figure::value("scale", what, unit, value, 1).among(vms);
    match aim {
        Some((size, bound)) if size == vms => figure.aim(Aim::AtMost(bound)),
        _ => figure,
    }
}

fn main() {
    let runtime = || tokio::runtime::Runtime::new().expect("a runtime");
    if let Ok(one) = std::env::var("PEPITA_SCALE_ONE") {
        match one.split_once(':').map(|(kind, size)| (kind, size.parse())) {
            Some(("process", Ok(vms))) => runtime().block_on(processes(vms)),
            Some(("scripted", Ok(vms))) => runtime().block_on(scripted::measure(vms)),
            _ => panic!("$PEPITA_SCALE_ONE is {one:?}: process:100 or scripted:100 is right"),
        }
        return;
    }
    let own = std::env::current_exe().expect("our own path");
    for (kind, variable, default) in
        [("process", "PEPITA_SCALE_VMS", "100,1000"), ("scripted", "PEPITA_SCALE_SCRIPTED", "100,1000,10000")]
    {
        for vms in sizes(variable, default) {
            let mut one = std::process::Command::new(&own);
            let end = one.env("PEPITA_SCALE_ONE", format!("{kind}:{vms}")).status().expect("it runs");
            assert!(end.success(), "{kind}, {vms} VMs: {end}");
        }
    }
}

/// Measures a tree of this many VMs that are plain processes.
async fn processes(vms: usize) {
    let place = Place::new();
    let sleep = [Path::new("/bin/sleep"), Path::new("1000000")];
    let names: Vec<String> = (0..vms).map(|n| format!("vm-{n}")).collect();
    let groups = names.chunks(GROUP).enumerate().map(|(n, names)| {
        Place::group(&format!("g-{n}"), names.iter().map(|name| place.vm(name, &sleep)).collect())
    });
    let groups = groups.collect();
    println!("\n{vms} VMs (--vmm process) in groups of {GROUP}, launcher {}", place.pepita.display());
    let (run, empty, before) = (place.path("r"), rss_kib(), Instant::now());
    let stop = place.with(groups, move |tree| measure(tree, run, vms, empty, before)).await;
    println!("stop                        {:>12}", ms(stop));
    figure("processes: stop of all", "ms", in_ms(stop), vms, None).record();
}

async fn measure(tree: Tree, run: PathBuf, vms: usize, empty: usize, before: Instant) {
    let memory = || {
        let all = rss_kib();
        let each = all.saturating_sub(empty) as f64 / vms as f64;
        println!("supervisor's memory         {all:>9} KiB   {each:.1} KiB a VM");
        each
    };
    all_ready(&tree, &[], PATIENCE).await;
    let took = before.elapsed();
    let each = took.as_secs_f64() * 1000.0 / vms as f64;
    println!("start until all ready       {:>12}   {each:.1} ms a VM", ms(took));
    figure("processes: start until all are Ready", "ms", in_ms(took), vms, None).record();
    let each = memory();
    figure("processes: the supervisor's memory for a VM", "KiB", each, vms, Some((1000, 32.0))).record();

    let count = vms.min(100);
    let status = tree.status();
    let victims: Vec<_> = status.vms().step_by((vms / count).max(1)).take(count).cloned().collect();
    let killed: Vec<_> = victims.iter().map(|vm| (vm.name.to_string(), vm.incarnation.0)).collect();
    let before = Instant::now();
    victims.iter().filter_map(|vm| vm.vmm_pid).for_each(kill);
    all_ready(&tree, &killed, PATIENCE).await;
    let took = before.elapsed();
    println!("{count:>3} killed, all ready again  {:>12}", ms(took));
    figure("processes: 100 killed at once until all are Ready", "ms", in_ms(took), vms, None).record();
    memory();

    let seconds = number("PEPITA_SCALE_REST_SECONDS", 60);
    if seconds == 0 {
        return;
    }
    let (own, rest) = ([std::process::id()], others(&run));
    let before = (used(&own), used(&rest));
    tokio::time::sleep(Duration::from_secs(seconds as u64)).await;
    let part = |used: Duration| used.as_secs_f64() * 100.0 / seconds as f64;
    let (own, others) = (part(used(&own) - before.0), part(used(&rest).saturating_sub(before.1)));
    println!("at rest, over {seconds} s          {own:>10.2} % of a core; monitors and agents {others:.2} %");
    let aim = Some((1000, 1.0));
    figure("processes: the supervisor at rest", "% of a core", own, vms, aim).record();
    figure("processes: monitors and agents at rest", "% of a core", others, vms, None).record();
}
