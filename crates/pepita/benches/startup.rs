//! Measures how long a caller waits: for `pepita --version`, and from `pepita run` until the daemon runs. Prints medians and
//! their ratio to the aim. Asserts no time, because machines differ.
//!
//! `cargo build --release --workspace --bins && cargo bench -p pepita-launcher --bench startup`
//!
//! Variables, with their defaults: `PEPITA_STARTUP_VERSIONS` (300), `PEPITA_STARTUP_RUNS` (100).

#[path = "../../../benches/common/record.rs"]
mod record;

use pepita_launcher::client::Client;
use pepita_wire::VmState;
use record::{Aim, Figure, in_ms, percentile};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

struct Bench {
    pepita: &'static Path,
    ticker: PathBuf,
    dir: tempfile::TempDir,
}

impl Bench {
    fn call(&self, args: &[&str]) {
        let mut command = Command::new(self.pepita);
        command.args(args).env("PEPITA_RUN_DIR", self.dir.path()).stdin(Stdio::null());
        let output = command.output().expect("pepita runs");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn timed(&self, args: &[&str]) -> Duration {
        let began = Instant::now();
        self.call(args);
        began.elapsed()
    }

    /// Runs a VM, and returns how long it took until the call returned, and until the daemon ran.
    fn run(&self) -> (Duration, Duration) {
        let began = Instant::now();
        let ticker = self.ticker.to_string_lossy();
        self.call(&["run", "--daemon", "--json", "--vmm", "process", "--name", "a", "--", &ticker]);
        let returned = began.elapsed();
        let mut client = Client::open(&self.dir.path().join("a")).expect("its monitor");
        let mut since = 0;
        loop {
            let status = client.watch(since, Some(Duration::from_secs(10))).expect("a status");
            if status.state == VmState::Running {
                return (returned, began.elapsed());
            }
            since = status.revision;
        }
    }
}

fn report(what: &str, mut times: Vec<Duration>, aim: Option<Duration>) {
    times.sort();
    let (median, late) = (percentile(&times, 0.5), percentile(&times, 0.99));
    let ratio = aim.map_or(String::new(), |aim| {
        let ratio = median.as_secs_f64() / aim.as_secs_f64();
        format!(", {ratio:.2} of the {} ms aimed at", aim.as_millis())
    });
    println!("{what:44} median {:6.2} ms, p99 {:6.2} ms{ratio}", in_ms(median), in_ms(late));
    let figure = Figure::times("startup", what, &times);
    aim.map_or(figure.clone(), |aim| figure.aim(Aim::AtMost(in_ms(aim)))).record();
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn main() {
    let pepita = Path::new(env!("CARGO_BIN_EXE_pepita"));
    let ticker = pepita.with_file_name("ticker");
    let agent = pepita.with_file_name("daemonctl");
    if !ticker.exists() || !agent.exists() {
        println!("NOT RUN: {} is missing: cargo build --release --workspace --bins", ticker.display());
        return;
    }
    let dir = tempfile::Builder::new().prefix("pb").tempdir_in("/tmp").expect("a directory");
    let bench = Bench { pepita, ticker, dir };
    let versions = (0..number("PEPITA_STARTUP_VERSIONS", 300)).map(|_| bench.timed(&["--version"])).collect();
    report("pepita --version", versions, Some(Duration::from_millis(5)));
    let (mut returned, mut running, mut status, mut destroyed) = (vec![], vec![], vec![], vec![]);
    for _ in 0..number("PEPITA_STARTUP_RUNS", 100) {
        let (back, runs) = bench.run();
        returned.push(back);
        running.push(runs);
        status.push(bench.timed(&["status", "--name", "a"]));
        destroyed.push(bench.timed(&["destroy", "--force", "--name", "a"]));
    }
    report("run --daemon --vmm process: it returns", returned, None);
    report("run --daemon --vmm process: the daemon runs", running, Some(Duration::from_millis(25)));
    report("status", status, None);
    report("destroy --force", destroyed, None);
}
