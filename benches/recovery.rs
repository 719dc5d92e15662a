//! Measures the time from a SIGKILL of a microVM's VMM until its daemon is Ready again: with a warm spare, and booted anew
//! as the baseline of the same run, killed in turn. A client of a published port connects and echoes without a pause, and
//! tells the longest time that it waited, and what failed.
//!
//! Variable, with its default: `PEPITA_RECOVERY_KILLS` (50 of each).

mod common;

use common::{Aim, Figure, Place, all_ready, in_ms, kill, ms, percentile, spare_ready};
use pepita_launcher::host::process_id::ProcessId;
use pepita_launcher::host::wait::wait_readable;
use pepita_supervisor::observe::{EventKind, Received};
use pepita_supervisor::spec::{Backoff, MachineSpec, Readiness, VmName, VmSpec};
use pepita_supervisor::tree::Tree;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The memory of the guests.
const MEMORY_MB: u32 = 128;

/// The port of the daemon in the guest.
const PORT: u16 = 7000;

/// How long to wait for a VM or a spare before the benchmark fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is measured in turn: a VM with a spare, and one without.
const KINDS: [(&str, u32); 2] = [("warm", 1), ("cold", 0)];

fn kills() -> usize {
    std::env::var("PEPITA_RECOVERY_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(50)
}

fn guest(file: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".guest").join(file);
    assert!(path.exists(), "{} is missing: run `make setup` first", path.display());
    path
}

fn vm(name: &str, standby: u32, port: u16) -> VmSpec {
    let machine = MachineSpec {
        vcpus: 1,
        memory_mb: MEMORY_MB,
        ..MachineSpec::qemu(guest("vmlinuz"), guest("ticker.cpio"))
    };
    let mut vm = VmSpec::new(VmName::new(name).expect("a good name"), machine);
    vm.command = ["/usr/bin/ticker", "--interval", "60000", "--serve", "tcp:7000"].map(str::to_owned).into();
    vm.start.ready = Readiness::Notify;
    vm.restart.backoff = Backoff { initial: Duration::ZERO, ..Backoff::default() };
    vm.publish = vec![format!("127.0.0.1:{port}:{PORT}").parse().expect("a port")];
    vm.standby = standby;
    vm
}

/// The times of one recovery, each since the kill.
#[derive(Default)]
struct Recovery {
    /// The kernel tells the end of the VMM.
    gone: Duration,
    /// The supervisor has decided on it.
    decided: Duration,
    /// The daemon runs.
    running: Duration,
    /// The daemon is Ready.
    ready: Duration,
}

/// What a client has met.
struct Client {
    stop: Arc<AtomicBool>,
    failed: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<Vec<Duration>>,
}

impl Client {
    /// Connects and echoes again and again.
    fn start(port: u16) -> Self {
        let (stop, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, failures) = (Arc::clone(&stop), Arc::clone(&failed));
        let thread = std::thread::spawn(move || {
            let mut waits = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                match echo(port) {
                    Ok(()) => waits.push(began.elapsed()),
                    // A connection that was being served ends with its VM; the client connects again.
                    Err(e) if e.kind() != std::io::ErrorKind::ConnectionRefused => {}
                    Err(_) => drop(failures.fetch_add(1, Ordering::Relaxed)),
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            waits
        });
        Self { stop, failed, thread }
    }

    /// Returns the longest wait and the number of refused connections.
    fn end(self) -> (Duration, usize) {
        self.stop.store(true, Ordering::Relaxed);
        let waits = self.thread.join().expect("no panic");
        (waits.into_iter().max().unwrap_or_default(), self.failed.load(Ordering::Relaxed))
    }
}

fn echo(port: u16) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&0_u64.to_le_bytes())?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

/// Kills the VMM of a VM and follows it until it is Ready again.
async fn recover(tree: &Tree, name: &str) -> Recovery {
    let before = tree.status().vm(name).cloned().expect("there is such a VM");
    let pid = before.vmm_pid.expect("a running process");
    let mut events = tree.events();
    let watched = ProcessId::of(pid).and_then(|process| process.open()).expect("it runs");
    let began = Instant::now();
    kill(pid);
    let gone = std::thread::spawn(move || {
        wait_readable(&watched, PATIENCE);
        began.elapsed()
    });
    let mut told = Recovery::default();
    loop {
        let Some(received) = events.next().await else { panic!("the tree has ended") };
        let Received::Event(event) = received else { continue };
        let EventKind::Vm(change) = event.kind else { continue };
        if change.vm.as_str() != name {
            continue;
        }
        match change.to.word() {
            "backoff" => told.decided = began.elapsed(),
            "running" => told.running = began.elapsed(),
            "ready" if change.incarnation > before.incarnation => {
                told.ready = began.elapsed();
                break;
            }
            _ => {}
        }
    }
    told.gone = gone.join().expect("no panic");
    told
}

async fn measure(tree: Tree, ports: [u16; 2]) {
    all_ready(&tree, &[], PATIENCE).await;
    let mut all: [Vec<Recovery>; 2] = Default::default();
    let mut stalls: [Vec<Duration>; 2] = Default::default();
    let mut refused = [0; 2];
    for _ in 0..kills() {
        for (index, (name, _)) in KINDS.iter().enumerate() {
            spare_ready(&tree, name, PATIENCE).await;
            // Once without a client, which takes time from the guest, and once with it.
            all[index].push(recover(&tree, name).await);
            spare_ready(&tree, name, PATIENCE).await;
            let client = Client::start(ports[index]);
            tokio::time::sleep(Duration::from_millis(50)).await;
            recover(&tree, name).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            let (longest, failed) = tokio::task::spawn_blocking(|| client.end()).await.expect("no panic");
            stalls[index].push(longest);
            refused[index] += failed;
        }
    }
    for (index, (name, _)) in KINDS.iter().enumerate() {
        let part = |of: fn(&Recovery) -> Duration| {
            let mut times: Vec<Duration> = all[index].iter().map(of).collect();
            times.sort();
            format!("{} ({})", ms(percentile(&times, 0.5)), ms(percentile(&times, 0.99)))
        };
        println!(
            "{name}: {} kills, median (p99) since SIGKILL: VMM gone {}, decided {}, daemon runs {}, Ready {}",
            all[index].len(),
            part(|it| it.gone),
            part(|it| it.decided),
            part(|it| it.running),
            part(|it| it.ready)
        );
        stalls[index].sort();
        println!(
            "{name}: a client's longest wait in each of {} kills {} ({}), refused {}",
            stalls[index].len(),
            ms(percentile(&stalls[index], 0.5)),
            ms(percentile(&stalls[index], 0.99)),
            refused[index]
        );
    }
    let median = |all: &[Recovery]| {
        let mut times: Vec<Duration> = all.iter().map(|it| it.ready).collect();
        times.sort();
        percentile(&times, 0.5).as_secs_f64()
    };
    println!("cold / warm: {:.1}", median(&all[1]) / median(&all[0]));
    let ready: Vec<Duration> = all[0].iter().map(|it| it.ready).collect();
    let figure = Figure::times("recovery", "SIGKILL of the VMM until Ready, with a warm spare", &ready);
    let figure = figure.against("cold restart", median(&all[1]) * 1000.0);
    figure.aim(Aim::AtMost(20.0)).ratio_aim(Aim::AtMost(0.02)).record();
    let figure = Figure::times("recovery", "a client's longest wait, with a warm spare", &stalls[0]);
    figure.against("cold restart", in_ms(percentile(&stalls[1], 0.5))).aim(Aim::AtMost(50.0)).record();
    let figure = Figure::value("recovery", "connections refused", "", refused[0] as f64, all[0].len());
    figure.aim(Aim::AtMost(0.0)).record();
}

#[tokio::main]
async fn main() {
    let place = Place::new();
    let ports = KINDS.map(|_| {
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
    });
    let groups = KINDS
        .iter()
        .zip(ports)
        .map(|((name, standby), port)| Place::group(name, vec![vm(name, *standby, port)]));
    place.with(groups.collect(), move |tree| measure(tree, ports)).await;
}
