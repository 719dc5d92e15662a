//! The world of a daemon, looked at from inside: what every daemon finds, and what is asked for.

use crate::host::{Form, Host, errors, guest_file, pepita};
use pepita_wire::launch::SPARE_LABEL;
use pepita_wire::record::DaemonState;
use pepita_wire::{Exit, MonitorRequest, StatusRecord, VmId};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The capabilities of a container (Docker), as the kernel writes them.
const OF_A_CONTAINER: &str = "00000000a80425fb";

/// What the ticker has said of its world.
struct Seen(Vec<String>);

impl Seen {
    /// Reads what the daemon of a VM has printed, up to its last line.
    fn by_daemon(host: &Host, name: &str) -> Self {
        Self::of(&host.ok(&["logs", "--name", name]))
    }

    fn of(text: &str) -> Self {
        Self(text.lines().map(|line| line.trim_end().to_owned()).collect())
    }

    /// Returns the value of a property.
    fn get(&self, key: &str) -> &str {
        let values = self.0.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        values.unwrap_or_else(|| panic!("no {key}: {:#?}", self.0))
    }

    fn has(&self, line: &str) -> bool {
        self.0.iter().any(|seen| seen == line)
    }

    #[track_caller]
    fn assert(&self, expected: &[(&str, &str)]) {
        for (key, value) in expected {
            assert_eq!(self.get(key), *value, "{key}: {:#?}", self.0);
        }
    }

    /// Returns whether something is mounted at a place, and its options.
    fn mounted(&self, place: &str) -> Option<&str> {
        let mounts = self.0.iter().filter_map(|line| line.strip_prefix("mount="));
        let mut fields = mounts.map(|mount| mount.split(' ').collect::<Vec<_>>());
        fields.find(|fields| fields[1] == place).map(|fields| fields[3])
    }
}

fn is_ready(status: &StatusRecord) -> bool {
    status.daemon.state == DaemonState::Ready
}

#[test]
fn a_daemon_finds_the_world_that_programs_expect_and_cannot_reach_its_agent() {
    let host = Host::of(Form::Qemu);
    host.ready("cache-1", &["--world"]);
    let seen = Seen::by_daemon(&host, "cache-1");
    seen.assert(&[
        ("Uid", "0 0 0 0"),
        ("Groups", ""),
        ("CapBnd", OF_A_CONTAINER),
        ("CapEff", OF_A_CONTAINER),
        ("NoNewPrivs", "1"),
        ("Umask", "0022"),
        ("cwd", "/"),
        ("hostname", "cache-1"),
        ("cgroup", "0::/daemon"),
        ("reach 127.0.0.1", "ok"),
        ("reach ::1", "ok"),
        (
            "/etc/hosts",
            r"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\tcache-1\n",
        ),
        ("write /", "ok"),
        ("write /dev/shm", "ok"),
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "ok"),
        ("env NOTIFY_SOCKET", "/run/notify.sock"),
        ("agent's environment", "Permission denied (os error 13)"),
        ("agent's memory", "Permission denied (os error 13)"),
        ("agent's files", "Permission denied (os error 13)"),
    ]);
    assert!(seen.get("/etc/resolv.conf").starts_with('#'));
    assert!(seen.has("limit=Max open files 1024 524288 files"), "{:#?}", seen.0);
    assert!(seen.has("written to /dev/stdout") && seen.has("written to /dev/stderr"));
    for place in ["/dev/shm", "/dev/mqueue", "/dev/pts", "/proc", "/sys", "/run", "/tmp"] {
        assert!(seen.mounted(place).is_some(), "{place}: {:#?}", seen.0);
    }

    // A command of a host has the same world.
    let command = ["/usr/bin/ticker", "--no-ready", "--world", "--exit", "0"];
    let result = host.exec("cache-1", &command, 0);
    assert_eq!(result.exit, Exit::code(0));
    // The answer has the last 4 KiB.
    let by_command = Seen::of(&result.output);
    by_command.assert(&[("agent's memory", "Permission denied (os error 13)")]);
    let status = ["/usr/bin/ticker", "--no-ready", "--cat", "/proc/self/status", "--exit", "0"];
    let status = host.exec("cache-1", &status, 0).output;
    assert!(status.contains(&format!("CapBnd:\t{OF_A_CONTAINER}")), "{status}");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    host.destroy("cache-1", &[]);
}

#[test]
fn a_daemon_that_takes_every_thread_leaves_the_agent_its_own() {
    let host = Host::of(Form::Qemu);
    host.start("a", &["--threads"]);
    let log = || host.ok(&["logs", "--name", "a"]);
    host.until("a", is_ready);
    // The ticker says what the kernel refused, and then ticks.
    let mut link = host.link("a");
    link.watch();
    let answer = host.exec("a", &["/usr/bin/ticker", "--no-ready", "--say", "alive", "--exit", "0"], 0);
    assert_eq!((answer.exit, answer.output.as_str()), (Exit::code(0), "alive\n"));
    host.ok(&["signal", "--name", "a", "--signal", "TERM"]);
    assert_eq!(host.exit("a").exit, Exit::code(0));
    let log = log();
    let refused = log.lines().find(|line| line.starts_with("threads=")).unwrap_or_else(|| panic!("{log}"));
    println!("{refused}");
    assert!(refused.trim_end().ends_with("operation would block"), "{refused}");
    host.destroy("a", &[]);
}

/// Makes an image with a user, and files of its own where a guest has a text for them.
fn image_with_a_user(dir: &Path) -> String {
    let root = dir.join("root");
    std::fs::create_dir_all(root.join("etc")).expect("made");
    let write = |name: &str, text: &str| std::fs::write(root.join(name), text).expect("written");
    write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nredis:x:101:102::/var/lib/redis:/bin/false\n");
    write("etc/group", "root:x:0:\nredis:x:102:\nssl-cert:x:103:redis\n");
    write("etc/hosts", "127.0.0.1 mine\n");
    let output = dir.join("user.cpio");
    let (agent, ticker) = (guest_file("daemonctl"), guest_file("ticker"));
    let built = std::process::Command::new(pepita())
        .args(["image", "build", "--dir"])
        .arg(&root)
        .arg("--agent")
        .arg(agent)
        .arg("--daemon")
        .arg(ticker)
        .arg("--kernel-package")
        .arg(guest_file("modules"))
        .arg("--output")
        .arg(&output)
        .output()
        .expect("pepita runs");
    assert!(built.status.success(), "{}", errors(&built));
    output.to_string_lossy().into_owned()
}

/// Starts the ticker of another image.
fn start_of_image(host: &Host, rootfs: &str, name: &str, options: &[&str], ticker: &[&str]) {
    let options = [&["--daemon"], options].concat();
    let mut words = host.run_args(name, &options, ticker);
    let at = words.iter().position(|word| word == "--rootfs").expect("a microVM has a root");
    rootfs.clone_into(&mut words[at + 1]);
    host.ok(&words.iter().map(String::as_str).collect::<Vec<_>>());
}

/// Checks that a daemon has all that was asked for, and this secret.
fn assert_everything(seen: &Seen, secret: &str) {
    seen.assert(&[
        ("Uid", "101 101 101 101"),
        ("Gid", "102 102 102 102"),
        ("Groups", "103"),
        ("CapBnd", OF_A_CONTAINER),
        ("CapEff", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("cwd", "/var/lib/work"),
        ("hostname", "red.example"),
        ("/etc/hosts", r"127.0.0.1 mine\n"),
        ("write /", "Read-only file system (os error 30)"),
        ("write /tmp", "ok"),
        ("write /dev/shm", "ok"),
        ("write /run", "Permission denied (os error 13)"),
        ("/dev/stdout", "ok"),
        ("secret tls-key", secret),
        ("env FROM_FILE", "1"),
        ("env HOME", "/var/lib/redis"),
        ("env USER", "redis"),
        ("env PATH", "/usr/bin"),
        ("agent's memory", "Permission denied (os error 13)"),
    ]);
    assert!(seen.has("limit=Max open files 100 200 files"), "{:#?}", seen.0);
    assert!(seen.has("limit=Max core file size 0 0 bytes"), "{:#?}", seen.0);
    assert!(seen.mounted("/run/secrets").is_some_and(|options| options.starts_with("ro,")), "{:#?}", seen.0);
    assert!(seen.has("1"), "vm.overcommit_memory: {:#?}", seen.0);
}

#[test]
fn a_daemon_has_the_world_that_is_asked_for() {
    let host = Host::of(Form::Qemu);
    let dir = tempfile::tempdir().expect("a directory");
    let rootfs = image_with_a_user(dir.path());
    let file = |name: &str, text: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("closed");
        path.to_string_lossy().into_owned()
    };
    let secret = format!("tls-key={}", file("key", b"\x00s3cret\xff"));
    let variables = file("daemon.env", b"# of the daemon\nFROM_FILE=1\nPATH=/usr/bin\n");
    let options = [
        "--user",
        "redis",
        "--workdir",
        "/var/lib/work",
        "--hostname",
        "red.example",
        "--ulimit",
        "nofile=100:200",
        "--ulimit",
        "core=0",
        "--sysctl",
        "vm.overcommit_memory=1",
        "--read-only",
        "--secret",
        &secret,
        "--env-file",
        &variables,
        "--env",
        "WATCHDOG_USEC=5000000",
    ];
    let world = ["--world", "--cat", "/proc/sys/vm/overcommit_memory", "--cat", "/proc/self/environ"];
    start_of_image(&host, &rootfs, "a", &options, &world);
    // The report over the notify socket is that of the daemon's user.
    host.until("a", is_ready);
    let seen = Seen::by_daemon(&host, "a");
    assert_everything(&seen, r"400 101 \x00s3cret\xff");
    assert_eq!(seen.get("env WATCHDOG_PID"), host.status("a").daemon.pid.expect("it runs").to_string());

    // A command of a host: the daemon's user, directory, groups and PATH (a bare name is found).
    let status = host.exec("a", &["ticker", "--no-ready", "--cat", "/proc/self/status", "--exit", "0"], 0);
    assert!(status.output.contains("Uid:\t101\t101\t101\t101"), "{status:?}");
    assert!(status.output.contains("Groups:\t103"), "{status:?}");
    let variables = ["ticker", "--no-ready", "--show", "FROM_FILE", "--show", "PWD", "--exit", "0"];
    assert!(host.exec("a", &variables, 0).output.starts_with("FROM_FILE=1\n"));

    // The secret is in no file of the run directory.
    for entry in std::fs::read_dir(host.vm("a")).expect("its run directory").flatten() {
        let bytes =
            if entry.path().is_file() { std::fs::read(entry.path()).expect("a file") } else { Vec::new() };
        // The console's log has what the daemon has printed of it.
        let is_log = entry.file_name().to_string_lossy().contains("console");
        assert!(is_log || !bytes.windows(6).any(|part| part == b"s3cret"), "{:?}", entry.file_name());
    }
    host.destroy("a", &[]);

    // A spare is prepared for the same world before it is promoted; the secret is the one of that moment.
    let spare = ["--hold", "--label", &format!("{SPARE_LABEL}=a")];
    start_of_image(&host, &rootfs, "a-1", &[&options[..], &spare].concat(), &world);
    host.until("a-1", |status| status.agent.ready);
    file("key", b"\x00later\xff");
    let request = MonitorRequest::Promote { name: VmId::new("a").expect("a name"), incarnation: 2 };
    host.ask("a-1", request);
    host.until("a", is_ready);
    assert_everything(&Seen::by_daemon(&host, "a"), r"400 101 \x00later\xff");
    host.destroy("a", &["--force"]);

    // What the image does not have ends the start with its name.
    start_of_image(&host, &rootfs, "b", &["--user", "nobody"], &[]);
    let exit = host.exit("b");
    assert!(matches!(&exit.exit, Exit::NotExecutable { .. }), "{exit:?}");
    assert!(exit.exit.to_string().contains("\"nobody\" is not in the image's /etc/passwd"), "{exit:?}");
    host.destroy("b", &[]);
}

#[test]
fn a_privileged_daemon_has_every_capability() {
    let host = Host::of(Form::Qemu);
    host.start_with("a", &["--privileged", "--sysctl", "kernel.panic_on_warn=0"], &["--world"]);
    host.until("a", is_ready);
    let seen = Seen::by_daemon(&host, "a");
    seen.assert(&[("NoNewPrivs", "0"), ("agent's environment", "ok")]);
    assert_ne!(seen.get("CapBnd"), OF_A_CONTAINER);
    host.destroy("a", &[]);
    // A setting that the kernel does not have is named.
    host.start_with("b", &["--sysctl", "vm.no_such_thing=1"], &[]);
    let exit = host.exit("b").exit.to_string();
    assert!(exit.contains("sysctl vm.no_such_thing") && exit.contains("No such file"), "{exit}");
    host.destroy("b", &[]);
}

#[test]
fn a_daemon_that_listens_at_all_addresses_of_a_port_that_it_reaches_is_told_so() {
    let host = Host::of(Form::Qemu);
    host.start_with("a", &["--reach", "db:5432=127.0.0.1:5432"], &["--serve", "tcp:5432"]);
    // How a daemon ends that cannot listen is its own matter.
    let exit = host.exit("a");
    assert_ne!(exit.exit, Exit::code(0));
    let evidence = exit.evidence.join("\n");
    assert!(evidence.contains("for reach the guest listens at db:5432: no daemon can"), "{evidence}");
    host.destroy("a", &[]);
}

#[test]
fn a_plain_process_has_a_directory_and_limits_and_refuses_the_rest_in_words() {
    let host = Host::of(Form::Process);
    host.start_with("a", &["--workdir", "/tmp", "--ulimit", "nofile=64:128"], &["--world"]);
    host.until("a", is_ready);
    let seen = Seen::by_daemon(&host, "a");
    seen.assert(&[("cwd", "/tmp"), ("NoNewPrivs", "0")]);
    assert!(seen.has("limit=Max open files 64 128 files"), "{:#?}", seen.0);
    host.destroy("a", &[]);
    // A directory of the host is not made.
    host.start_with("b", &["--workdir", "/nowhere/at/all"], &[]);
    let exit = host.exit("b").exit.to_string();
    assert!(exit.contains("ticker: workdir /nowhere/at/all: No such file"), "{exit}");
    host.destroy("b", &[]);
    for option in [
        &["--user", "redis"][..],
        &["--hostname", "x"],
        &["--read-only"],
        &["--privileged"],
        &["--network", "user"],
        &["--sysctl", "vm.x=1"],
        &["--secret", "key=/dev/null"],
    ] {
        let call =
            [&["run", "--vmm", "process", "--name", "c", "--daemon"], option, &["--", "/bin/true"]].concat();
        let error = host.fails(&call, 64);
        assert!(error.contains("a plain process") && error.contains("only a VM"), "{option:?}: {error}");
    }
}

#[test]
fn a_line_of_an_environment_file_that_is_none_is_named_by_file_and_line() {
    let host = Host::of(Form::Process);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("daemon.env");
    std::fs::write(&path, "A=1\n\n# a comment\ns3cret\n").expect("written");
    let path = path.to_string_lossy();
    let error = host.fails(&["run", "--vmm", "process", "--env-file", &path, "--", "/bin/true"], 64);
    assert!(error.contains(&format!("{path}:4: K=V is wanted")) && !error.contains("s3cret"), "{error}");
}
