//! Measures a published port of a microVM. The baseline is QEMU's own forwarding of ports (slirp, `hostfwd`) to the same
//! daemon in a guest of the same size. Both are measured in turn, so that other load on the machine slows both down. A
//! connection from the guest to the host (`reach`) is measured through a daemon that forwards its clients.
//!
//! Variables, with their defaults: `PEPITA_PORTS_FIRST` (300 connections to the first byte), `PEPITA_PORTS_TRIPS` (2000
//! round trips), `PEPITA_PORTS_MIB` (64 in each direction), `PEPITA_PORTS_ROUNDS` (3 of them), `PEPITA_PORTS_OPEN` (1000
//! connections at once), `PEPITA_PORTS_MINUTES` (5) with `PEPITA_PORTS_RATE` (10000) new connections in each.

mod common;
#[path = "peers/slirp.rs"]
mod slirp;

use common::{Figure, Place, in_ms, missing, ms, percentile};
use pepita_wire::StatusRecord;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The memory of both guests.
const MEMORY_MB: u32 = 256;

/// The numbers that ask the daemon for an echo, and to read all that it gets and answer with one byte.
const ECHO: u64 = 0;
const SWALLOW: u64 = u64::MAX - 1;

/// How long to wait for a byte before the benchmark fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// The clients of the endurance run.
const CLIENTS: u64 = 8;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn guest(file: &str) -> PathBuf {
    let path = top().join(".guest").join(file);
    assert!(path.exists(), "{} is missing: run `make setup` first", path.display());
    path
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

/// A way to the daemon of a guest.
struct Way {
    name: &'static str,
    /// The published port at which the daemon echoes.
    echo: u16,
    /// The published port whose clients the daemon connects with the host.
    forward: u16,
    /// The processes of the VM on the host, with their names.
    processes: Vec<(String, u32)>,
}

impl Way {
    fn connect(&self, port: u16, ask: u64) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        stream.set_nodelay(true).expect("set");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        (&stream).write_all(&ask.to_le_bytes()).expect("written");
        stream
    }

    /// Returns a connection that echoes: its first byte has come back.
    fn echo(&self, port: u16) -> std::io::Result<TcpStream> {
        let mut stream = self.connect(port, ECHO);
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
        Ok(stream)
    }

    /// Returns the time from the connect to the first byte.
    fn first_byte(&self, port: u16) -> Duration {
        let began = Instant::now();
        let stream = self.echo(port).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let took = began.elapsed();
        drop(stream);
        took
    }

    /// Waits until the daemon answers at both ports.
    fn await_daemon(&self) {
        let deadline = Instant::now() + PATIENCE;
        for port in [self.echo, self.forward] {
            while let Err(e) = self.echo(port) {
                assert!(Instant::now() < deadline, "{}: no answer: {e}", self.name);
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// Sends bytes into the guest, until the daemon has read them all. Returns the rate in MiB/s.
    fn send_in(&self, bytes: u64) -> f64 {
        let mut stream = self.connect(self.echo, SWALLOW);
        let (began, block, mut left) = (Instant::now(), vec![1; 64 * 1024], bytes);
        while left > 0 {
            let n = left.min(block.len() as u64);
            stream.write_all(&block[..usize::try_from(n).expect("small")]).expect("written");
            left -= n;
        }
        stream.shutdown(Shutdown::Write).expect("ended");
        stream.read_exact(&mut [0]).expect("all is read");
        rate(bytes, began.elapsed())
    }

    /// Reads bytes that the daemon sends. Returns the rate in MiB/s.
    fn read_out(&self, bytes: u64) -> f64 {
        let mut stream = self.connect(self.echo, bytes);
        let (began, mut block, mut left) = (Instant::now(), vec![0; 64 * 1024], bytes);
        while left > 0 {
            let n = stream.read(&mut block).expect("read");
            assert!(n > 0, "{}: {left} bytes are missing", self.name);
            left -= n as u64;
        }
        rate(bytes, began.elapsed())
    }

    /// Returns the memory of the VM's processes, in KiB, shared memory divided among them.
    fn memory_kib(&self) -> Vec<u64> {
        self.processes.iter().map(|(_, pid)| smaps(*pid, "Pss:")).collect()
    }
}

fn rate(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / took.as_secs_f64() / f64::from(1 << 20)
}

/// Returns a line of `/proc/<pid>/smaps_rollup`, in KiB.
fn smaps(pid: u32, line: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a process that runs");
    field(&text, line)
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Returns the number of open files of a process.
fn files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a process that runs").count()
}

/// Returns the children of a process, with their names.
fn children(parent: u32) -> Vec<(String, u32)> {
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).expect("a process that runs").flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<u32> =
        lists.flat_map(|list| list.split_whitespace().flat_map(str::parse).collect::<Vec<_>>()).collect();
    let name = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    pids.into_iter().map(|pid| (name(pid).trim().to_owned(), pid)).collect()
}

/// Answers echoes on the host, for the guest's daemons that forward to it.
fn echo_on_host() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut block = [0; 4096];
                let _ = stream.set_nodelay(true);
                let _ = stream.read_exact(&mut [0; 8]);
                while let Ok(n @ 1..) = stream.read(&mut block) {
                    if stream.write_all(&block[..n]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

fn pepita(place: &Place, args: &[&str]) -> String {
    let mut command = Command::new(&place.pepita);
    command.args(args).env("PEPITA_RUN_DIR", place.path("r")).stdin(Stdio::null());
    let output = command.output().expect("pepita runs");
    assert!(output.status.success(), "pepita {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Boots the VM whose ports pepita publishes.
fn published(place: &Place, host: u16) -> Way {
    let (echo, forward) = (free_port(), free_port());
    let file = |name| guest(name).to_string_lossy().into_owned();
    let (kernel, rootfs, memory) = (file("vmlinuz"), file("ticker.cpio"), format!("{MEMORY_MB}M"));
    let ports =
        [format!("127.0.0.1:{echo}:{}", slirp::ECHO), format!("127.0.0.1:{forward}:{}", slirp::FORWARD)];
    let reach = format!("host:7002=127.0.0.1:{host}");
    let (serve, to) = (format!("tcp:{}", slirp::ECHO), format!("{}=host:7002", slirp::FORWARD));
    let mut args =
        vec!["run", "--name", "ours", "--kernel", &kernel, "--rootfs", &rootfs, "--memory", &memory];
    args.extend(["--daemon", "--wait-ready", "--json", "--reach", &reach, "--ulimit", "nofile=8192"]);
    ports.iter().for_each(|port| args.extend(["-p", port]));
    args.extend(["--", "/usr/bin/ticker", "--serve", &serve, "--forward", &to]);
    pepita(place, &args);
    let status: StatusRecord =
        serde_json::from_str(&pepita(place, &["status", "ours", "--json"])).expect("a status");
    let monitor = status.monitor_pid.expect("it runs");
    let mut processes = vec![("monitor".to_owned(), monitor)];
    processes.extend(children(monitor));
    Way { name: "published", echo, forward, processes }
}

/// Boots the guest that is reached through slirp.
fn hostfwd(place: &Place, host: u16) -> Result<(Way, slirp::Guest), String> {
    let ports = slirp::Ports { echo: free_port(), forward: free_port(), host };
    let cache = place.path("r").join(".cache");
    let kernels = std::fs::read_dir(&cache).expect("the cache").flatten().map(|entry| entry.path());
    let kernel = kernels.into_iter().find(|path| path.extension().is_some_and(|e| e == "vmlinux"));
    let kernel = kernel.unwrap_or_else(|| guest("vmlinuz"));
    let tsc = std::fs::read_to_string(cache.join("tsc")).unwrap_or_default();
    let words = tsc.split_whitespace().last().map(|khz| format!("tsc_early_khz={khz}")).unwrap_or_default();
    let files = slirp::Files {
        kernel: &kernel,
        root: guest("ticker.cpio"),
        modules: guest("modules"),
        init: top().join("benches/peers/slirp_init.c"),
        words,
        memory_mb: MEMORY_MB,
    };
    let guest = slirp::boot(&place.path(""), &files, &ports)?;
    let processes = vec![("qemu".to_owned(), guest.pid())];
    Ok((Way { name: "slirp", echo: ports.echo, forward: ports.forward, processes }, guest))
}

/// Prints the medians of two rows of times, and their ratio.
fn compare(what: &str, rows: Vec<(&str, Vec<Duration>)>) {
    let mut medians = Vec::new();
    print!("{what:<38}");
    let figure = rows.first().map(|(_, times)| Figure::times("ports", what, times));
    for (name, mut times) in rows {
        times.sort_unstable();
        let median = percentile(&times, 0.5);
        medians.push(median.as_secs_f64());
        print!("  {name} {:>9}, p99 {:>9}", ms(median), ms(percentile(&times, 0.99)));
    }
    println!("{}", ratio(&medians));
    store(figure, &medians.iter().map(|seconds| seconds * 1000.0).collect::<Vec<_>>());
}

/// Stores a figure of ours, beside slirp's if there is one.
fn store(ours: Option<Figure>, values: &[f64]) {
    let Some(figure) = ours else { return };
    match values.get(1) {
        Some(slirp) => figure.against("slirp's hostfwd", *slirp).record(),
        None => figure.record(),
    }
}

fn ratio(values: &[f64]) -> String {
    match values {
        [ours, theirs] => format!("  ratio {:.2}", ours / theirs),
        _ => String::new(),
    }
}

fn first_bytes(ways: &[Way], what: &str, port: fn(&Way) -> u16) {
    let mut rows: Vec<_> = ways.iter().map(|way| (way.name, Vec::new())).collect();
    for _ in 0..number("PEPITA_PORTS_FIRST", 300) {
        for (way, (_, times)) in ways.iter().zip(&mut rows) {
            times.push(way.first_byte(port(way)));
        }
    }
    compare(what, rows);
}

fn round_trips(ways: &[Way]) {
    let mut streams: Vec<TcpStream> = ways.iter().map(|way| way.echo(way.echo).expect("an echo")).collect();
    let mut rows: Vec<_> = ways.iter().map(|way| (way.name, Vec::new())).collect();
    for _ in 0..number("PEPITA_PORTS_TRIPS", 2000) {
        for (stream, (_, times)) in streams.iter_mut().zip(&mut rows) {
            let began = Instant::now();
            stream.write_all(&[7; 64]).expect("written");
            stream.read_exact(&mut [0; 64]).expect("an echo");
            times.push(began.elapsed());
        }
    }
    compare("round trip of 64 bytes", rows);
}

fn throughput(ways: &[Way], what: &str, carry: fn(&Way, u64) -> f64) {
    let bytes = number("PEPITA_PORTS_MIB", 64) << 20;
    let mut rows: Vec<(&str, Vec<f64>)> = ways.iter().map(|way| (way.name, Vec::new())).collect();
    for _ in 0..number("PEPITA_PORTS_ROUNDS", 3).max(1) {
        for (way, (_, rates)) in ways.iter().zip(&mut rows) {
            rates.push(carry(way, bytes));
        }
    }
    let mut medians = Vec::new();
    print!("{what:<38}");
    for (name, mut rates) in rows {
        rates.sort_unstable_by(f64::total_cmp);
        medians.push(rates[rates.len() / 2]);
        print!("  {name} {:>6.1} MiB/s", rates[rates.len() / 2]);
    }
    println!("{}", ratio(&medians));
    let rounds = number("PEPITA_PORTS_ROUNDS", 3).max(1) as usize;
    let figure = medians.first().map(|ours| Figure::value("ports", what, "MiB/s", *ours, rounds));
    store(figure, &medians);
}

/// Opens many connections at once, and prints what one costs. Returns the memory of one, in KiB.
fn many(way: &Way) -> f64 {
    let count = number("PEPITA_PORTS_OPEN", 1000);
    let before = way.memory_kib();
    let began = Instant::now();
    let streams: Vec<_> = (0..count).map(|_| way.echo(way.echo).expect("an echo")).collect();
    let took = began.elapsed();
    let after = way.memory_kib();
    let total: u64 = after.iter().sum::<u64>().saturating_sub(before.iter().sum());
    print!("{count} connections open  {:<10} after {}, each", way.name, ms(took));
    for ((name, _), (before, after)) in way.processes.iter().zip(before.iter().zip(&after)) {
        print!("  {name} {:.1} KiB", after.saturating_sub(*before) as f64 / count as f64);
    }
    println!("  all {:.1} KiB", total as f64 / count as f64);
    for mut stream in streams {
        stream.write_all(b"y").and_then(|()| stream.read_exact(&mut [0])).expect("an echo on each");
    }
    total as f64 / count as f64
}

/// Returns what the guest uses: the agent's memory in KiB and the open files of the whole guest.
fn in_guest(place: &Place) -> (u64, u64) {
    let cat = |path| {
        pepita(
            place,
            &[
                "exec",
                "ours",
                "--",
                "/usr/bin/ticker",
                "--no-ready",
                "--cat",
                path,
                "--after",
                "0",
                "--exit",
                "0",
            ],
        )
    };
    (field(&cat("/proc/1/status"), "VmRSS:"), field(&cat("/proc/sys/fs/file-nr"), ""))
}

/// Makes new connections for minutes at a steady rate, and prints each minute what the VM uses.
fn endure(place: &Place, way: &Way) {
    let (minutes, rate) = (number("PEPITA_PORTS_MINUTES", 5), number("PEPITA_PORTS_RATE", 10_000));
    let report = |when: &str, made: u64, late: Duration| {
        let (agent, open) = in_guest(place);
        print!("{when:<10} {made:>6} connections, at most {} late;", ms(late));
        for (name, pid) in &way.processes {
            print!("  {name} {} files {} KiB", files(*pid), smaps(*pid, "Rss:"));
        }
        println!("  agent {agent} KiB  {open} files in the guest");
    };
    report("before", 0, Duration::ZERO);
    let mut worst = Duration::ZERO;
    for minute in 1..=minutes {
        let (began, next, late) = (Instant::now(), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= rate {
                            return;
                        }
                        let due = began + Duration::from_secs(60).mul_f64(number as f64 / rate as f64);
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                        way.first_byte(way.echo);
                        let behind = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
                        late.fetch_max(behind, Ordering::Relaxed);
                    }
                });
            }
        });
        let late = Duration::from_micros(late.into_inner());
        report(&format!("minute {minute}"), rate, late);
        worst = worst.max(late);
    }
    if minutes > 0 {
        let made = usize::try_from(minutes * rate).expect("fits");
        Figure::value("ports", "new connections for minutes: the latest", "ms", in_ms(worst), made).record();
    }
}

fn main() {
    let place = Place::new();
    let host = echo_on_host();
    let mut ways = vec![published(&place, host)];
    let guest = hostfwd(&place, host);
    let _guest = match guest {
        Ok((way, guest)) => {
            ways.push(way);
            Some(guest)
        }
        Err(why) => {
            println!("slirp is left out: {why}");
            missing("ports", "slirp's hostfwd", &why, "apt-get install gcc libc6-dev qemu-system-x86");
            None
        }
    };
    ways.iter().for_each(Way::await_daemon);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load of the machine before: {}", load.trim());
    first_bytes(&ways, "connect to first byte", |way| way.echo);
    first_bytes(&ways, "the same, through the guest to the host", |way| way.forward);
    round_trips(&ways);
    throughput(&ways, "throughput into the guest", Way::send_in);
    throughput(&ways, "throughput out of the guest", Way::read_out);
    let each: Vec<f64> = ways.iter().map(many).collect();
    let open = number("PEPITA_PORTS_OPEN", 1000) as usize;
    let figure = Figure::value("ports", "memory on the host for an open connection", "KiB", each[0], open);
    // A ratio to nothing says nothing: slirp's pages may be there before.
    store(Some(figure), each.get(..2).filter(|each| each[1] > 0.0).unwrap_or(&each[..1]));
    endure(&place, &ways[0]);
}
