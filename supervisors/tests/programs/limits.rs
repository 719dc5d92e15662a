//! What the system does not give or take: descriptors, disks, locks, answers. None of it ends a VM, and none of it keeps a
//! supervisor from its end.

use crate::events::{Pattern, vm};
use crate::host::{Daemon, Host, PATIENCE, group, program, stderr, ticker};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Returns a call of `pepitad` with these limits of open files.
fn with_files(host: &Host, limits: &str) -> Command {
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={limits}")).arg(program("pepitad"));
    command.arg("--config").arg(host.path("c.toml")).arg("--json");
    command
}

fn names(vms: usize) -> Vec<String> {
    (0..vms).map(|n| format!("v{n}")).collect()
}

fn wait(host: &Host) {
    host.ctl_ok(&["wait", "--timeout", &PATIENCE.as_secs().to_string()]);
}

fn status(host: &Host) -> Value {
    serde_json::from_str(&host.ctl_ok(&["status", "--json"])).expect("JSON")
}

#[test]
fn the_limit_of_open_files_is_raised_as_far_as_it_may_be() {
    let host = Host::new("", &group(&["a"]));
    let mut daemon = Daemon::start(&mut with_files(&host, "90:3000"));
    wait(&host);
    assert_eq!(open_files(daemon.pid()), ["3000", "3000"]);
    let of_vm = host.status("a").daemon.pid.expect("it runs");
    assert_eq!(open_files(of_vm), ["1024", "3000"], "the daemon of a VM has limits of its own");
    daemon.stop();
    host.assert_nothing_left();
}

/// Returns the soft and the hard limit of open files of a process.
fn open_files(pid: u32) -> Vec<String> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    line.split_whitespace().skip(3).take(2).map(str::to_owned).collect()
}

#[test]
fn without_descriptors_no_vm_is_ended_and_the_stop_comes_to_its_end() {
    let names = names(12);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let host = Host::new("on_exit = \"leave\"", &group(&names));
    let mut first = host.ready();
    first.stop();
    let pids: Vec<u32> = names.iter().map(|name| host.vmm_pid(name)).collect();
    host.configure("shutdown_timeout = \"20s\"", &group(&names));
    // Enough to start, too few to watch twelve VMs.
    let mut second = Daemon::start(&mut with_files(&host, "36:36"));
    second.until("the limit of open files is 36");
    // Some are watched. The others cannot be, and are told as unknown, not as ended (semantics 13.7).
    second.until("unknown");
    let answered = host.ctl(&["status"]);
    assert!(answered.status.success(), "{}:\n{}", stderr(&answered), second.story());
    let still: Vec<u32> = names.iter().map(|name| host.vmm_pid(name)).collect();
    assert_eq!(still, pids);
    host.ctl_ok(&["status"]);
    second.signal(Signal::SIGTERM);
    let end = second.end();
    assert!(end.success(), "{end}:\n{}", second.story());
    host.assert_nothing_left();
}

/// Makes a launcher whose calls to destroy a VM go on when this many of them are under way at the same time.
fn launcher_that_waits_for(calls: usize, host: &Host) -> PathBuf {
    let (path, under_way, enough) = (host.path("pepita"), host.path("calls"), host.path("enough"));
    std::fs::create_dir(&under_way).expect("made");
    let text = format!(
        "#!/bin/sh\nif [ \"$1\" = destroy ]; then\n: > {under_way:?}/$$\nuntil [ -e {enough:?} ]; do\n\
         [ $(ls {under_way:?} | wc -l) -ge {calls} ] && : > {enough:?}\nsleep 0.1\ndone\nfi\nexec {:?} \"$@\"\n",
        program("pepita")
    );
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("executable");
    path
}

#[test]
fn without_descriptors_vms_are_removed_at_the_same_time_as_soon_as_connections_are_given_back() {
    let names = names(40);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let host = Host::new("on_exit = \"leave\"", &group(&names));
    host.ready().stop();
    let launcher = launcher_that_waits_for(6, &host);
    host.configure(&format!("shutdown_timeout = \"1s\"\npepita = {launcher:?}"), &group(&names));
    // Too few for a connection to each monitor, which takes 40 of them, beside what a supervisor keeps open and in reserve.
    let mut second = Daemon::start(&mut with_files(&host, "60:60"));
    second.until("unknown");
    second.signal(Signal::SIGTERM);
    let end = second.end();
    assert!(end.success(), "{end}:\n{}", second.story());
    host.assert_nothing_left();
}

#[test]
fn a_state_that_cannot_be_saved_is_told_and_saved_later() {
    let host = Host::new("", &group(&["a", "b"]));
    let mut daemon = host.ready();
    let (there, away) = (host.path("s/vms"), host.path("s/away"));
    std::fs::rename(&there, &away).expect("moved");
    let stopped = host.ctl(&["stop", "a"]);
    assert_eq!(stopped.status.code(), Some(74), "{}", stderr(&stopped));
    assert!(stderr(&stopped).contains("a.json"), "{}", stderr(&stopped));
    daemon.until("nothing can be saved");
    assert!(status(&host)["unsaved"].as_str().is_some_and(|why| why.contains("a.json")));
    assert!(host.ctl_ok(&["status"]).contains("nothing can be saved"), "people are told, too");
    // The supervision goes on.
    let pid = host.vmm_pid("b");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("it runs");
    daemon.until_event(vm("b", 2, "ready"));
    std::fs::rename(&away, &there).expect("back");
    daemon.until("all is saved again");
    assert!(status(&host)["unsaved"].is_null());
    daemon.kill();
    let mut next = host.start();
    next.until_event(vm("b", 2, "ready"));
    assert_eq!(status(&host)["groups"][0]["vms"][0]["phase"], "stopped", "what the operator said was saved");
    next.stop();
    host.assert_nothing_left();
}

#[test]
fn a_lock_of_another_program_is_told_and_one_on_the_folder_does_not_matter() {
    let host = Host::new("", &group(&["a"]));
    std::fs::create_dir(host.path("c")).expect("made");
    let folder = File::open(host.path("c")).expect("opened");
    folder.lock().expect("locked");
    host.ready().stop();
    let private = |path: &str, wanted: u32| {
        let mode = host.path(path).metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, wanted, "{path}: {mode:o}");
    };
    private("s", 0o700);
    private("s/vms", 0o700);
    private("s/lock", 0o600);
    for path in ["s/lock", "c/c.sock.lock"] {
        let lock = File::options().create(true).truncate(false).write(true).open(host.path(path));
        let lock = lock.expect("opened");
        lock.lock().expect("locked");
        let output = host.pepitad(&[]).output().expect("it runs");
        assert_eq!(output.status.code(), Some(73), "{}", stderr(&output));
        let holder = format!("pid {}", std::process::id());
        assert!(stderr(&output).contains(&holder), "{}", stderr(&output));
    }
    // A signal ends the supervisor that waits for the lock.
    let lock = File::options().write(true).open(host.path("c/c.sock.lock")).expect("there");
    lock.lock().expect("locked");
    let mut waiting = host.start();
    while !has_open(waiting.pid(), &host.path("c/c.sock.lock")) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    waiting.signal(Signal::SIGTERM);
    assert_eq!(waiting.end().code(), Some(0), "{}", waiting.story());
}

/// Returns whether a process has a file open.
fn has_open(pid: u32, path: &Path) -> bool {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files.map(|file| std::fs::read_link(file.path())).any(|target| target.is_ok_and(|target| target == path))
}

/// A lease on a file: while it is held, the kernel lets whoever opens the file wait (F_SETLEASE of fcntl(2)), for 45 s by
/// default.
struct Lease(Child);

impl Lease {
    fn take(path: &Path) -> Self {
        const HOLD: &str = "$SIG{IO} = 'IGNORE'; $| = 1; open(F, '<', shift) or die $!; \
                            fcntl(F, 1024, 1) or die $!; print \"held\\n\"; sleep 1000";
        let mut perl = Command::new("perl");
        let mut holder = perl.args(["-e", HOLD]).arg(path).stdout(Stdio::piped()).spawn().expect("perl runs");
        let mut line = String::new();
        let said = BufReader::new(holder.stdout.take().expect("piped")).read_line(&mut line);
        assert_eq!((said.expect("text"), &line[..]), (5, "held\n"));
        Self(holder)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_reload_that_hangs_holds_up_no_stop() {
    let host = Host::new("", &group(&["a"]));
    let mut daemon = host.ready();
    // A kernel that is not answered for, as on a network file system that is away. The root is one by its first bytes.
    std::fs::write(host.path("kernel"), "slow").expect("written");
    let _lease = Lease::take(&host.path("kernel"));
    std::fs::write(host.path("root"), b"\x1f\x8b\x08").expect("written");
    let images = "vmm = \"qemu\"\nkernel_path = \"kernel\"\nrootfs_path = \"root\"\n";
    host.configure("", &format!("{}{}{images}", group(&["a"]), ticker("b", &[])));
    // One by a signal, one by a client: both wait for the kernel's first bytes.
    daemon.signal(Signal::SIGHUP);
    let mut client = Command::new(program("pepitactl"));
    let mut client =
        client.arg("--socket").arg(host.path("c/c.sock")).arg("reload").spawn().expect("it runs");
    daemon.until_event(Pattern::Note("requested"));
    daemon.stop();
    assert!(!client.wait().expect("our child").success());
    host.assert_nothing_left();
}

#[test]
fn what_was_given_to_the_supervisor_does_not_reach_the_vms() {
    let host = Host::new("", &format!("[[group]]\nname = \"web\"\n{}", ticker("a", &[])));
    let secret = File::create(host.path("secret")).expect("made");
    // A descriptor without close-on-exec, as a shell leaves it.
    let command = format!(
        "exec {} --config {} --json 9<{}",
        program("pepitad").display(),
        host.path("c.toml").display(),
        host.path("secret").display()
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &command]).env("SECRET", "x").env("LISTEN_FDS", "1").env("RUST_LOG", "warn");
    let mut daemon = Daemon::start(shell.env("NOTIFY_SOCKET", host.path("n")));
    daemon.until_event(vm("a", 1, "ready"));
    assert!(has_open(daemon.pid(), &host.path("secret")), "{}", secret.as_raw_fd());
    let record = host.status("a");
    for pid in [record.monitor_pid.expect("watched"), record.vmm_pid.expect("it runs")] {
        let environment = std::fs::read_to_string(format!("/proc/{pid}/environ")).expect("ours");
        for name in ["SECRET", "LISTEN_FDS", "RUST_LOG", "NOTIFY_SOCKET"] {
            assert!(!environment.split('\0').any(|v| v.starts_with(&format!("{name}="))), "{name}: {pid}");
        }
        assert!(!has_open(pid, &host.path("secret")), "{pid} has a file that it was not meant to have");
    }
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn plain_processes_are_told_loudly() {
    let host = Host::new("", &group(&["a"]));
    let mut daemon = host.ready();
    daemon.until("a is a plain process");
    assert_eq!(status(&host)["groups"][0]["vms"][0]["vmm"], "process");
    assert!(host.ctl_ok(&["status"]).contains("1 VM is a plain process"));
    host.configure("", &group(&["a", "b"]));
    daemon.signal(Signal::SIGHUP);
    daemon.until("b is a plain process");
    daemon.until_event(vm("b", 1, "ready"));
    daemon.stop();
    host.assert_nothing_left();
}
