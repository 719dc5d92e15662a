//! Boots the same daemon in turn: with Debian's kernel, with the small guest kernel, and with the programs, the image and
//! Debian's kernel as an older version of this project had them. Measured is the call `pepita run --daemon --wait-ready`, which
//! returns when the agent answers, and the processor time of the VMM until then, which other load on the machine hardly changes.

use crate::common::{Aim, Figure, Place, in_ms, missing, ms};
use crate::{MEMORY_MB, guest, median};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The commit of the older version (scripts/test-upgrade.sh).
const OLD: &str = "445d9af";

/// What the ratio of a boot to one of the older version is aimed to be, at most.
const AIM: f64 = 0.75;

/// Launcher, kernel and image of one kind of boot.
struct Kind {
    name: &'static str,
    pepita: PathBuf,
    run_dir: PathBuf,
    kernel: PathBuf,
    image: PathBuf,
    times: Vec<Duration>,
    processor: Vec<Duration>,
}

impl Kind {
    fn new(name: &'static str, place: &Place, kernel: PathBuf) -> Self {
        let (pepita, run_dir) = (place.pepita.clone(), place.path("r"));
        Self {
            name,
            pepita,
            run_dir,
            kernel,
            image: guest("ticker.cpio"),
            times: Vec::new(),
            processor: Vec::new(),
        }
    }

    fn call(&self, args: &[&str]) -> Vec<u8> {
        let mut command = Command::new(&self.pepita);
        let output = command.arg("--run-dir").arg(&self.run_dir).args(args).output().expect("pepita runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {args:?}: {errors}", self.name);
        output.stdout
    }

    /// Boots a VM once, ends it, and returns how long the boot took and the processor time that the VMM used for it.
    fn boot(&self) -> (Duration, Duration) {
        let (kernel, image) = (self.kernel.to_string_lossy(), self.image.to_string_lossy());
        let memory = MEMORY_MB.to_string();
        let machine = ["--kernel", &kernel, "--rootfs", &image, "--memory", &memory, "--cpus", "1"];
        let began = Instant::now();
        self.call(&[&["run", "--name", "boot", "--daemon", "--wait-ready"], &machine[..]].concat());
        let took = began.elapsed();
        let status: Value =
            serde_json::from_slice(&self.call(&["status", "--name", "boot", "--json"])).expect("JSON");
        let processor = processor_time(status["vmm_pid"].as_u64().expect("a process"));
        self.call(&["destroy", "--name", "boot", "--force"]);
        (took, processor)
    }
}

/// Returns the processor time of all threads of a process.
fn processor_time(pid: u64) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a live process").flatten();
    let used = |text: String| text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
    let spent = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("schedstat")).ok());
    Duration::from_nanos(spent.map(used).sum())
}

/// Measures all kinds of boots that this checkout has the files for.
pub(crate) fn measure(place: &Place, runs: usize) {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let debian = Kind::new("Debian's kernel", place, guest("vmlinuz"));
    let mut kinds = vec![debian];
    let small = top.join(".guest/vmlinux-small");
    match small.exists() {
        true => kinds.push(Kind::new("the small kernel", place, small)),
        false => missing("overhead", "the small kernel", ".guest/vmlinux-small is not there", "make kernel"),
    }
    let old = top.join("target/upgrade");
    match old.join("ticker.cpio").exists() {
        true => kinds.push(Kind {
            pepita: old.join("build/debug/pepita"),
            run_dir: place.path("old"),
            image: old.join("ticker.cpio"),
            ..Kind::new(OLD, place, guest("vmlinuz"))
        }),
        false => missing("overhead", OLD, "target/upgrade has no older programs", "make test-upgrade"),
    }
    for kind in &kinds {
        // The kernel is unpacked, and the image is in the page cache.
        kind.boot();
    }
    for run in 1..=runs {
        for kind in &mut kinds {
            let (took, processor) = kind.boot();
            println!("boot {run}: {}: {}, {} of the processor", kind.name, ms(took), ms(processor));
            kind.times.push(took);
            kind.processor.push(processor);
        }
    }
    for kind in kinds.iter().filter(|kind| kind.name != OLD) {
        for baseline in kinds.iter().filter(|baseline| baseline.name != kind.name) {
            if baseline.name == "the small kernel" {
                continue;
            }
            let time = Figure::times("overhead", &format!("boot with {}", kind.name), &kind.times)
                .against(baseline.name, in_ms(median(baseline.times.clone())));
            match baseline.name == OLD {
                true => time.ratio_aim(Aim::AtMost(AIM)).record(),
                false => time.record(),
            }
            let what = format!("boot with {}, processor time of the VMM", kind.name);
            Figure::times("overhead", &what, &kind.processor)
                .against(baseline.name, in_ms(median(baseline.processor.clone())))
                .record();
        }
        let (time, processor) = (median(kind.times.clone()), median(kind.processor.clone()));
        println!("median with {}: {}, {} of the processor", kind.name, ms(time), ms(processor));
    }
}
