//! Measures what the jail of a VM's processes costs: a boot, a restart by the supervisor, and the memory of the VM's
//! processes, each without a share and with one. The baseline is the same VM with `jail = "none"`. Both are measured in
//! turn, so that other load on the machine slows both down.
//!
//! Variable, with its default: `PEPITA_JAIL_ROUNDS` (12 of each).

mod common;

use common::{Place, all_ready, kill, ms, percentile};
use pepita_supervisor::observe::VmPhase;
use pepita_supervisor::spec::{Jail, MachineSpec, ShareSpec, VmName, VmSpec};
use pepita_supervisor::tree::Tree;
use pepita_wire::StatusRecord;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The memory of the guests.
const MEMORY_MB: u32 = 128;

/// How long to wait for a VM before the benchmark fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is measured in turn.
const KINDS: [Kind; 4] = [
    Kind { name: "jail", jail: Jail::Full, has_share: false },
    Kind { name: "none", jail: Jail::None, has_share: false },
    Kind { name: "share-jail", jail: Jail::Full, has_share: true },
    Kind { name: "share-none", jail: Jail::None, has_share: true },
];

#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    jail: Jail,
    has_share: bool,
}

fn rounds() -> usize {
    std::env::var("PEPITA_JAIL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(12)
}

fn guest(file: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".guest").join(file);
    assert!(path.exists(), "{} is missing: run `make setup` first", path.display());
    path
}

fn pepita(place: &Place) -> Command {
    let mut command = Command::new(&place.pepita);
    command.env("PEPITA_RUN_DIR", place.path("alone")).stdin(Stdio::null());
    command
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The memory of a VM's processes, in KiB.
#[derive(Clone, Copy)]
struct Memory {
    all: u64,
    /// That of the monitor, the back-end and the server of the share: QEMU's has the guest's in it.
    beside_qemu: u64,
}

/// Boots a VM and removes it. Returns the time from the launch until the daemon is ready, and the memory that the VM's processes
/// have then.
fn boot(place: &Place, kind: Kind) -> (Duration, Memory) {
    let volume = format!("{}:/share", place.path("shared").display());
    let mut command = pepita(place);
    command.args(["run", "--name", kind.name, "--memory", &MEMORY_MB.to_string(), "--cpus", "1"]);
    command.args(["--jail", &kind.jail.to_string(), "--daemon", "--wait-ready"]);
    command.arg("--kernel").arg(guest("vmlinuz")).arg("--rootfs").arg(guest("ticker.cpio"));
    if kind.has_share {
        command.args(["-v", &volume]);
    }
    command.args(["--", "/usr/bin/ticker", "--interval", "60000"]);
    let began = Instant::now();
    output(&mut command);
    let took = began.elapsed();
    let pids = processes(place, kind.name);
    let memory = |is_counted: fn(u32) -> bool| {
        pids.iter().copied().filter(|pid| is_counted(*pid)).map(memory_kib).sum()
    };
    let memory = Memory { all: memory(|_| true), beside_qemu: memory(|pid| !is_qemu(pid)) };
    output(pepita(place).args(["destroy", "--name", kind.name, "--force"]));
    (took, memory)
}

/// Returns the monitor of a VM and the processes that it has started, with those that they have started.
fn processes(place: &Place, name: &str) -> Vec<u32> {
    let status: StatusRecord =
        serde_json::from_str(&output(pepita(place).args(["status", name, "--json"]))).expect("a status");
    let mut all = vec![status.monitor_pid.expect("it runs")];
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        all.extend(list.unwrap_or_default().split_whitespace().flat_map(str::parse::<u32>));
        next += 1;
    }
    all
}

fn is_qemu(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("qemu"))
}

/// Returns the memory of a process in KiB, shared memory divided among its users.
fn memory_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a process that runs");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("such a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Returns a VM of the supervisor.
fn vm(place: &Place, kind: Kind) -> VmSpec {
    let machine = MachineSpec::qemu(guest("vmlinuz"), guest("ticker.cpio"));
    let machine = MachineSpec { vcpus: 1, memory_mb: MEMORY_MB, jail: Some(kind.jail), ..machine };
    let mut vm = VmSpec::new(VmName::new(kind.name).expect("a good name"), machine);
    vm.command = ["/usr/bin/ticker", "--interval", "60000"].map(str::to_owned).into();
    vm.restart.backoff.initial = Duration::ZERO;
    if kind.has_share {
        vm.shares = vec![ShareSpec { path: place.path("shared"), mount: "/share".into(), read_only: true }];
    }
    vm
}

/// Kills the VMM of each VM in turn, and returns the times until it was ready again.
async fn restarts(tree: Tree, times: std::sync::mpsc::Sender<[Vec<Duration>; KINDS.len()]>) {
    all_ready(&tree, &[], PATIENCE).await;
    let mut all = KINDS.map(|_| Vec::new());
    for _ in 0..rounds() {
        for (kind, taken) in KINDS.iter().zip(&mut all) {
            let vm = tree.status().vm(kind.name).cloned().expect("there is such a VM");
            assert_eq!(vm.phase, VmPhase::Ready);
            let began = Instant::now();
            kill(vm.vmm_pid.expect("a running process"));
            all_ready(&tree, &[(kind.name.to_owned(), vm.incarnation.0)], PATIENCE).await;
            taken.push(began.elapsed());
        }
    }
    times.send(all).expect("the caller waits");
}

/// Prints the medians of a VM in a jail and of one in none, and their ratio.
fn report(what: &str, mut all: [Vec<Duration>; KINDS.len()]) {
    all.iter_mut().for_each(|times| times.sort_unstable());
    for (with, without, share) in [(0, 1, ""), (2, 3, " with a share")] {
        let [jail, none] = [&all[with], &all[without]].map(|times| percentile(times, 0.5));
        let range =
            |times: &[Duration]| format!("{}-{}", ms(percentile(times, 0.0)), ms(percentile(times, 1.0)));
        println!(
            "{what}{share}: jail {} ({})  none {} ({})  ratio {:.3}",
            ms(jail),
            range(&all[with]),
            ms(none),
            range(&all[without]),
            jail.as_secs_f64() / none.as_secs_f64()
        );
    }
}

/// Prints the medians of the memory, as [`report`] those of times.
fn report_memory(what: &str, all: &[Vec<Memory>; KINDS.len()], part: fn(&Memory) -> u64) {
    #[allow(clippy::cast_precision_loss, reason = "sizes far below 2^52 KiB")]
    let mib = |kib: u64| kib as f64 / 1024.0;
    for (with, without, share) in [(0, 1, ""), (2, 3, " with a share")] {
        let [jail, none] = [&all[with], &all[without]].map(|memory| {
            let mut sizes: Vec<u64> = memory.iter().map(part).collect();
            sizes.sort_unstable();
            mib(sizes[sizes.len() / 2])
        });
        println!(
            "memory (PSS) {what}{share}: jail {jail:.1} MiB  none {none:.1} MiB  ratio {:.3}",
            jail / none
        );
    }
}

fn main() {
    let place = Place::new();
    std::fs::create_dir(place.path("shared")).expect("a directory");
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load of the machine before: {}; {} of each, in turn", load.trim(), rounds());
    let (mut times, mut memory) = (KINDS.map(|_| Vec::new()), KINDS.map(|_| Vec::new()));
    // None pays for what the first boot makes and keeps.
    boot(&place, KINDS[0]);
    for _ in 0..rounds() {
        for (n, kind) in KINDS.into_iter().enumerate() {
            let (took, kib) = boot(&place, kind);
            times[n].push(took);
            memory[n].push(kib);
        }
    }
    report("launch to ready", times);
    report_memory("of all processes", &memory, |memory| memory.all);
    report_memory("beside QEMU", &memory, |memory| memory.beside_qemu);
    let groups = KINDS.map(|kind| Place::group(&format!("g-{}", kind.name), vec![vm(&place, kind)])).into();
    let (sender, receiver) = std::sync::mpsc::channel();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(place.with(groups, |tree| restarts(tree, sender)));
    report("SIGKILL of the VMM to ready", receiver.recv().expect("all is measured"));
}
