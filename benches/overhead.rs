//! Measures what supervision adds to a boot: the time from the tree's decision to launch until the VM is ready. The
//! baseline is the same kernel and image, started by a bare QEMU command line, until the agent answers. Both run in
//! turn, so that other load on the machine slows both down. Then `boots` boots it with several kernels and versions in turn.
//!
//! Variable, with its default: `PEPITA_OVERHEAD_RUNS` (5).

#[path = "overhead/boots.rs"]
mod boots;
mod common;

use common::{Aim, Figure, Place, in_ms, ms};
use pepita_supervisor::observe::{EventKind, Received, VmPhase};
use pepita_supervisor::spec::{MachineSpec, Readiness, VmName, VmSpec};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What the ratio to the bare QEMU is aimed to be, at most.
const AIM: f64 = 1.03;

/// The memory of both guests.
const MEMORY_MB: u32 = 128;

fn guest(file: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".guest").join(file);
    assert!(path.exists(), "{} is missing: run `make setup` first", path.display());
    path
}

/// Kills the child processes when it is dropped, also by a panic.
struct Running(Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts the vsock back-end and QEMU as a person would, and returns how long it takes until the agent answers.
fn bare(dir: &Path, kernel: &Path, tsc: &str) -> Duration {
    std::fs::create_dir_all(dir).expect("made");
    let (socket, uds) = (dir.join("vh.sock"), dir.join("v.sock"));
    let began = Instant::now();
    let backend = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/vhost-device-vsock");
    let backend = Command::new(backend)
        .args(["--guest-cid", "4242", "--socket"])
        .arg(&socket)
        .arg("--uds-path")
        .arg(&uds)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the back-end runs");
    let mut running = Running(vec![backend]);
    while !socket.exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let append = format!(
        "console=hvc0 quiet reboot=t panic=-1 mitigations=off cryptomgr.notests lsm= tsc_early_khz={tsc} tsc=reliable \
         pepita.token=bench pepita.port=5000 pepita.incarnation=1 pepita.cid=4242"
    );
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-M", "microvm,memory-backend=mem,isa-serial=off", "-accel", "tcg", "-smp", "1"]);
    qemu.args(["-m", &format!("{MEMORY_MB}M"), "-object"]);
    qemu.arg(format!("memory-backend-memfd,id=mem,size={MEMORY_MB}M,share=on"));
    qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(guest("ticker.cpio")).args(["-append", &append]);
    qemu.args([
        "-device",
        "virtio-serial-device",
        "-chardev",
        "null,id=c",
        "-device",
        "virtconsole,chardev=c",
    ]);
    qemu.arg("-chardev").arg(format!("socket,id=vs,path={}", socket.display()));
    qemu.args([
        "-device",
        "vhost-user-vsock-device,chardev=vs",
        "-display",
        "none",
        "-nodefaults",
        "-no-reboot",
    ]);
    running.0.push(qemu.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("QEMU runs"));
    while !answers(&uds) {
        std::thread::sleep(Duration::from_millis(2));
        assert!(began.elapsed() < Duration::from_secs(120), "the bare guest does not answer");
    }
    began.elapsed()
}

fn answers(uds: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(uds) else { return false };
    // A connect request that comes before the guest's driver is loaded is never answered. A later one is.
    stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a socket");
    let hello = "{\"hello\":{\"generation\":1,\"incarnation\":1,\"token\":\"bench\"}}\n";
    let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
    let mut line = String::new();
    // The end of the stream instead of OK means that no program in the guest listens yet.
    if stream.write_all(b"CONNECT 5000\n").is_err() || reader.read_line(&mut line).is_err() || line.is_empty()
    {
        return false;
    }
    line.clear();
    stream.write_all(hello.as_bytes()).is_ok()
        && reader.read_line(&mut line).is_ok()
        && line.contains("hello")
}

/// Starts a tree of one VM, and returns the time between the events that say "starting" and "ready".
async fn supervised(place: &Place) -> Duration {
    let machine = MachineSpec {
        vcpus: 1,
        memory_mb: MEMORY_MB,
        ..MachineSpec::qemu(guest("vmlinuz"), guest("ticker.cpio"))
    };
    let mut vm = VmSpec::new(VmName::new("bench").expect("a good name"), machine);
    vm.start.ready = Readiness::Started;
    let tree = place.start(vec![Place::group("g", vec![vm])]).await;
    let mut events = tree.events();
    let mut began = None;
    let took = loop {
        match events.next().await {
            Some(Received::Event(event)) => match event.kind {
                EventKind::Vm(change) if change.to == VmPhase::Starting => began = Some(event.time),
                EventKind::Vm(change) if change.to == VmPhase::Ready => {
                    let began = began.expect("a start before the readiness");
                    break event.time.duration_since(began).unwrap_or_default();
                }
                _ => {}
            },
            other => panic!("{other:?}"),
        }
    };
    tree.destroy().await;
    took
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::main]
async fn main() {
    let runs: usize = std::env::var("PEPITA_OVERHEAD_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    let place = Place::new();
    // A run before the measurement fills the cache with the unpacked kernel and the TSC's frequency, for both.
    supervised(&place).await;
    let cache = place.path("r").join(".cache");
    let kernel = std::fs::read_dir(&cache).expect("the cache").flatten().map(|entry| entry.path());
    let kernel = kernel.into_iter().find(|path| path.extension().is_some_and(|e| e == "vmlinux"));
    let kernel = kernel.unwrap_or_else(|| guest("vmlinuz"));
    let tsc = std::fs::read_to_string(cache.join("tsc")).expect("the frequency");
    let tsc = tsc.split_whitespace().last().expect("a number").to_owned();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        theirs.push(bare(&place.path(&format!("bare-{run}")), &kernel, &tsc));
        ours.push(supervised(&place).await);
        println!("run {run}: bare {}, supervised {}", ms(theirs[run - 1]), ms(ours[run - 1]));
    }
    let figure = Figure::times("overhead", "launch until Ready", &ours);
    let (ours, theirs) = (median(ours), median(theirs));
    figure.against("bare QEMU", in_ms(theirs)).ratio_aim(Aim::AtMost(AIM)).record();
    println!("median: bare {}, supervised {}", ms(theirs), ms(ours));
    println!("ratio: {:.3} (aim: {AIM} or less)", ours.as_secs_f64() / theirs.as_secs_f64());
    boots::measure(&place, runs);
}
