//! VMs whose files go away for a moment: a rebuild of an image, an upgrade of a program. What has run before is tried
//! again (semantics 3.5).

use crate::events::vm;
use crate::host::{Daemon, Host, PATIENCE, group, guest, program, stderr};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{File, Permissions, rename, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn kill_vmm(host: &Host) {
    let pid = i32::try_from(host.vmm_pid("a")).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a process that runs");
}

/// Kills the VM, which has this incarnation, and waits until its next launch has failed with one of these kinds of
/// ends.
fn fails_to_start(host: &Host, daemon: &mut Daemon, incarnation: u64, kind: &str) {
    kill_vmm(host);
    let event = daemon.until_event(vm("a", incarnation + 1, "backoff"));
    assert_eq!(event["ending"]["kind"], kind, "{event:#}");
    assert_eq!(event["decision"]["action"], "restart", "{event:#}");
}

/// Waits until the VM is ready again, and returns its incarnation.
fn is_back(host: &Host) -> u64 {
    let waited = host.ctl(&["wait", "--timeout", &PATIENCE.as_secs().to_string()]);
    assert!(waited.status.success(), "{}", stderr(&waited));
    host.status("a").incarnation
}

/// Returns a file with the beginning of `from`, open for writing.
fn half_written(path: &Path, from: &Path) -> File {
    use std::io::Write;
    let bytes = std::fs::read(from).expect("a file");
    let mut file = File::create(path).expect("a file");
    set_permissions(path, Permissions::from_mode(0o755)).expect("a mode");
    file.write_all(&bytes[..bytes.len() / 2]).expect("written");
    file
}

#[test]
fn a_program_that_is_away_forbidden_or_being_written_for_a_moment_is_tried_again() {
    let host =
        Host::new("", "[[group]]\nname = \"web\"\n[[group.vm]]\nname = \"a\"\ncommand = [\"./daemon\"]\n");
    let (daemon, aside) = (host.path("daemon"), host.path("aside"));
    std::fs::copy(program("ticker"), &daemon).expect("copied");
    let mut supervisor = host.ready();
    let incarnation = host.status("a").incarnation;

    rename(&daemon, &aside).expect("renamed");
    fails_to_start(&host, &mut supervisor, incarnation, "not-executable");
    rename(&aside, &daemon).expect("renamed");
    let incarnation = is_back(&host);

    set_permissions(&daemon, Permissions::from_mode(0o0)).expect("a mode");
    fails_to_start(&host, &mut supervisor, incarnation, "not-executable");
    set_permissions(&daemon, Permissions::from_mode(0o755)).expect("a mode");
    let incarnation = is_back(&host);

    // A program that runs cannot be opened for writing, so a new file takes its name.
    rename(&daemon, &aside).expect("renamed");
    let being_written = half_written(&daemon, &aside);
    fails_to_start(&host, &mut supervisor, incarnation, "not-executable");
    drop(being_written);
    rename(&aside, &daemon).expect("renamed");
    is_back(&host);

    supervisor.stop();
    host.assert_nothing_left();
}

/// Returns the children of a process that run.
fn children(parent: Pid) -> Vec<Pid> {
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).expect("it runs").flatten();
    let texts = tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    let pids = texts.flat_map(|text| {
        text.split_whitespace().filter_map(|pid| pid.parse().ok().map(Pid::from_raw)).collect::<Vec<_>>()
    });
    pids.collect()
}

/// Returns the launch server of a supervisor: its child that is called as one.
fn launch_server(supervisor: &Daemon) -> Option<Pid> {
    let is_server = |pid: &Pid| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split_terminator('\0').next_back() == Some("--serve")
    };
    children(Pid::from_raw(supervisor.pid().cast_signed())).into_iter().find(is_server)
}

#[test]
fn a_launch_server_that_is_killed_ends_no_vm_and_is_replaced() {
    let host = Host::new("", &group(&["a"]));
    let mut supervisor = host.ready();
    let server = launch_server(&supervisor).expect("a VM was launched");
    let (incarnation, pid) = (host.status("a").incarnation, host.vmm_pid("a"));
    kill(server, Signal::SIGKILL).expect("it runs");
    while launch_server(&supervisor) == Some(server) {
        std::thread::yield_now();
    }
    assert_eq!((host.status("a").incarnation, host.vmm_pid("a")), (incarnation, pid));

    kill_vmm(&host);
    supervisor.until_event(vm("a", incarnation + 1, "ready"));
    assert!(launch_server(&supervisor).is_some_and(|next| next != server));

    supervisor.stop();
    host.assert_nothing_left();
}

/// Tests semantics 1.7.
#[test]
fn a_launch_server_that_hangs_costs_one_launch() {
    let host = Host::new("", &format!("timeout = \"5s\"\n{}", group(&["a"])));
    let mut supervisor = host.ready();
    let incarnation = host.status("a").incarnation;
    let server = launch_server(&supervisor).expect("a VM was launched");
    // Its copy that waits for an order hangs. The VM's monitor is another one.
    let monitor = Pid::from_raw(host.status("a").monitor_pid.expect("it runs").cast_signed());
    let copies: Vec<Pid> = children(server).into_iter().filter(|copy| *copy != monitor).collect();
    for copy in &copies {
        kill(*copy, Signal::SIGSTOP).expect("it runs");
    }
    kill_vmm(&host);
    supervisor.until_event(vm("a", incarnation + 1, "backoff"));
    assert!(is_back(&host) > incarnation + 1);
    assert!(launch_server(&supervisor).is_some_and(|next| next != server));
    for copy in &copies {
        kill(*copy, Signal::SIGCONT).expect("it hangs");
    }
    supervisor.stop();
    host.assert_nothing_left();
}

#[test]
fn a_launcher_that_is_away_for_a_moment_is_called_again() {
    let host = Host::new("pepita = \"./launcher\"", &group(&["a"]));
    let (launcher, aside) = (host.path("launcher"), host.path("aside"));
    std::os::unix::fs::symlink(program("pepita"), &launcher).expect("a link");
    let mut supervisor = host.ready();
    let incarnation = host.status("a").incarnation;
    let vmm = i32::try_from(host.vmm_pid("a")).expect("a pid");
    rename(&launcher, &aside).expect("renamed");
    kill(Pid::from_raw(vmm), Signal::SIGKILL).expect("a process that runs");
    supervisor.until("cannot be launched yet");
    rename(&aside, &launcher).expect("renamed");
    assert_eq!(is_back(&host), incarnation + 1, "the launch waited for its launcher");
    supervisor.stop();
    host.assert_nothing_left();
}

#[test]
fn a_program_that_was_never_there_is_given_up() {
    let host =
        Host::new("", "[[group]]\nname = \"web\"\n[[group.vm]]\nname = \"a\"\ncommand = [\"./daemon\"]\n");
    let mut supervisor = host.start();
    let event = supervisor.until_event(vm("a", 1, "failed"));
    assert_eq!(event["decision"]["reason"], "hopeless", "{event:#}");
    supervisor.stop();
    host.assert_nothing_left();
}

#[test]
fn an_image_that_is_away_or_half_copied_and_a_vmm_that_is_away_for_a_moment_are_tried_again() {
    let host = Host::with_microvms(
        "[[group]]\nname = \"web\"\n[[group.vm]]\nname = \"a\"\nrootfs_path = \"root.cpio\"\n",
    );
    let (image, aside, vmm) = (host.path("root.cpio"), host.path("aside"), host.path("qemu"));
    std::fs::copy(guest("ticker.cpio"), &image).expect("copied");
    let installed = std::env::split_paths(&std::env::var_os("PATH").expect("a PATH"))
        .map(|dir| dir.join("qemu-system-x86_64"))
        .find(|path| path.exists())
        .expect("QEMU in PATH");
    std::os::unix::fs::symlink(installed, &vmm).expect("a link");
    let mut supervisor = Daemon::start(host.pepitad(&["--json"]).env("PEPITA_QEMU", &vmm));
    let incarnation = is_back(&host);

    rename(&image, &aside).expect("renamed");
    fails_to_start(&host, &mut supervisor, incarnation, "not-launched");
    drop(half_written(&image, &aside));
    supervisor.until_event(vm("a", incarnation + 2, "backoff"));
    rename(&aside, &image).expect("renamed");
    let incarnation = is_back(&host);

    rename(&vmm, &aside).expect("renamed");
    fails_to_start(&host, &mut supervisor, incarnation, "not-launched");
    rename(&aside, &vmm).expect("renamed");
    is_back(&host);

    supervisor.stop();
    host.assert_nothing_left();
}
