//! A VMM that a guest has taken over, in the jail that a real launch makes: an intruder stands in the place of QEMU, of the
//! vsock back-end and of virtiofsd. It tries all that the intruder of `crates/jail` tries, and then becomes the program whose place it
//! has, so that the VM boots as ever. The same launch without a jail shows that the attempts are real.
//!
//! This program is the intruder, too, so it has no harness: the monitor gives it the arguments of QEMU.
#![expect(unsafe_code, reason = "an intruder makes the calls that no wrapper makes")]

#[path = "../host/mod.rs"]
mod host;
#[path = "../../../jail/tests/attempts/intruder.rs"]
mod intruder;
#[path = "../../../jail/tests/attempts/targets.rs"]
mod targets;

use host::{Form, Host, PATIENCE, errors, guest_file};
use intruder::{ATTEMPTS, OF_A_SHARE};
use pepita_launcher::host::programs::{BACKEND, QEMU, VIRTIOFSD};
use pepita_launcher::rundir::layout;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;
use targets::Targets;

/// The programs in whose places the intruder stands: the name of its copy, and the variable that names the program.
const PROGRAMS: [(&str, &str); 3] = [
    ("qemu-intruder", "PEPITA_QEMU"),
    ("backend-intruder", "PEPITA_VHOST_DEVICE_VSOCK"),
    (SHARE, "PEPITA_VIRTIOFSD"),
];

/// The place of the server of a share, and of one that is read-only.
const SHARE: &str = "share-intruder";
const READ_ONLY: &str = "read-only-share-intruder";

/// The places in which the intruder stands.
const PLACES: [&str; 4] = [PROGRAMS[0].0, PROGRAMS[1].0, SHARE, READ_ONLY];

/// The attempts that begin with a file of the intruder's own, which the server of a read-only share cannot have, with a
/// jail or without.
const NEED_A_FILE: [&str; 4] = [
    "read another VM's token through a link",
    "make a device",
    "execute a program that it has written",
    "fill the disk",
];

/// The beginning of the intruder's lines in the log of the monitor.
const MARK: &str = "intruder: ";

/// The attempts that go for something which the launcher gives no program, or which hosts may lack, so that they may fail
/// without a jail, too.
const MAY_FAIL: [&str; 11] = [
    "use a descriptor that it was not given",
    "open /dev/mem",
    "open a vsock socket",
    "read the kernel's log",
    "handle page faults",
    "watch the machine's counters",
    "use io_uring",
    "load a BPF program",
    "use the calls of another interface (x32)",
    "connect to the QEMU monitor of another VM",
    "raise a limit",
];

/// What came of the attempts of each program.
type Results = BTreeMap<&'static str, BTreeMap<String, String>>;

fn main() -> ExitCode {
    // A jail has no /proc, which knows the path of a program.
    let own = PathBuf::from(std::env::args_os().next().expect("a name"));
    if let Some((program, _)) = PROGRAMS.iter().find(|(program, _)| own.ends_with(program)) {
        let is_read_only = std::env::args().any(|arg| arg.ends_with(READ_ONLY));
        return intrude(&own, program, if is_read_only { READ_ONLY } else { program });
    }
    if std::env::args().any(|arg| arg == "--list") {
        return ExitCode::SUCCESS;
    }
    assert!(rustix::process::geteuid().is_root(), "run the tests as root: a jail gives away user ids");
    let (jailed, free) = (launch("full"), launch("none"));
    for place in PLACES {
        for (attempt, layers, _) in ATTEMPTS {
            let (with, without) = (&jailed[place][*attempt], &free[place][*attempt]);
            println!("| {place} | {attempt} | {layers} | {with} | {without} |");
        }
    }
    for place in PLACES {
        for (attempt, _, _) in ATTEMPTS {
            let result = &jailed[place][*attempt];
            assert_eq!(result == "ok", may(place, attempt), "{place}: {attempt}: {result} in a jail");
            let has_no_file = place == READ_ONLY && NEED_A_FILE.contains(attempt);
            let real = !MAY_FAIL.contains(attempt) && !has_no_file;
            assert!(
                !real || free[place][*attempt] == "ok",
                "{place}: {attempt}: it has to succeed without one"
            );
        }
    }
    println!("test result: ok. {} attempts in each of {} places", ATTEMPTS.len(), PLACES.len());
    ExitCode::SUCCESS
}

/// Returns whether an attempt is part of the work of the program in this place: the server of a share makes its directory its
/// root, and writes to it if it may.
fn may(place: &str, attempt: &str) -> bool {
    let is_server = place == SHARE || place == READ_ONLY;
    is_server && OF_A_SHARE.contains(&attempt) && !(place == READ_ONLY && NEED_A_FILE.contains(&attempt))
}

/// Tries everything, and becomes the program in whose place it stands.
fn intrude(own: &Path, program: &str, place: &str) -> ExitCode {
    let beside = own.parent().and_then(Path::parent).expect("a prefix").join("lib");
    let text = std::fs::read_to_string(beside.join("aims.json")).expect("the aims");
    let aims: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_str(&text).expect("JSON");
    let aims = &aims[place];
    let text = serde_json::to_string(aims).expect("JSON");
    // What comes on standard error is in the log of the monitor.
    intruder::run(&text, aims["free"] == "true", &format!("{MARK}{place}\t"), &mut std::io::stderr());
    let error = Command::new(&aims[program]).args(std::env::args_os().skip(1)).exec();
    eprintln!("{MARK}{}: {error}", aims[program]);
    ExitCode::FAILURE
}

/// Boots a VM with the intruder in it, beside another VM. Returns what came of each attempt.
fn launch(level: &str) -> Results {
    let host = Host::of(Form::Qemu);
    let top = tempfile::Builder::new().prefix("pc").tempdir_in("/tmp").expect("a directory");
    let place = |name: &str, mode: u32| {
        let dir = top.path().join(name);
        std::fs::create_dir(&dir).expect("a directory");
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(mode)).expect("a mode");
        dir
    };
    std::fs::set_permissions(top.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    let (bin, lib, work) = (place("bin", 0o755), place("lib", 0o755), place("work", 0o777));
    let (state, images, mount) = (place("state", 0o755), place("images", 0o755), place("mount", 0o777));
    let copy = |from: &Path, to: PathBuf, mode: u32| {
        std::fs::copy(from, &to).expect("a copy");
        std::fs::set_permissions(&to, PermissionsExt::from_mode(mode)).expect("a mode");
        to.to_string_lossy().into_owned()
    };
    for (name, _) in PROGRAMS {
        copy(&std::env::current_exe().expect("this program"), bin.join(name), 0o755);
    }
    for place in PLACES {
        std::fs::create_dir(work.join(place)).expect("a directory");
    }
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin/vhost-device-vsock");
    let backend = Some(built).filter(|path| path.exists()).or_else(|| BACKEND.find()).expect("a back-end");
    let backend = copy(&backend, lib.join("vhost-device-vsock"), 0o755);
    let [qemu, virtiofsd] = [QEMU, VIRTIOFSD]
        .map(|program| program.require().expect("it is installed").to_string_lossy().into_owned());
    let image = copy(&guest_file("ticker.cpio"), images.join("own.cpio"), 0o644);
    for secret in [state.join("journal"), images.join("other.ext4")] {
        std::fs::write(secret, "secret").expect("a file");
    }
    // Each has its own, because a process is traced by one other alone.
    let targets = PLACES.map(|place| Targets::new(&top.path().join(place).to_string_lossy()));
    host.start_with("b", &["--jail", level], &[]);
    let path = |path: &Path| path.display().to_string();
    let common = [
        ("own", path(&host.vm("a"))),
        ("other", path(&host.vm("b"))),
        ("state", path(&state)),
        ("images", path(&images)),
        ("image", image.clone()),
        ("mount", path(&mount)),
        ("fd", "999".to_owned()),
        ("free", (level == "none").to_string()),
        (PROGRAMS[0].0, qemu),
        (PROGRAMS[1].0, backend),
        (PROGRAMS[2].0, virtiofsd),
    ];
    let aims = PLACES.iter().zip(&targets).map(|(place, targets)| {
        let mut aims = targets.aims();
        aims.extend(common.clone());
        aims.insert("work", path(&work.join(place)));
        (*place, aims)
    });
    let aims: BTreeMap<&str, _> = aims.collect();
    std::fs::write(lib.join("aims.json"), serde_json::to_string(&aims).expect("JSON")).expect("written");
    let kernel = guest_file("vmlinuz");
    let run = ["run", "--name", "a", "--daemon", "--jail", level, "--kernel", &kernel.to_string_lossy()];
    let volume = |place: &str, rest: &str| format!("{}:{rest}", work.join(place).display());
    let (write, read) = (volume(SHARE, "/write:rw"), volume(READ_ONLY, "/read"));
    let rest = ["-v", &write, "-v", &read, "--rootfs", &image, "--memory", "128", "--", "/usr/bin/ticker"];
    let mut command = host.command(&[&run[..], &rest].concat());
    command.envs(PROGRAMS.map(|(name, variable)| (variable, bin.join(name))));
    let output = command.output().expect("pepita runs");
    let log =
        |host: &Host| std::fs::read_to_string(host.vm("a").join(layout::MONITOR_LOG)).unwrap_or_default();
    assert!(output.status.success(), "{level}: {}\n{}", errors(&output), log(&host));
    // The VM works with what the intruder has become.
    host.until("a", |status| status.agent.ready);
    let use_it = ["/usr/bin/ticker", "--no-ready", "--write", "1", "--to", "/write/x", "--exit", "0"];
    host.exec("a", &use_it, 0);
    assert!(work.join(SHARE).join("x").exists(), "{level}: {}", log(&host));
    let deadline = Instant::now() + PATIENCE;
    let results = loop {
        let results = results_in(&log(&host));
        if PLACES.iter().all(|place| results.get(place).is_some_and(|all| all.len() == ATTEMPTS.len())) {
            break results;
        }
        assert!(Instant::now() < deadline, "{level}: it did not try all: {}", log(&host));
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    for name in ["a", "b"] {
        host.destroy(name, &["--force"]);
    }
    results
}

/// Returns what the intruder has said in the log of a monitor.
fn results_in(log: &str) -> Results {
    let mut results = Results::new();
    for line in log.lines().filter_map(|line| line.split_once(MARK)).map(|(_, line)| line) {
        let mut fields = line.split('\t');
        let place = fields.next().and_then(|place| PLACES.iter().find(|name| **name == place));
        if let (Some(place), Some(attempt), Some(result)) = (place, fields.next(), fields.next()) {
            results.entry(place).or_default().insert(attempt.to_owned(), result.to_owned());
        }
    }
    results
}
