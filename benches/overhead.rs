//! Measures what supervision adds to a boot: the time from the tree's decision to launch until the VM is ready. The
//! baseline is the same kernel with the same options and image, started by a bare QEMU command line, until the agent answers. Both run in
//! turn, so that other load on the machine slows both down. Then `boots` boots it with several kernels and versions in turn.
//!
//! Variable, with its default: `PEPITA_OVERHEAD_RUNS` (5).

#[path = "overhead/boots.rs"]
mod boots;
mod common;

use common::{Aim, Figure, Place, in_ms, ms};
use pepita_supervisor::observe::{EventKind, Received, VmPhase};
use pepita_supervisor::spec::{MachineSpec, Readiness, VmName, VmSpec};
use pepita_wire::console::{Note, decode};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What the ratio to the bare QEMU is aimed to be, at most.
const AIM: f64 = 1.03;

/// The memory of both guests.
const MEMORY_MB: u32 = 128;

/// How long to wait for a guest before the benchmark fails.
const PATIENCE: Duration = Duration::from_secs(120);

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

/// Starts the vsock back-end and QEMU as a person would, with these options of the guest's kernel, and returns how long it takes
/// until the agent answers.
fn bare(dir: &Path, kernel: &Path, options: &str) -> Duration {
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
    let append =
        format!("{options} pepita.token=bench pepita.port=5000 pepita.incarnation=1 pepita.cid=4242");
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-M", "microvm,memory-backend=mem,isa-serial=off", "-accel", "tcg", "-smp", "1"]);
    qemu.args(["-m", &format!("{MEMORY_MB}M"), "-object"]);
    qemu.arg(format!("memory-backend-memfd,id=mem,size={MEMORY_MB}M,share=on"));
    qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(guest("ticker.cpio")).args(["-append", &append]);
    qemu.args([
        "-device",
        "virtio-serial-device",
        "-chardev",
        "stdio,id=c,signal=off",
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
    let mut qemu = qemu.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("QEMU runs");
    let console = qemu.stdout.take().expect("piped");
    running.0.push(qemu);
    let (sender, up) = std::sync::mpsc::channel();
    // Ends with QEMU. The console is read to its end, because a guest waits for a reader of what it writes.
    std::thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            if decode(&line, &["bench"]) == Some(Note::Up) {
                let _ = sender.send(());
            }
        }
    });
    up.recv_timeout(PATIENCE).expect("the agent of the bare guest listens");
    greet(&uds).expect("the agent of the bare guest answers");
    began.elapsed()
}

/// Exchanges hellos with the agent. Called when the agent listens: a connect request that comes before the guest's driver is loaded
/// is never answered, and the back-end does not survive that a host hangs up then.
fn greet(uds: &Path) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(uds)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    stream.write_all(b"CONNECT 5000\n")?;
    reader.read_line(&mut line)?;
    assert!(line.starts_with("OK"), "the back-end says {line:?}");
    line.clear();
    stream.write_all(b"{\"hello\":{\"generation\":1,\"incarnation\":1,\"token\":\"bench\"}}\n")?;
    reader.read_line(&mut line)?;
    assert!(line.contains("hello"), "the agent says {line:?}");
    Ok(())
}

/// Starts a tree of one VM, and returns the time between the events that say "starting" and "ready", and the options with
/// which the guest's kernel was started.
async fn supervised(place: &Place) -> (Duration, String) {
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
    let vmm = tree.status().vm("bench").and_then(|vm| vm.vmm_pid).expect("it runs");
    let options = kernel_options(vmm);
    tree.destroy().await;
    (took, options)
}

/// Returns the command line of the guest's kernel without the words of the agent, which differ from start to start.
fn kernel_options(vmm: u32) -> String {
    let arguments = std::fs::read_to_string(format!("/proc/{vmm}/cmdline")).expect("a live process");
    let line = arguments.split('\0').skip_while(|word| *word != "-append").nth(1).expect("a command line");
    let words: Vec<&str> = line.split(' ').filter(|word| !word.starts_with("pepita.")).collect();
    words.join(" ")
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
    let (_, options) = supervised(&place).await;
    let kernel = std::fs::read_dir(place.path("r").join(".cache")).expect("the cache").flatten();
    let mut kernel =
        kernel.map(|entry| entry.path()).filter(|path| path.extension() == Some("vmlinux".as_ref()));
    let kernel = kernel.next().unwrap_or_else(|| guest("vmlinuz"));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        theirs.push(bare(&place.path(&format!("bare-{run}")), &kernel, &options));
        ours.push(supervised(&place).await.0);
        println!("run {run}: bare {}, supervised {}", ms(theirs[run - 1]), ms(ours[run - 1]));
    }
    let figure = Figure::times("overhead", "launch until Ready", &ours);
    let (ours, theirs) = (median(ours), median(theirs));
    figure.against("bare QEMU", in_ms(theirs)).ratio_aim(Aim::AtMost(AIM)).record();
    println!("median: bare {}, supervised {}", ms(theirs), ms(ours));
    println!("ratio: {:.3} (aim: {AIM} or less)", ours.as_secs_f64() / theirs.as_secs_f64());
    boots::measure(&place, runs);
}
