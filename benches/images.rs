//! Measures `pepita run` of a container image that is here already. The baseline is a root file system of ours (.cpio) with
//! the same daemon. Both are booted in turn, so that other load on the machine slows both down. Then: the memory of VMs
//! that share the base of one image.
//!
//! Variables, with their defaults: `PEPITA_IMAGES_BOOTS` (15 of each), `PEPITA_IMAGES_SHARING` (3 VMs that share a base).

mod common;

use common::{Figure, Place, in_ms, ms, percentile};
use pepita_wire::StatusRecord;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The memory of the guests.
const MEMORY: &str = "256M";

/// The parts of a file of `docker save`, by their names in it.
const PARTS: [&str; 3] = ["manifest.json", "config.json", "layer.tar"];

/// What the daemon prints first.
const FIRST_LINE: &str = "the daemon runs";

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn guest(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".guest").join(file);
    assert!(path.exists(), "{} is missing: run `make setup` first", path.display());
    path.to_string_lossy().into_owned()
}

fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Writes a file as `docker save` does, with one layer that has the daemon.
fn archive(place: &Place) -> PathBuf {
    let (layer, parts) = (place.path("layer"), place.path("parts"));
    std::fs::create_dir_all(layer.join("usr/bin")).expect("made");
    std::fs::create_dir_all(&parts).expect("made");
    // The daemon lies beside the agent, for which there is a link.
    let agent = std::fs::canonicalize(guest("daemonctl")).expect("the static agent");
    std::fs::copy(agent.with_file_name("ticker"), layer.join("usr/bin/ticker")).expect("copied");
    let tar = parts.join("layer.tar");
    output(Command::new("tar").arg("-C").arg(&layer).arg("-cf").arg(&tar).arg("."));
    let sum = output(Command::new("sha256sum").arg(&tar));
    let digest = sum.split_whitespace().next().expect("a digest");
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["/usr/bin/ticker"]}},
            "rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}}}}"#
    );
    let manifest = r#"[{"Config":"config.json","RepoTags":["bench:1"],"Layers":["layer.tar"]}]"#;
    std::fs::write(parts.join("config.json"), config).expect("written");
    std::fs::write(parts.join("manifest.json"), manifest).expect("written");
    let file = place.path("image.tar");
    output(Command::new("tar").arg("-C").arg(&parts).arg("-cf").arg(&file).args(PARTS));
    file
}

struct Bench {
    place: Place,
    kernel: String,
    modules: String,
    rootfs: String,
}

impl Bench {
    fn new() -> Self {
        let (kernel, modules, rootfs) = (guest("vmlinuz"), guest("modules"), guest("ticker.cpio"));
        Self { place: Place::new(), kernel, modules, rootfs }
    }

    fn pepita(&self) -> Command {
        let mut command = Command::new(&self.place.pepita);
        command.env("PEPITA_RUN_DIR", self.place.path("r")).env("PEPITA_DATA_DIR", self.place.path("data"));
        command.env("PEPITA_AGENT", guest("daemonctl")).stdin(Stdio::null());
        command
    }

    /// Returns a call that boots a VM of the image, or of our root file system.
    fn run(&self, name: &str, is_image: bool) -> Command {
        let mut command = self.pepita();
        command.args(["run", "--name", name, "--memory", MEMORY, "--kernel", &self.kernel]);
        match is_image {
            true => command.args(["--kernel-package", &self.modules, "--pull", "never", "bench:1"]),
            false => command.args(["--rootfs", &self.rootfs]),
        };
        command
    }

    /// Boots a VM, and returns the time until the daemon's first line.
    fn first_line(&self, is_image: bool) -> Duration {
        let mut command = self.run("boot", is_image);
        command.args(["--rm", "--", "/usr/bin/ticker", "--say", FIRST_LINE, "--after", "0", "--exit", "0"]);
        let began = Instant::now();
        let mut call = command.stdout(Stdio::piped()).spawn().expect("pepita runs");
        let mut lines = BufReader::new(call.stdout.take().expect("a pipe")).lines();
        let line = lines.find(|line| line.as_ref().is_ok_and(|line| line.trim() == FIRST_LINE));
        let took = began.elapsed();
        assert!(line.is_some(), "the daemon has said nothing");
        lines.for_each(drop);
        let end = call.wait().expect("its end");
        assert!(end.success(), "{end}");
        took
    }

    /// Boots a VM of the image that stays, and returns its processes.
    fn stay(&self, name: &str) -> Vec<u32> {
        let mut command = self.run(name, true);
        output(command.args(["--daemon", "--wait-ready", "--", "/usr/bin/ticker", "--interval", "60000"]));
        let status: StatusRecord =
            serde_json::from_str(&output(self.pepita().args(["status", name, "--json"]))).expect("a status");
        let monitor = status.monitor_pid.expect("it runs");
        let list = std::fs::read_to_string(format!("/proc/{monitor}/task/{monitor}/children"));
        let children = list.unwrap_or_default();
        std::iter::once(monitor).chain(children.split_whitespace().flat_map(str::parse)).collect()
    }
}

/// Returns the memory of a process in KiB, shared memory divided among its users.
fn memory_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a process that runs");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("such a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Returns the files of the image store that processes have open.
fn bases(pids: &[u32], store: &Path) -> BTreeSet<(u64, PathBuf)> {
    let files = |pid: &u32| std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let open = pids.iter().flat_map(files).filter_map(|fd| {
        let path = std::fs::read_link(fd.path()).ok()?;
        let inode = std::fs::metadata(fd.path()).ok()?.ino();
        path.starts_with(store).then_some((inode, path))
    });
    open.filter(|(_, path)| path.is_file() && !path.to_string_lossy().contains("lock")).collect()
}

fn boots(bench: &Bench) {
    let (mut ours, mut image) = (Vec::new(), Vec::new());
    // Neither pays for what the first boot makes and keeps.
    bench.first_line(false);
    bench.first_line(true);
    for _ in 0..number("PEPITA_IMAGES_BOOTS", 15) {
        ours.push(bench.first_line(false));
        image.push(bench.first_line(true));
    }
    ours.sort_unstable();
    image.sort_unstable();
    let figure = Figure::times("images", "run of an image until the daemon's first line", &image);
    let (ours, image) =
        ([0.5, 0.99].map(|p| percentile(&ours, p)), [0.5, 0.99].map(|p| percentile(&image, p)));
    println!(
        "run to the daemon's first line: image {}, p99 {}  .cpio {}, p99 {}  ratio {:.2}",
        ms(image[0]),
        ms(image[1]),
        ms(ours[0]),
        ms(ours[1]),
        image[0].as_secs_f64() / ours[0].as_secs_f64()
    );
    figure.against("our .cpio image", in_ms(ours[0])).record();
}

fn sharing(bench: &Bench) {
    let count = number("PEPITA_IMAGES_SHARING", 3);
    let mut pids = bench.stay("vm-0");
    let one: u64 = pids.iter().map(|pid| memory_kib(*pid)).sum();
    for n in 1..count {
        pids.extend(bench.stay(&format!("vm-{n}")));
    }
    let all: u64 = pids.iter().map(|pid| memory_kib(*pid)).sum();
    println!(
        "{count} VMs of one image: {:.1} MiB, one alone {:.1} MiB, ratio to {count} of them {:.2}",
        all as f64 / 1024.0,
        one as f64 / 1024.0,
        all as f64 / (one * count as u64) as f64
    );
    let mib = |kib: u64| kib as f64 / 1024.0;
    let figure = Figure::value("images", "memory of VMs that share a base", "MiB", mib(all), 1).among(count);
    figure.against("as many alone", mib(one * count as u64)).record();
    let bases = bases(&pids, &bench.place.path("data"));
    for (_, path) in &bases {
        let mut fincore = Command::new("fincore");
        fincore.args(["--noheadings", "--bytes", "--output", "RES,SIZE"]).arg(path);
        let text = fincore.output().map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
        let cached = text.unwrap_or_else(|e| format!("unknown: {e}"));
        println!("base {}: bytes in the page cache, and in all: {cached}", path.display());
    }
    println!("number of bases on the host: {}", bases.len());
}

fn main() {
    let bench = Bench::new();
    let source = format!("docker-archive:{}", archive(&bench.place).display());
    output(bench.pepita().args(["image", "import", "--as", "bench:1", &source]));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load of the machine before: {}", load.trim());
    boots(&bench);
    sharing(&bench);
}
