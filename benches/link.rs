//! Measures the link: the round trip of a ping and the throughput of a bulk stream. The baseline is a bare echo and a bare
//! stream over the same transport, measured in the same run.
//!
//! Variables, with their defaults: `PEPITA_LINK_PINGS` (2000), `PEPITA_LINK_MIB` (256), `PEPITA_LINK_STREAMS` (3),
//! `PEPITA_LINK_ONLY` (`microVM` leaves out the plain process).

mod common;

use common::{Aim, Figure, Place};
use pepita_supervisor::link::dial::{Address, Stream, dial};
use pepita_supervisor::spec::{MachineSpec, Readiness, VmName, VmSpec};
use pepita_supervisor::tree::Tree;
use pepita_wire::agent::Exec;
use pepita_wire::{Ask, Hello, StatusRecord, ToGuest, rundir};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

/// The vsock port on which the guest's ticker echoes.
const ECHO: u32 = 5001;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn guest(file: &str) -> PathBuf {
    let top =
        std::env::var_os("PEPITA_TEST_TOP").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    let path = top.join(".guest").join(file);
    assert!(path.exists(), "{} is missing: run `make setup` first", path.display());
    path
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Sends the bytes of a ping over the bare transport and back, and a ping over the link, in turn, so that other load on the
/// machine slows both down. Returns the averages, because a clock may tick more slowly than an echo takes.
async fn round_trips(mut bare: Box<dyn Stream>, tree: &Tree, pings: u32) -> (Duration, Duration) {
    bare.write_all(&0_u64.to_le_bytes()).await.expect("written");
    let line = ToGuest::request(1, "ping", serde_json::Value::Null).encode();
    let (mut back, mut echoes, mut times) = (vec![0; line.len()], Duration::ZERO, Duration::ZERO);
    for _ in 0..pings {
        let began = Instant::now();
        bare.write_all(&line).await.expect("written");
        bare.read_exact(&mut back).await.expect("read");
        echoes += began.elapsed();
        let began = Instant::now();
        tree.ask("link", Ask::Ping).await.expect("a pong");
        times += began.elapsed();
    }
    (echoes / pings, times / pings)
}

/// Reads this many bytes, and returns how long that took.
async fn drain(stream: &mut (impl tokio::io::AsyncRead + Unpin), bytes: u64) -> Duration {
    let (began, mut left, mut buffer) = (Instant::now(), bytes, vec![0; 64 * 1024]);
    while left > 0 {
        let n = stream.read(&mut buffer).await.expect("read");
        assert!(n > 0, "{left} bytes are missing");
        left = left.saturating_sub(n as u64);
    }
    began.elapsed()
}

/// Returns the rate in MiB/s.
fn rate(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / took.as_secs_f64() / f64::from(1 << 20)
}

/// Returns how long a bulk stream of the agent's conversation takes for `bytes`.
async fn bulk(address: Address, status: &StatusRecord, command: Vec<String>, bytes: u64) -> Duration {
    let token = std::fs::read_to_string(Path::new(&status.dir).join(rundir::TOKEN)).expect("the token");
    let hello = Hello {
        protocol_version: 1,
        token: Some(token.trim().into()),
        incarnation: status.incarnation,
        ..Hello::default()
    };
    let mut stream = BufReader::with_capacity(64 * 1024, dial(address).await.expect("the agent listens"));
    stream.write_all(&ToGuest::Hello(hello).encode()).await.expect("written");
    let (method, params) = Ask::Exec(Exec { command, timeout_ms: 600_000, bulk: true }).into_parts();
    stream.write_all(&ToGuest::request(1, method, params).encode()).await.expect("written");
    let mut line = String::new();
    for _ in 0..2 {
        line.clear();
        stream.read_line(&mut line).await.expect("a line");
    }
    assert!(line.contains("bulk"), "{line}");
    drain(&mut stream, bytes).await
}

async fn measure(place: &Place, what: &str, machine: MachineSpec, ticker: &str) {
    let (pings, bytes) =
        (number("PEPITA_LINK_PINGS", 2000).max(1) as u32, number("PEPITA_LINK_MIB", 256) << 20);
    let process = machine.kernel.as_os_str().is_empty();
    let mut vm = VmSpec::new(VmName::new("link").expect("a good name"), machine);
    vm.command = vec![ticker.to_owned(), "--interval".into(), "1000000".into()];
    let unix = place.path("echo.sock");
    let echo_at = if process { unix.to_string_lossy().into_owned() } else { ECHO.to_string() };
    vm.command.extend(["--serve".to_owned(), echo_at]);
    vm.start.ready = Readiness::Notify;
    // A boot in a VM inside a VM takes minutes when both are emulated.
    vm.start.timeout = Duration::from_secs(600);
    let tree = place.start(vec![Place::group("g", vec![vm])]).await;
    tree.wait_ready(Duration::from_secs(600)).await.expect("ready");
    let output = std::process::Command::new(&place.pepita)
        .arg("--run-dir")
        .arg(place.path("r"))
        .args(["status", "--name", "duende-vm-link"])
        .output()
        .expect("pepita runs");
    let status: StatusRecord = serde_json::from_slice(&output.stdout).expect("a record");
    let address = Address::of(&status);
    let bare = || async {
        let stream: Box<dyn Stream> = match &address {
            _ if process => {
                Box::new(tokio::net::UnixStream::connect(&unix).await.expect("the ticker listens"))
            }
            Address::Hybrid { uds, .. } => {
                dial(Address::Hybrid { uds: uds.clone(), port: ECHO }).await.expect("the ticker listens")
            }
            Address::Vhost { cid, .. } => {
                dial(Address::Vhost { cid: *cid, port: ECHO }).await.expect("the ticker listens")
            }
        };
        stream
    };
    let (echo, ping) = round_trips(bare().await, &tree, pings).await;
    let (mut bare_times, mut link_times) = (Vec::new(), Vec::new());
    let streams = number("PEPITA_LINK_STREAMS", 3).max(1) as usize;
    for _ in 0..streams {
        let mut stream = bare().await;
        stream.write_all(&bytes.to_le_bytes()).await.expect("written");
        bare_times.push(drain(&mut stream, bytes).await);
        let fill = [ticker, "--fill", &bytes.to_string(), "--exit", "0"].map(str::to_owned).to_vec();
        link_times.push(bulk(address.clone(), &status, fill, bytes).await);
    }
    let (bare_rate, link_rate) = (rate(bytes, median(bare_times)), rate(bytes, median(link_times)));
    println!(
        "{what} over {}: ping {:.1} us, bare echo {:.1} us, ratio {:.2} (aim 1.2); bulk {link_rate:.0} MiB/s, bare {bare_rate:.0} MiB/s, ratio {:.2} (aim 0.8)",
        if matches!(address, Address::Vhost { .. }) { "vhost" } else { "a Unix socket" },
        ping.as_secs_f64() * 1e6,
        echo.as_secs_f64() * 1e6,
        ping.as_secs_f64() / echo.as_secs_f64(),
        link_rate / bare_rate
    );
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    let trip = Figure::value("link", &format!("{what}: ping"), "µs (mean)", us(ping), pings as usize);
    trip.against("bare echo", us(echo)).ratio_aim(Aim::AtMost(1.2)).record();
    let bulk = Figure::value("link", &format!("{what}: bulk stream"), "MiB/s", link_rate, streams);
    bulk.against("bare stream", bare_rate).ratio_aim(Aim::AtLeast(0.8)).record();
    tree.destroy().await;
}

async fn measure_all() {
    let place = Place::new();
    let microvm =
        MachineSpec { vcpus: 1, memory_mb: 128, ..MachineSpec::qemu(guest("vmlinuz"), guest("ticker.cpio")) };
    measure(&place, "microVM", microvm, "/usr/bin/ticker").await;
    if std::env::var("PEPITA_LINK_ONLY").is_ok_and(|only| only == "microVM") {
        return;
    }
    let ticker = place.pepita.with_file_name("ticker");
    measure(&place, "process", MachineSpec::process(), &ticker.to_string_lossy()).await;
}

#[tokio::main]
async fn main() {
    // A task, so that it runs on a thread of the runtime as the tasks of a host do. The thread that blocks on `main` would have
    // to be woken in addition.
    tokio::spawn(measure_all()).await.expect("measured");
}
