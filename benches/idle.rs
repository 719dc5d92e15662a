//! Measures VMs that are asleep: the time from a connection to the first byte after a pause and after a stop, beside a VM that
//! is awake; the CPU time and the memory of many of them asleep and awake; 500 connections at once to VMs that sleep.
//!
//! Variables, with their defaults: `PEPITA_IDLE_ROUNDS` (50), `PEPITA_IDLE_PLAIN` (200), `PEPITA_IDLE_MICROVMS` (8; 0 for
//! plain processes alone), `PEPITA_IDLE_REST_SECONDS` (10: the time for which CPU time is counted),
//! `PEPITA_IDLE_SETTLE_SECONDS` (12: the time before that, in which the last timers expire).

mod common;

use common::{Aim, Figure, Place, Work, in_ms, ms, percentile, pss_kib};
use pepita_supervisor::spec::{IdleAction, IdleSpec, MachineSpec, Readiness, StartOn, VmSpec};
use pepita_supervisor::tree::Tree;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// How long to wait for anything before the benchmark fails.
const PATIENCE: Duration = Duration::from_secs(300);

/// The connections of the storm, and the VMs that they go to.
const STORM: (usize, usize) = (500, 20);

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Returns a port that nobody has, and that the kernel gives to no connection.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Returns a VM whose daemon echoes, and its port. A plain process listens at a Unix socket: its ports are those of the host.
fn vm(place: &Place, name: &str, is_machine: bool) -> (VmSpec, u16) {
    let port = free_port();
    let ticker = place.pepita.with_file_name("ticker");
    let mut vm = place.vm(name, &[&ticker, Path::new("--serve")]);
    let inside = match is_machine {
        true => {
            let guest = Path::new(env!("CARGO_MANIFEST_DIR")).join(".guest");
            vm.machine = MachineSpec::qemu(guest.join("vmlinuz"), guest.join("ticker.cpio"));
            (vm.machine.vcpus, vm.machine.memory_mb) = (1, 128);
            vm.command[0] = "/usr/bin/ticker".into();
            vm.command.push("tcp:7000".into());
            "7000".to_owned()
        }
        false => {
            // A daemon that starts again does not remove the socket of the former one.
            let script = place.path(&format!("{name}.sh"));
            let socket = place.path(&format!("{name}.sock"));
            let text =
                format!("#!/bin/sh\nrm -f {0}\nexec {1} --serve {0}\n", socket.display(), ticker.display());
            std::fs::write(&script, text).expect("written");
            common::make_executable(&script);
            vm.command = vec![script.to_string_lossy().into_owned()];
            format!("unix:{}", socket.display())
        }
    };
    vm.start.ready = Readiness::Notify;
    vm.publish = vec![format!("127.0.0.1:{port}:{inside}").parse().expect("a port")];
    (vm, port)
}

fn dozing(mut vm: VmSpec, action: IdleAction) -> VmSpec {
    vm.idle = IdleSpec { after: Duration::from_millis(200), action };
    vm
}

fn first_byte(port: u16) -> Duration {
    let since = Instant::now();
    let mut client = TcpStream::connect(("127.0.0.1", port)).expect("never refused");
    client.set_read_timeout(Some(PATIENCE)).expect("set");
    client.write_all(&[0; 9]).expect("written");
    client.read_exact(&mut [0]).expect("a byte");
    since.elapsed()
}

async fn until(tree: &Tree, name: &str, phase: &'static str) {
    let deadline = Instant::now() + PATIENCE;
    while tree.status().vm(name).is_none_or(|vm| vm.phase.word() != phase) {
        assert!(Instant::now() < deadline, "{name} is not {phase}: {:?}", tree.status().vm(name));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn wakes(place: &Place, is_machine: bool) {
    let kind = if is_machine { "microVM" } else { "process" };
    let (awake, at_awake) = vm(place, "awake", is_machine);
    let (pauses, at_paused) = vm(place, "pauses", is_machine);
    let (stops, at_stopped) = vm(place, "stops", is_machine);
    let vms = vec![awake, dozing(pauses, IdleAction::Pause), dozing(stops, IdleAction::Stop)];
    place
        .with(vec![Place::group("idle", vms)], move |tree| async move {
            until(&tree, "awake", "ready").await;
            let mut times: [Vec<Duration>; 3] = Default::default();
            for _ in 0..number("PEPITA_IDLE_ROUNDS", 50) {
                until(&tree, "pauses", "idle").await;
                until(&tree, "stops", "idle").await;
                // In turn, so that whatever else goes on hits all of them.
                for (times, port) in times.iter_mut().zip([at_awake, at_paused, at_stopped]) {
                    times
                        .push(tokio::task::spawn_blocking(move || first_byte(port)).await.expect("no panic"));
                }
            }
            let mut awake = times[0].clone();
            awake.sort();
            let awake = in_ms(percentile(&awake, 0.5));
            for (what, mut times) in ["awake", "paused", "stopped"].into_iter().zip(times) {
                times.sort();
                let figure = Figure::times("idle", &format!("{kind}, {what}: first byte"), &times);
                match what {
                    "awake" => figure.record(),
                    "paused" => figure.against("awake", awake).aim(Aim::AtMost(15.0)).record(),
                    _ => figure.against("awake", awake).record(),
                }
                let (median, p99) = (percentile(&times, 0.5), percentile(&times, 0.99));
                let rounds = times.len();
                println!(
                    "first byte, {kind:<8} {what:<8} {rounds:>4} times  median {:>10}  p99 {:>10}",
                    ms(median),
                    ms(p99)
                );
            }
        })
        .await;
}

/// Returns the processes of VMs, whose directory lies below this one.
fn processes(below: &Path) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").expect("there").flatten().map(|pid| pid.path());
    let here = pids.filter(|pid| std::fs::read_link(pid.join("cwd")).is_ok_and(|cwd| cwd.starts_with(below)));
    here.filter_map(|pid| pid.file_name()?.to_str()?.parse().ok()).collect()
}

async fn rest(place: &Place, count: usize, is_machine: bool) {
    let kind = if is_machine { "microVMs" } else { "processes" };
    let rest = Duration::from_secs(number("PEPITA_IDLE_REST_SECONDS", 10).max(1) as u64);
    // A VM that has just fallen asleep has a timer left, of its next probe.
    let settle = Duration::from_secs(number("PEPITA_IDLE_SETTLE_SECONDS", 12) as u64);
    let mut awake = None;
    let kinds = [("awake", None), ("paused", Some(IdleAction::Pause)), ("stopped", Some(IdleAction::Stop))];
    for (what, action) in kinds {
        let vms = (0..count).map(|number| {
            let (vm, _) = vm(place, &format!("vm{number}"), is_machine);
            action.map_or(vm.clone(), |action| dozing(vm, action))
        });
        let (groups, run_dir) = (vec![Place::group("idle", vms.collect())], place.path("r"));
        let (sender, receiver) = std::sync::mpsc::channel();
        place
            .with(groups, move |tree| async move {
                let expected = if action.is_some() { "idle" } else { "ready" };
                for number in 0..count {
                    until(&tree, &format!("vm{number}"), expected).await;
                }
                tokio::time::sleep(settle).await;
                let mut all = processes(&run_dir);
                all.push(std::process::id());
                let before = Work::of(&all);
                tokio::time::sleep(rest).await;
                let (work, kib) = (Work::of(&all).since(&before), pss_kib(&all));
                let used = work.time.as_secs_f64() / rest.as_secs_f64() * 100.0;
                println!(
                    "{count} {kind} {what:<8} {used:>7.3} % of a core, {} wake-ups, {:>8.1} MiB",
                    work.wake_ups,
                    kib as f64 / 1024.0
                );
                sender.send((used, kib as f64 / 1024.0)).expect("the caller waits");
            })
            .await;
        let measured: (f64, f64) = receiver.recv().expect("all is measured");
        let (used, mib) = measured;
        let figure = |part: &str, unit: &str, value: f64| {
            Figure::value("idle", &format!("{kind}, {what}: {part}"), unit, value, 1).among(count)
        };
        let (cpu, memory) = (figure("at rest", "% of a core", used), figure("memory (PSS)", "MiB", mib));
        let Some((used_awake, mib_awake)) = awake else {
            cpu.record();
            memory.record();
            awake = Some(measured);
            continue;
        };
        let cpu = if used_awake > 0.0 { cpu.against("awake", used_awake) } else { cpu };
        // The aim is that of 200 VMs.
        if count == 200 {
            cpu.aim(Aim::AtMost(0.1)).record()
        } else {
            cpu.record()
        }
        let memory = memory.against("awake", mib_awake);
        // Only a guest has memory of its own to give back.
        if is_machine && action == Some(IdleAction::Pause) {
            memory.ratio_aim(Aim::AtMost(0.5)).record();
        } else {
            memory.record();
        }
    }
}

async fn storm(place: &Place) {
    let (connections, count) = STORM;
    let (vms, ports): (Vec<VmSpec>, Vec<u16>) = (0..count)
        .map(|number| {
            let (mut vm, port) = vm(place, &format!("vm{number}"), false);
            vm.start.on = StartOn::Connection;
            (vm, port)
        })
        .unzip();
    place
        .with(vec![Place::group("idle", vms)], move |tree| async move {
            for number in 0..count {
                until(&tree, &format!("vm{number}"), "idle").await;
            }
            let since = Instant::now();
            let clients: Vec<_> = (0..connections)
                .map(|number| {
                    let port = ports[number % count];
                    std::thread::spawn(move || first_byte(port))
                })
                .collect();
            let join = move || clients.into_iter().map(|client| client.join().expect("served")).max();
            let longest = tokio::task::spawn_blocking(join).await.expect("no panic").unwrap_or_default();
            let served = since.elapsed();
            for number in 0..count {
                until(&tree, &format!("vm{number}"), "ready").await;
            }
            let launches: u64 = tree.status().vms().map(|vm| vm.incarnation.0).sum();
            println!(
                "storm: {connections} connections to {count} sleeping processes: 0 refused, {launches} launches, all served in {}, the longest wait {}",
                ms(served),
                ms(longest)
            );
            let what = format!("{connections} connections at once to sleeping processes: ");
            let storm = |part, time| Figure::value("idle", &format!("{what}{part}"), "ms", in_ms(time), 1);
            storm("all served", served).among(count).record();
            storm("the longest wait", longest).among(count).record();
        })
        .await;
}

#[tokio::main]
async fn main() {
    let (plain, machines) = (number("PEPITA_IDLE_PLAIN", 200), number("PEPITA_IDLE_MICROVMS", 8));
    wakes(&Place::new(), false).await;
    storm(&Place::new()).await;
    rest(&Place::new(), plain, false).await;
    if machines > 0 {
        wakes(&Place::new(), true).await;
        rest(&Place::new(), machines, true).await;
    }
}
