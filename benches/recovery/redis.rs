//! A client that writes to a redis through a published port while the VMM of the redis is killed: with a warm spare and, in turn,
//! without one. This redis keeps everything in memory, and has nothing after a kill.

use crate::client::{Client, writes};
use crate::common::{Aim, Figure, Place, all_ready, in_ms, missing, ms};
use crate::kill::recover;
use crate::{KINDS, PATIENCE, guest, median_and_late, number, spare_at_rest, with_both_kinds, without_delay};
use pepita_supervisor::spec::{HealthSpec, MachineSpec, Readiness, VmName, VmSpec};
use pepita_supervisor::tree::Tree;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Set in the process that measures redis alone: the data directory of the launcher, where container images are, is
/// known by a variable of the environment.
const ASKED: &str = "PEPITA_RECOVERY_REDIS";

fn kills() -> usize {
    number("PEPITA_RECOVERY_REDIS_KILLS", 20)
}

pub(crate) fn is_asked_for() -> bool {
    std::env::var_os(ASKED).is_some()
}

/// Measures a redis, if there is an image of one.
pub(crate) fn in_a_process_of_its_own(place: &Place) {
    let layout = Path::new(env!("CARGO_MANIFEST_DIR")).join(".guest/images/redis");
    if kills() == 0 {
        return;
    }
    if !layout.exists() {
        let why = ".guest/images/redis is not there";
        println!("redis is not measured: {why}");
        return missing("recovery", "a redis", why, "scripts/setup-tests.sh redis");
    }
    let mut own = Command::new(std::env::current_exe().expect("our own program"));
    own.env(ASKED, "1").env("PEPITA_DATA_DIR", place.path("data")).env("PEPITA_AGENT", guest("daemonctl"));
    let ended = own.status().expect("our own program runs");
    assert!(ended.success(), "redis: {ended}");
}

fn vm(name: &str, standby: u32, port: u16) -> VmSpec {
    let image = format!("oci:{}:7", guest("images/redis").display());
    let machine = MachineSpec {
        image: Some(image),
        rootfs: PathBuf::new(),
        vcpus: 1,
        memory_mb: 256,
        ..MachineSpec::qemu(guest("vmlinuz"), PathBuf::new())
    };
    let mut vm = VmSpec::new(VmName::new(name).expect("a good name"), machine);
    vm.command = ["--save", "", "--appendonly", "no"].map(str::to_owned).into();
    vm.start.ready = Readiness::Health;
    vm.health = HealthSpec { tcp: 6379, ..HealthSpec::default() };
    vm.publish = vec![format!("127.0.0.1:{port}:6379").parse().expect("a port")];
    vm.standby = standby;
    without_delay(vm)
}

pub(crate) async fn measure(place: &Place) {
    with_both_kinds(place, vm, in_turn).await;
}

async fn in_turn(tree: Tree, ports: [u16; 2]) {
    all_ready(&tree, &[], PATIENCE).await;
    let (mut stalls, mut ready): ([Vec<Duration>; 2], [Vec<Duration>; 2]) = Default::default();
    let (mut refused, mut broken, mut writes_made) = ([0; 2], [0; 2], [0; 2]);
    for round in 0..kills() {
        for (index, (name, standby)) in KINDS.iter().enumerate() {
            if *standby == 0 && round % 4 != 0 {
                continue;
            }
            spare_at_rest(&tree, name).await;
            let client = Client::start(writes(ports[index]));
            tokio::time::sleep(Duration::from_millis(200)).await;
            ready[index].push(recover(&tree, name).await.ready);
            tokio::time::sleep(Duration::from_millis(200)).await;
            let met = client.end().await;
            stalls[index].push(met.longest());
            refused[index] += met.refused;
            broken[index] += met.broken;
            writes_made[index] += met.waits.len();
        }
    }
    for (index, (name, _)) in KINDS.iter().enumerate() {
        let [stall, late] = median_and_late(&stalls[index]);
        println!(
            "redis, {name}: longest stall of a client that writes, in each of {} kills, median {} (p99 {}); Ready after {}; {} \
             writes, {} connections refused, {} ended with their VM",
            stalls[index].len(),
            ms(stall),
            ms(late),
            ms(median_and_late(&ready[index])[0]),
            writes_made[index],
            refused[index],
            broken[index],
        );
    }
    let figure = Figure::times("recovery", "longest stall of a redis client, with a warm spare", &stalls[0]);
    figure.against("cold restart", in_ms(median_and_late(&stalls[1])[0])).record();
    let what = "SIGKILL of the VMM until the redis is Ready, with a warm spare";
    let figure = Figure::times("recovery", what, &ready[0]);
    figure.against("cold restart", in_ms(median_and_late(&ready[1])[0])).record();
    let refused: usize = refused.iter().sum();
    let what = "connections of redis clients refused";
    let figure = Figure::value("recovery", what, "", refused as f64, stalls.iter().map(Vec::len).sum());
    figure.aim(Aim::AtMost(0.0)).record();
}
