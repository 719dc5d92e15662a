//! Measures what happens when the VMM of a microVM is killed: the time until its daemon is Ready again, part by part, with a warm
//! spare and, killed in turn, booted anew as the baseline of the same run; what clients of published ports meet, among them one
//! of a redis; recoveries when the kills are faster than the boots of spares; what a spare costs, and what its boot does to
//! the clients of another VM.
//!
//! Variables, with their defaults: `PEPITA_RECOVERY_KILLS` (50 with a spare, half as many without one; a fifth of it when kills are
//! faster than boots, and beside another VM), `PEPITA_RECOVERY_REDIS_KILLS` (20 with a spare, a quarter of it without one; 0
//! leaves redis out), `PEPITA_RECOVERY_SPARES` (2, whose cost is measured), `PEPITA_RECOVERY_REST_SECONDS` (30: the time for
//! which their processor time is counted).

#[path = "recovery/client.rs"]
mod client;
mod common;
#[path = "recovery/cost.rs"]
mod cost;
#[path = "recovery/exhausted.rs"]
mod exhausted;
#[path = "recovery/kill.rs"]
mod kill;
#[path = "recovery/parts.rs"]
mod parts;
#[path = "recovery/redis.rs"]
mod redis;

use common::{Place, percentile, spare_ready};
use pepita_supervisor::spec::{Backoff, MachineSpec, Readiness, VmName, VmSpec};
use pepita_supervisor::tree::Tree;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The memory of the guests.
const MEMORY_MB: u32 = 128;

/// The port of the daemon in the guest.
const PORT: u16 = 7000;

/// How long to wait for a VM or a spare before the benchmark fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is measured in turn: a VM with a spare, and one without, which is killed more seldom.
const KINDS: [(&str, u32); 2] = [("warm", 1), ("cold", 0)];

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Returns how many kills of a VM with a spare are measured.
fn kills() -> usize {
    number("PEPITA_RECOVERY_KILLS", 50)
}

fn guest(file: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".guest").join(file);
    assert!(path.exists(), "{} is missing: run `make setup` first", path.display());
    path
}

/// Returns a port that is free at the moment.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

/// Returns a microVM with a daemon that echoes at this port of the host, which comes back without a delay.
fn vm(name: &str, standby: u32, port: u16) -> VmSpec {
    let machine = MachineSpec {
        vcpus: 1,
        memory_mb: MEMORY_MB,
        ..MachineSpec::qemu(guest("vmlinuz"), guest("ticker.cpio"))
    };
    let mut vm = VmSpec::new(VmName::new(name).expect("a good name"), machine);
    vm.command = ["/usr/bin/ticker", "--interval", "60000", "--serve", "tcp:7000"].map(str::to_owned).into();
    vm.start.ready = Readiness::Notify;
    vm.publish = vec![format!("127.0.0.1:{port}:{PORT}").parse().expect("a port")];
    vm.standby = standby;
    without_delay(vm)
}

/// Runs `work` on a tree with a VM of each kind, each at a port of the host.
async fn with_both_kinds<W: Future<Output = ()> + Send + 'static>(
    place: &Place,
    vm: impl Fn(&str, u32, u16) -> VmSpec,
    work: impl FnOnce(Tree, [u16; 2]) -> W,
) {
    let ports = KINDS.map(|_| free_port());
    let kinds = KINDS.iter().zip(ports);
    let groups = kinds.map(|((name, standby), port)| Place::group(name, vec![vm(name, *standby, port)]));
    place.with(groups.collect(), |tree| work(tree, ports)).await;
}

fn without_delay(mut vm: VmSpec) -> VmSpec {
    vm.restart.backoff = Backoff { initial: Duration::ZERO, ..Backoff::default() };
    vm
}

/// Waits until the VM has its spare, and then a second: a guest executes a program for practice when it is ready, and slows a
/// promotion down meanwhile. What a spare is worth before is shown where spares are exhausted.
async fn spare_at_rest(tree: &Tree, name: &str) {
    spare_ready(tree, name, PATIENCE).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// Returns the median and the value below which 99 % lie.
fn median_and_late(times: &[Duration]) -> [Duration; 2] {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    [0.5, 0.99].map(|part| percentile(&sorted, part))
}

#[tokio::main]
async fn main() {
    let place = Place::new();
    if redis::is_asked_for() {
        return redis::measure(&place).await;
    }
    parts::measure(&place).await;
    exhausted::measure(&place).await;
    cost::measure(&place).await;
    redis::in_a_process_of_its_own(&place);
}
