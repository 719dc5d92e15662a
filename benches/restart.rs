//! Measures the time from a SIGKILL until the daemon runs again: until its new process has written its pid to a file. The
//! baseline are other supervisors, as far as they are installed, measured in the same run and the same way.
//!
//! Variables, with their defaults: `PEPITA_RESTART_KILLS` (200), `PEPITA_RESTART_ONLY` (`pepita`, or the name of another
//! supervisor).

mod common;
mod peers;

use common::{Place, all_ready, kill, ms, percentile};
use pepita_supervisor::tree::Tree;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long to wait for a restart before the benchmark fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many daemons run, and how many are killed at once at the end.
const MANY: usize = 100;

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

pub(crate) fn report(who: &str, mut times: Vec<Duration>, many: Option<Duration>) {
    times.sort();
    let (median, p99) = (percentile(&times, 0.5), percentile(&times, 0.99));
    let many = many.map_or("-".to_owned(), ms);
    println!(
        "{who:<12} {:>6} kills  median {:>10}  p99 {:>10}  {MANY} at once {many:>12}",
        times.len(),
        ms(median),
        ms(p99)
    );
}

pub(crate) fn kills() -> usize {
    std::env::var("PEPITA_RESTART_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(200)
}

async fn pepita() {
    let place = Place::new();
    let daemon = place.daemon();
    let files: Vec<PathBuf> = (0..MANY).map(|n| place.path(&format!("pid-{n}"))).collect();
    let vms = files.iter().enumerate().map(|(n, file)| place.vm(&format!("vm-{n}"), &[&daemon, file]));
    // Each VM is in a group of its own, because groups start at the same time.
    let groups = vms.enumerate().map(|(n, vm)| Place::group(&format!("g-{n}"), vec![vm])).collect();
    place.with(groups, |tree| measure(tree, files)).await;
}

async fn measure(tree: Tree, files: Vec<PathBuf>) {
    all_ready(&tree, &[], PATIENCE).await;
    let mut times = Vec::new();
    for n in 0..kills() {
        let (name, file) = (format!("vm-{}", n % MANY), files[n % MANY].clone());
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
    let many = back.await.expect("no panic");
    report("pepita", times, Some(many));
}

#[tokio::main]
async fn main() {
    let only = std::env::var("PEPITA_RESTART_ONLY").ok();
    let wanted = |who: &str| only.as_deref().is_none_or(|only| only == who);
    if wanted("pepita") {
        pepita().await;
    }
    for peer in peers::ALL.iter().filter(|peer| wanted(peer.name)) {
        peers::measure(peer);
    }
}
