//! Tests that a secret in the daemon's environment is in no command line and in no file that other users may read. The
//! same holds for the token.

mod host;

use host::{Host, program};
use pepita_wire::record::DaemonState;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

const SECRET: &str = "hunter2-do-not-tell";

/// Returns every command line on this machine, with the pid of its process.
fn command_lines() -> Vec<(String, String)> {
    let pids = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().into_string().ok());
    let pids = pids.filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
    pids.map(|pid| {
        (pid.clone(), host::text(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()))
    })
    .collect()
}

fn is_in_no_command_line(what: &str) {
    let found: Vec<_> = command_lines().into_iter().filter(|(_, line)| line.contains(what)).collect();
    assert!(found.is_empty(), "{found:?}");
}

/// Asserts that only the owner may read the directory and each file that has the secret. Returns the number of such
/// files.
fn hidden_in(dir: &Path) -> usize {
    let mode = |path: &Path| path.metadata().expect("metadata").permissions().mode() & 0o777;
    assert_eq!(mode(dir), 0o700);
    let mut files = 0;
    for entry in std::fs::read_dir(dir).expect("readable").flatten() {
        // The pipes of the console are skipped: a read would take their contents away.
        if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let bytes = std::fs::read(entry.path()).unwrap_or_default();
        if host::text(&bytes).contains(SECRET) {
            assert_eq!(mode(&entry.path()), 0o600, "{}", entry.path().display());
            files += 1;
        }
    }
    files
}

/// Runs a VM with a secret in an environment file on standard input.
fn run(host: &Host, args: &[&str]) {
    run_with(host, args, &format!("# a comment\nSECRET={SECRET}\n"));
}

/// Runs a VM with a text on standard input.
fn run_with(host: &Host, args: &[&str], text: &str) {
    let mut call =
        host.command(args).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("pepita runs");
    let mut stdin = call.stdin.take().expect("piped");
    stdin.write_all(text.as_bytes()).expect("written");
    drop(stdin);
    is_in_no_command_line(SECRET);
    assert!(call.wait().expect("an end").success());
}

fn check(host: &Host) {
    host.until("a", |status| status.daemon.state == DaemonState::Ready);
    is_in_no_command_line(SECRET);
    let session = std::fs::read_to_string(host.vm("a").join("token")).expect("a token");
    assert_eq!(session.trim().len(), 32);
    is_in_no_command_line(session.trim());
    for record in [&["status", "--name", "a"][..], &["list", "--json"]] {
        let text = host.ok(record);
        assert!(!text.contains(SECRET) && !text.contains(session.trim()), "{text}");
    }
    // Two files have the secret: the configuration, which a new monitor reads, and the log of a daemon that prints it.
    assert_eq!(hidden_in(&host.vm("a")), 2);
    for file in ["token", "spec.json", "state.json"] {
        let mode = host.vm("a").join(file).metadata().expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    // The daemon has received the secret.
    let shown = host.ok(&["logs", "--name", "a"]);
    assert!(shown.contains(&format!("SECRET={SECRET}")), "{shown}");
}

#[test]
fn a_plain_process_keeps_its_secrets() {
    let host = Host::new();
    run(
        &host,
        &[
            "run",
            "--vmm",
            "process",
            "--name",
            "a",
            "--daemon",
            "--json",
            "--env-file",
            "-",
            "--",
            &program("ticker"),
            "--show",
            "SECRET",
        ],
    );
    check(&host);
}

#[test]
fn a_secret_in_a_specification_is_kept_as_a_supervisor_sends_it() {
    let host = Host::new();
    let spec = serde_json::json!({
        "name": "a", "vmm": "process", "command": [program("ticker"), "--show", "SECRET"],
        "env": {"SECRET": SECRET},
    });
    run_with(&host, &["run", "--daemon", "--json", "--spec", "-"], &spec.to_string());
    check(&host);
}

#[test]
fn a_microvm_keeps_its_secrets() {
    let host = Host::new();
    let (kernel, rootfs) = host::images();
    let (kernel, rootfs) = (kernel.to_string_lossy(), rootfs.to_string_lossy());
    run(
        &host,
        &[
            "run",
            "--kernel",
            &kernel,
            "--rootfs",
            &rootfs,
            "--memory",
            "128",
            "--name",
            "a",
            "--daemon",
            "--env-file",
            "-",
            "--",
            "/usr/bin/ticker",
            "--show",
            "SECRET",
        ],
    );
    check(&host);
    // The command line of a monitor that adopts the VM contains no secret either.
    let monitor = host.json(&["status", "--name", "a"])["monitor_pid"].as_i64().expect("a pid");
    let pid = rustix::process::Pid::from_raw(i32::try_from(monitor).expect("small")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    host.ok(&["adopt", "--name", "a"]);
    is_in_no_command_line(SECRET);
}

#[test]
fn an_option_s_secret_does_not_outlive_the_call() {
    let host = Host::new();
    let pair = format!("SECRET={SECRET}-option");
    host.ok(&[
        "run",
        "--vmm",
        "process",
        "--name",
        "a",
        "--daemon",
        "--json",
        "--env",
        &pair,
        "--",
        &program("ticker"),
    ]);
    is_in_no_command_line(&pair);
    assert_eq!(hidden_in(&host.vm("a")), 1);
}

/// Makes an image with the agent of a launcher of before, which knows only the kernel's command line: it does not carry
/// the mark that launchers look for.
fn older_image(host: &Host, name: &str, options: &[&str]) -> String {
    let mut agent = std::fs::read(host::guest_file("daemonctl")).expect("the agent");
    let mark = pepita_wire::protocol::TOKEN_PORT_MARK.as_bytes();
    let at = agent.windows(mark.len()).position(|bytes| bytes == mark).expect("the agent carries the mark");
    agent[at..at + mark.len()].fill(b'-');
    let older = host.path().join("older-agent");
    std::fs::write(&older, agent).expect("written");
    let image = host.path().join(name).to_string_lossy().into_owned();
    let (older, ticker) = (older.to_string_lossy().into_owned(), host::guest_file("ticker"));
    let build =
        ["image", "build", "--agent", &older, "--daemon", &ticker.to_string_lossy(), "--output", &image];
    host.ok(&[&build[..], options].concat());
    image
}

/// Boots a guest whose daemon prints the guest's command line. Returns that line; asserts that the boot token is in no
/// command line of the host.
fn guest_cmdline(host: &Host, rootfs: &str, options: &[&str]) -> String {
    let kernel = host::guest_file("vmlinuz").to_string_lossy().into_owned();
    let run = ["run", "--kernel", &kernel, "--rootfs", rootfs, "--memory", "128", "--name", "a", "--daemon"];
    let daemon = ["--", "/usr/bin/ticker", "--cat", "/proc/cmdline"];
    host.ok(&[&run[..], options, &daemon].concat());
    let token = std::fs::read_to_string(host.vm("a").join("boot.token")).expect("the boot token");
    is_in_no_command_line(&token);
    host.until("a", |status| status.daemon.state == DaemonState::Ready);
    let log = host.ok(&["logs", "--name", "a"]);
    let line = log.lines().find(|line| line.contains("pepita.port=")).expect("the command line").to_owned();
    // The host shows it in its log, where only the owner reads it.
    assert_eq!(line.contains(&token), line.contains("pepita.token="), "{line}");
    host.ok(&["destroy", "--force", "--name", "a"]);
    line
}

#[test]
fn the_boot_token_is_neither_in_an_argument_of_the_host_nor_on_the_guest_s_command_line() {
    let host = Host::new();
    let modules = host::guest_file("modules").to_string_lossy().into_owned();
    for (image, options) in [("ticker.cpio", &[][..]), ("ticker.ext4", &["--kernel-package", &modules])] {
        let line = guest_cmdline(&host, &host::guest_file(image).to_string_lossy(), options);
        assert!(line.contains("pepita.token_port=32") && !line.contains("pepita.token="), "{image}: {line}");
    }
}

#[test]
fn an_older_agent_still_gets_its_boot_token_and_no_argument_of_the_host_has_it() {
    let host = Host::new();
    let modules = host::guest_file("modules").to_string_lossy().into_owned();
    let package = ["--kernel-package", &modules];
    // In an initramfs the launcher sees that the agent is older; on a disk the agent of the initrd sees it.
    let initramfs = older_image(&host, "older.cpio", &package);
    assert!(guest_cmdline(&host, &initramfs, &[]).contains("pepita.token="));
    let disk = older_image(&host, "older.ext4", &[]);
    assert!(guest_cmdline(&host, &disk, &package).contains("pepita.token="));
}
