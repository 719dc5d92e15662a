//! The link beside a bare echo over the same transport, in one run: round trip of a ping, throughput of a bulk stream.
//!
//! `PEPITA_LINK_PINGS` (2000), `PEPITA_LINK_MIB` (64).

mod common;

use common::Place;
use pepita_supervisor::link::dial::{Address, Stream, dial};
use pepita_supervisor::spec::{MachineSpec, Readiness, VmName, VmSpec};
use pepita_wire::agent::Exec;
use pepita_wire::{Ask, Hello, StatusRecord, ToGuest, rundir};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

/// Where the guest's ticker echoes.
const ECHO: u32 = 5001;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn guest(file: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".guest").join(file);
    assert!(path.exists(), "{} is missing: run `make setup` first", path.display());
    path
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The bare thing: bytes there and back, a line's worth each.
async fn echo(mut stream: Box<dyn Stream>, pings: u64) -> Duration {
    stream.write_all(&0_u64.to_le_bytes()).await.expect("written");
    let line = ToGuest::request(1, "ping", serde_json::Value::Null).encode();
    let (mut back, mut times) = (vec![0; line.len()], Vec::new());
    for _ in 0..pings {
        let began = Instant::now();
        stream.write_all(&line).await.expect("written");
        stream.read_exact(&mut back).await.expect("read");
        times.push(began.elapsed());
    }
    median(times)
}

async fn drain(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> (u64, Duration) {
    let (began, mut bytes, mut buffer) = (Instant::now(), 0, vec![0; 64 * 1024]);
    loop {
        match stream.read(&mut buffer).await {
            Ok(n) if n > 0 => bytes += n as u64,
            _ => return (bytes, began.elapsed()),
        }
    }
}

fn rate((bytes, took): (u64, Duration)) -> f64 {
    bytes as f64 / took.as_secs_f64() / f64::from(1 << 20)
}

/// Our own conversation, turned into a bulk stream.
async fn bulk(address: Address, status: &StatusRecord, command: Vec<String>) -> (u64, Duration) {
    let token = std::fs::read_to_string(Path::new(&status.dir).join(rundir::TOKEN)).expect("the token");
    let hello = Hello {
        generation: 1,
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
    drain(&mut stream).await
}

/// A Unix socket's echo, for the process transport: what `ticker --serve` does in a guest.
async fn serve_unix(path: PathBuf) {
    let listener = tokio::net::UnixListener::bind(path).expect("bound");
    while let Ok((mut client, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut count = [0; 8];
            client.read_exact(&mut count).await.expect("eight bytes");
            let (mut left, mut buffer) = (u64::from_le_bytes(count), vec![b'x'; 64 * 1024]);
            if left == 0 {
                while let Ok(n @ 1..) = client.read(&mut buffer).await {
                    client.write_all(&buffer[..n]).await.expect("written");
                }
            }
            while left > 0 {
                let n = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                client.write_all(&buffer[..n]).await.expect("written");
                left -= n as u64;
            }
        });
    }
}

async fn measure(place: &Place, what: &str, machine: MachineSpec, ticker: &str) {
    let (pings, bytes) = (number("PEPITA_LINK_PINGS", 2000), number("PEPITA_LINK_MIB", 64) << 20);
    let process = machine.kernel.as_os_str().is_empty();
    let mut vm = VmSpec::new(VmName::new("link").expect("a good name"), machine);
    vm.command = vec![ticker.to_owned(), "--interval".into(), "1000000".into()];
    if !process {
        vm.command.extend(["--serve".to_owned(), ECHO.to_string()]);
    }
    vm.start.ready = Readiness::Notify;
    let tree = place.start(vec![Place::group("g", vec![vm])]).await;
    tree.wait_ready(Duration::from_secs(120)).await.expect("ready");
    let output = std::process::Command::new(&place.pepita)
        .arg("--run-dir")
        .arg(place.path("r"))
        .args(["status", "--name", "duende-vm-link"])
        .output()
        .expect("pepita runs");
    let status: StatusRecord = serde_json::from_slice(&output.stdout).expect("a record");
    let address = Address::of(&status);
    let unix = place.path("echo.sock");
    let serving = process.then(|| tokio::spawn(serve_unix(unix.clone())));
    let bare = || async {
        let stream: Box<dyn Stream> = match &address {
            _ if process => Box::new(tokio::net::UnixStream::connect(&unix).await.expect("it listens")),
            Address::Hybrid { uds, .. } => {
                dial(Address::Hybrid { uds: uds.clone(), port: ECHO }).await.expect("it listens")
            }
            Address::Vhost { cid, .. } => {
                dial(Address::Vhost { cid: *cid, port: ECHO }).await.expect("it listens")
            }
        };
        stream
    };
    tokio::task::yield_now().await;

    let there_and_back = echo(bare().await, pings).await;
    let mut times = Vec::new();
    for _ in 0..pings {
        let began = Instant::now();
        tree.ask("link", Ask::Ping).await.expect("a pong");
        times.push(began.elapsed());
    }
    let ping = median(times);
    let mut stream = bare().await;
    stream.write_all(&bytes.to_le_bytes()).await.expect("written");
    let raw = rate(drain(&mut stream).await);
    let ours = rate(
        bulk(
            address.clone(),
            &status,
            vec![ticker.to_owned(), "--print".into(), bytes.to_string(), "--exit".into(), "0".into()],
        )
        .await,
    );
    println!(
        "{what}: ping {:.1} us, bare echo {:.1} us, ratio {:.2} (aim 1.2); bulk {ours:.0} MiB/s, bare {raw:.0} MiB/s, ratio {:.2} (aim 0.8)",
        ping.as_secs_f64() * 1e6,
        there_and_back.as_secs_f64() * 1e6,
        ping.as_secs_f64() / there_and_back.as_secs_f64(),
        ours / raw
    );
    if let Some(serving) = serving {
        serving.abort();
    }
    tree.destroy().await;
}

#[tokio::main]
async fn main() {
    let place = Place::new();
    let microvm =
        MachineSpec { vcpus: 1, memory_mb: 128, ..MachineSpec::qemu(guest("vmlinuz"), guest("ticker.cpio")) };
    measure(&place, "microVM", microvm, "/usr/bin/ticker").await;
    let ticker = place.pepita.with_file_name("ticker");
    measure(&place, "process", MachineSpec::process(), &ticker.to_string_lossy()).await;
}
