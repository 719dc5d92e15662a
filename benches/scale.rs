//! Measures many VMs in one tree, with the real launcher and `--vmm process`: `make bench-scale`. The memory of the empty
//! process, measured before, is the baseline of the memory for a VM.
//!
//! Variables, with their defaults: `PEPITA_SCALE_VMS` (500), `PEPITA_SCALE_REST_SECONDS` (60).

mod common;

use common::{Place, all_ready, kill, ms};
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

#[tokio::main]
async fn main() {
    let vms = number("PEPITA_SCALE_VMS", 500);
    let place = Place::new();
    let sleep = [Path::new("/bin/sleep"), Path::new("1000000")];
    let names: Vec<String> = (0..vms).map(|n| format!("vm-{n}")).collect();
    let groups = names.chunks(GROUP).enumerate().map(|(n, names)| {
        Place::group(&format!("g-{n}"), names.iter().map(|name| place.vm(name, &sleep)).collect())
    });
    let groups = groups.collect();
    println!("{vms} VMs (--vmm process) in groups of {GROUP}, launcher {}", place.pepita.display());
    let (run, empty, before) = (place.path("r"), rss_kib(), Instant::now());
    let stop = place.with(groups, move |tree| measure(tree, run, vms, empty, before)).await;
    println!("stop                        {:>12}", ms(stop));
}

async fn measure(tree: Tree, run: PathBuf, vms: usize, empty: usize, before: Instant) {
    let memory = || {
        println!(
            "supervisor's memory         {:>9} KiB   {:.1} KiB a VM",
            rss_kib(),
            rss_kib().saturating_sub(empty) as f64 / vms as f64
        )
    };
    all_ready(&tree, &[], PATIENCE).await;
    let took = before.elapsed();
    let each = took.as_secs_f64() * 1000.0 / vms as f64;
    println!("start until all ready       {:>12}   {each:.1} ms a VM", ms(took));
    memory();

    let count = vms.min(100);
    let status = tree.status();
    let victims: Vec<_> = status.vms().step_by((vms / count).max(1)).take(count).cloned().collect();
    let killed: Vec<_> = victims.iter().map(|vm| (vm.name.to_string(), vm.incarnation.0)).collect();
    let before = Instant::now();
    victims.iter().filter_map(|vm| vm.vmm_pid).for_each(kill);
    all_ready(&tree, &killed, PATIENCE).await;
    println!("{count:>3} killed, all ready again  {:>12}", ms(before.elapsed()));
    memory();

    let seconds = number("PEPITA_SCALE_REST_SECONDS", 60);
    let (own, others) = ([std::process::id()], others(&run));
    let before = (used(&own), used(&others));
    tokio::time::sleep(Duration::from_secs(seconds as u64)).await;
    let part = |used: Duration| used.as_secs_f64() * 100.0 / seconds as f64;
    println!(
        "at rest, over {seconds} s          {:>10.2} % of a core; monitors and agents {:.2} %",
        part(used(&own) - before.0),
        part(used(&others).saturating_sub(before.1)),
    );
}
