//! A VMM that a guest has taken over gets nowhere: a program in its place, under the plans that VMs get, tries what an
//! intruder would try, as root and as an ordinary user. The same program without a jail shows that the attempts are real.
//!
//! This program is the helper and the intruder, too, so it has no harness: the helper must have one thread.
#![expect(unsafe_code, reason = "an intruder makes the calls that no wrapper makes")]

mod intruder;
mod targets;

use intruder::{ATTEMPTS, OF_A_SHARE};
use pepita_jail::{Access, Entry, HELPER, Level, Limits, Plan, Report, Seccomp, User};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use targets::Targets;

/// The users of the jails of root: one that no other program has.
const JAILED: User = User { uid: 500_001, gid: 500_001 };

/// The ordinary user as whom root tries the jails of ordinary users.
const ORDINARY: u32 = 65_534;

const INTRUDER: &str = "intrude";
const FREE: &str = "free";
const JAIL: &str = "jailed";
const ROOTLESS: &str = "as-an-ordinary-user";

/// The attempts that succeed without a jail even for an ordinary user, because the files and processes of its other VMs are
/// its own.
const ORDINARY_CAN: &[&str] = &[
    "list the run directory of another VM",
    "read the token of another VM",
    "read another VM's token through a link",
    "read the token of its own VM",
    "change the recorded state of its own VM",
    "read the supervisor's state directory",
    "read an image that it does not run",
    "change the image that it runs",
    "make the image that it runs writable",
    "write outside of its directory",
    "read the environment of its monitor",
    "connect to the control socket of its own VM",
    "connect to the QEMU monitor of another VM",
    "connect to an abstract socket of the host",
    "connect to a TCP port of the host",
    "send a datagram to a UDP port of the host",
    "open a netlink socket",
    "signal a process of the host",
    "trace a process of the host",
    "read the shared memory of the host",
    "use a descriptor that it was not given",
    "execute a program that it has written",
    "fill the disk",
    "start processes without end",
];

/// The attempts of which no host of ours has what they go for, so that they may fail without a jail, too.
const MAY_FAIL: &[&str] = &[
    "open /dev/mem",
    "open a vsock socket",
    "read the kernel's log",
    "handle page faults",
    "watch the machine's counters",
    "use io_uring",
    "load a BPF program",
    "use the calls of another interface (x32)",
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some(HELPER) => return pepita_jail::helper::main(std::env::args_os().skip(2)),
        Some(INTRUDER) => {
            intruder::run(&args[1], args[2] == FREE, "", &mut std::io::stdout());
            return ExitCode::SUCCESS;
        }
        Some(ROOTLESS) => {
            as_this_user(None);
            return ExitCode::SUCCESS;
        }
        Some("--list") => return ExitCode::SUCCESS,
        Some(_) | None => {}
    }
    if !rustix::process::geteuid().is_root() {
        as_this_user(None);
        return ExitCode::SUCCESS;
    }
    the_documents_have_every_attempt();
    a_device_that_is_root_s_alone_can_be_used_when_the_plan_has_it();
    println!("as root:");
    as_this_user(Some(JAILED));
    println!("as an ordinary user:");
    // A copy that everybody may execute: the build may be in a directory of root.
    let dir = scratch();
    let copy = dir.path().join("attempts");
    std::fs::copy(own(), &copy).expect("a copy");
    let status = Command::new(copy).arg(ROOTLESS).uid(ORDINARY).gid(ORDINARY).current_dir("/").status();
    assert!(status.expect("it starts").success(), "as an ordinary user");
    println!("test result: ok. {} attempts", ATTEMPTS.len());
    ExitCode::SUCCESS
}

/// Checks the table in the documents.
fn the_documents_have_every_attempt() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/jail.md");
    let text = std::fs::read_to_string(path).expect("the document");
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).collect();
    for (name, layers, _) in ATTEMPTS {
        let row = format!("| {name} | {layers} | ");
        assert!(rows.iter().any(|line| line.starts_with(&row)), "docs/jail.md has no row that begins: {row}");
    }
}

/// Checks that the user of a jail can use a device of the plan whose owner on the host is root alone, as `/dev/kvm` is on some
/// hosts, and that the device of the host is as it was.
fn a_device_that_is_root_s_alone_can_be_used_when_the_plan_has_it() {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat, stat};
    let top = scratch();
    let device = top.path().join("device");
    let null = makedev(1, 3);
    mknodat(CWD, &device, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, null).expect("a device");
    let script = format!("echo x >{}", device.display());
    let run = |plan: &Plan| {
        let entry = Entry::new(plan).expect("a plan");
        let mut command = entry.command(&own(), Path::new("/bin/sh"));
        command.args(["-c", &script]).stdin(Stdio::null()).stderr(Stdio::null());
        entry.start(&mut command).unwrap_or_else(|failure| panic!("{failure}")).end().and_then(|end| end.code)
    };
    let plan = || Plan::new(Level::Full, Some(JAILED), "/").with_system();
    assert_eq!(run(&plan().with(&device, Access::Device)), Some(0), "a device of the plan");
    assert_ne!(run(&plan()), Some(0), "no device of the plan");
    let after = stat(&device).expect("the device");
    assert_eq!((after.st_uid, after.st_mode & 0o777, after.st_rdev), (0, 0o600, null));
}

fn own() -> PathBuf {
    std::env::current_exe().expect("this program")
}

fn scratch() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("jail").tempdir_in("/tmp").expect("a directory");
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    dir
}

/// Runs the intruder in and without a jail, and judges what it got.
fn as_this_user(user: Option<User>) {
    let (jailed, report) = intrude(Level::Full, user, Seccomp::Common);
    let (backend, _) = intrude(Level::Full, user, Seccomp::Backend);
    let (share, of_share) = intrude(Level::Full, user, Seccomp::Share);
    let (free, _) = intrude(Level::None, user, Seccomp::None);
    let missing: Vec<_> = report.missing().chain(of_share.missing()).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for (name, _, _) in ATTEMPTS {
        let all = [&jailed, &backend, &share, &free].map(|results| &results[*name][..]);
        println!("| {name} | {} |", all.join(" | "));
    }
    for (name, _, _) in ATTEMPTS {
        assert_ne!(jailed[*name], "ok", "{name}: it succeeded in a jail");
        assert_ne!(backend[*name], "ok", "{name}: it succeeded in the jail of a back-end");
        let is_meant = OF_A_SHARE.contains(name);
        assert_eq!(share[*name] == "ok", is_meant, "{name}: {} in the jail of a share", share[*name]);
        let real = if user.is_some() { !MAY_FAIL.contains(name) } else { ORDINARY_CAN.contains(name) };
        if real {
            assert_eq!(free[*name], "ok", "{name}: without a jail it would have to succeed");
        }
    }
}

/// Lets the intruder try everything. Returns what came of each attempt, and what is said of the layers.
fn intrude(level: Level, user: Option<User>, seccomp: Seccomp) -> (BTreeMap<String, String>, Report) {
    let top = scratch();
    let place = |name: &str| {
        let dir = top.path().join(name);
        std::fs::create_dir(&dir).expect("a directory");
        dir
    };
    let (own_dir, other, state, images, work) =
        (place("own"), place("other"), place("state"), place("images"), place("work"));
    let image = images.join("own.ext4");
    let secrets = [
        own_dir.join("token"),
        other.join("token"),
        state.join("journal"),
        images.join("other.ext4"),
        image.clone(),
    ];
    for secret in &secrets {
        std::fs::write(secret, "secret").expect("a file");
    }
    // The image is readable for the user of the jail, as it has to be.
    std::fs::set_permissions(&image, PermissionsExt::from_mode(0o644)).expect("a mode");
    if let Some(User { uid, gid }) = user {
        chown(&work, Some(uid), Some(gid)).expect("an owner");
    }
    let _control = UnixListener::bind(own_dir.join("ctl.sock")).expect("a socket");
    let _qmp = UnixListener::bind(other.join("qmp.sock")).expect("a socket");
    let targets = Targets::new(&top.path().to_string_lossy());
    let leaked = std::fs::File::open(&secrets[1]).expect("the file");
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).expect("a flag");
    let mut aims = targets.aims();
    aims.extend([
        ("own", own_dir.display().to_string()),
        ("other", other.display().to_string()),
        ("state", state.display().to_string()),
        ("images", images.display().to_string()),
        ("image", image.display().to_string()),
        ("work", work.display().to_string()),
        ("mount", place("mount").display().to_string()),
        ("fd", leaked.as_raw_fd().to_string()),
    ]);
    let aims = serde_json::to_string(&aims).expect("JSON");
    let plan = match seccomp {
        Seccomp::Share => share_plan(&work, &image),
        Seccomp::None | Seccomp::Common | Seccomp::Backend => {
            Plan { seccomp, ..plan(level, user, &work, &image) }
        }
    };
    let (output, report) = start(&plan, &aims);
    let lines = output.lines().filter_map(|line| line.split_once('\t'));
    let results: BTreeMap<_, _> = lines.map(|(name, result)| (name.to_owned(), result.to_owned())).collect();
    assert_eq!(results.len(), ATTEMPTS.len(), "the intruder ended early: {output}");
    (results, report)
}

/// Returns a plan like that of QEMU: its image, and a directory that it may write to.
fn plan(level: Level, user: Option<User>, work: &Path, image: &Path) -> Plan {
    let plan = Plan::new(level, user, work).with_system().with_program(&own());
    let plan = plan.with(work, Access::Write).with(image, Access::Read);
    Plan { limits: Limits { open_files: Some(256), threads: Some(64), file_size: Some(16 << 20) }, ..plan }
}

/// Returns a plan like that of virtiofsd: a directory that it serves with the rights of root to files.
fn share_plan(work: &Path, image: &Path) -> Plan {
    let plan = Plan::of_file_server(Level::Full, false, work).with_system().with_program(&own());
    let plan = plan.with(work, Access::Serve).with(image, Access::Read);
    Plan { limits: Limits { open_files: Some(256), threads: Some(64), file_size: None }, ..plan }
}

fn start(plan: &Plan, aims: &str) -> (String, Report) {
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let (mut command, report, wait): (Command, Report, Box<dyn FnOnce()>);
    if plan.level == Level::None {
        command = Command::new(own());
        let mut child = command
            .args([INTRUDER, aims, FREE])
            .stdin(Stdio::null())
            .stdout(writer)
            .spawn()
            .expect("it starts");
        (report, wait) = (Report::default(), Box::new(move || drop(child.wait())));
    } else {
        let entry = Entry::new(plan).expect("a plan");
        command = entry.command(&own(), &own());
        command.args([INTRUDER, aims, JAIL]).stdin(Stdio::null()).stdout(writer);
        let jailed = entry.start(&mut command).unwrap_or_else(|failure| panic!("{failure}"));
        report = jailed.report.clone();
        wait = Box::new(move || {
            jailed.end();
        });
    }
    // The writer of this process.
    drop(command);
    let mut output = String::new();
    reader.read_to_string(&mut output).expect("text");
    wait();
    (output, report)
}
