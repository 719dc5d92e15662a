//! Standard output and standard error that cannot be written, or that nobody reads: a line is lost, never a program.

use crate::events::{Pattern, vm};
use crate::host::{Daemon, Host, PATIENCE, group, program, stderr};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The capacity of a pipe: pipe(7).
const PIPE: usize = 64 << 10;

/// Returns an open file that takes nothing, like a full disk.
fn full() -> Stdio {
    File::options().write(true).open("/dev/full").expect("/dev/full").into()
}

/// Waits for the end of a child, which must come in time.
fn end(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("our child") {
            return status;
        }
        assert!(Instant::now() < deadline, "does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A `pepitad` whose output this test chooses. Dropping it kills it.
struct Mute(Child);

impl Mute {
    fn start(host: &Host, args: &[&str], out: Stdio, err: Stdio) -> Self {
        Self(host.pepitad(args).stdout(out).stderr(err).spawn().expect("pepitad runs"))
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).expect("a pid")), signal).expect("it runs");
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a reader of all events.
fn events(host: &Host) -> Daemon {
    let mut command = Command::new(program("pepitactl"));
    let mut events = Daemon::start(
        command.arg("--socket").arg(host.path("c/c.sock")).args(["events", "--follow", "--json"]),
    );
    // From here on no event is missed.
    events.until_event(vm("a", 1, "ready"));
    events
}

/// Has the supervisor restart a VM and refuse a reload, and then ends it.
fn supervises(host: &Host, mut daemon: Mute) {
    host.ctl_ok(&["wait", "--timeout", &PATIENCE.as_secs().to_string()]);
    let mut restarted = events(host);
    let pid = host.vmm_pid("a");
    let good = std::fs::read_to_string(host.path("c.toml")).expect("written before");
    std::fs::write(host.path("c.toml"), "oops = 1\n".repeat(2000)).expect("written");
    daemon.signal(Signal::SIGHUP);
    std::fs::write(host.path("c.toml"), good).expect("written");
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGKILL).expect("the VM runs");
    restarted.until_event(vm("a", 2, "ready"));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(end(&mut daemon.0).code(), Some(0));
    host.assert_nothing_left();
}

#[test]
fn a_full_disk_behind_both_outputs_ends_no_supervisor() {
    let host = Host::new("", &group(&["a"]));
    supervises(&host, Mute::start(&host, &["--log", "debug"], full(), full()));
}

#[test]
fn a_reader_that_is_gone_ends_no_supervisor() {
    let host = Host::new("", &group(&["a"]));
    let gone = || {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        Stdio::from(writer)
    };
    supervises(&host, Mute::start(&host, &["--log", "debug"], gone(), gone()));
}

#[test]
fn a_reader_that_stalls_holds_up_neither_the_supervision_nor_the_end() {
    let host = Host::new("", &group(&["a"]));
    let (mut reader, mut writer) = std::io::pipe().expect("a pipe");
    // The pipe is full from the beginning.
    writer.write_all(&[b'x'; PIPE]).expect("written");
    let second = writer.try_clone().expect("a second end");
    let daemon = Mute::start(&host, &["--log", "trace"], writer.into(), second.into());
    supervises(&host, daemon);
    let mut said = Vec::new();
    reader.read_to_end(&mut said).expect("the rest is read");
    assert_eq!(said.len(), PIPE, "nothing else had room");
}

#[test]
fn a_terminal_that_goes_away_ends_no_supervisor() {
    let host = Host::new("", &group(&["a"]));
    // script(1) gives the program a terminal, which goes away with script(1) itself.
    let command = format!("exec {} --config {}", program("pepitad").display(), host.path("c.toml").display());
    let mut script = Command::new("script")
        .args(["-qefc", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("script(1) runs");
    host.ctl_ok(&["wait", "--timeout", &PATIENCE.as_secs().to_string()]);
    let status: serde_json::Value = serde_json::from_str(&host.ctl_ok(&["status", "--json"])).expect("JSON");
    let supervisor = Pid::from_raw(i32::try_from(status["pid"].as_u64().expect("a pid")).expect("a pid"));
    let mut restarted = events(&host);
    script.kill().expect("script runs");
    script.wait().expect("our child");
    kill(Pid::from_raw(i32::try_from(host.vmm_pid("a")).expect("a pid")), Signal::SIGKILL).expect("it runs");
    restarted.until_event(vm("a", 2, "ready"));
    kill(supervisor, Signal::SIGTERM).expect("it runs");
    restarted.until_event(Pattern::TreeEnded);
    restarted.end();
    host.assert_nothing_left();
}

#[test]
fn no_program_panics_when_its_output_takes_nothing() {
    let host = Host::new("", &group(&["a"]));
    let mut daemon = host.ready();
    let (config, socket, run_dir) = (host.path("c.toml"), host.path("c/c.sock"), host.path("r"));
    let [config, socket, run_dir] =
        [&config, &socket, &run_dir].map(|path| path.to_str().expect("plain").to_owned());
    let calls: &[(&str, &[&str])] = &[
        ("pepitad", &["--help"]),
        ("pepitad", &["--schema"]),
        ("pepitad", &["--no-such-option"]),
        ("pepitad", &["--config", &config, "--check"]),
        ("pepitad", &["--config", "/nowhere", "--check"]),
        ("pepitad", &["--config", &config]),
        ("pepitactl", &["--help"]),
        ("pepitactl", &["--socket", &socket, "status"]),
        ("pepitactl", &["--socket", &socket, "tree"]),
        ("pepitactl", &["--socket", &socket, "events"]),
        ("pepitactl", &["--socket", &socket, "logs", "a"]),
        ("pepitactl", &["--socket", "/nowhere", "status"]),
        ("pepitactl", &["completions", "bash"]),
        ("pepitactl", &["man"]),
        ("pepita", &["--help"]),
        ("pepita", &["--version", "--json"]),
        ("pepita", &["--no-such-option"]),
        ("pepita", &["--run-dir", &run_dir, "list"]),
        ("pepita", &["--run-dir", &run_dir, "status", "--name", "duende-vm-a"]),
        ("pepita", &["--run-dir", &run_dir, "status", "--name", "nobody"]),
        ("pepita", &["--run-dir", &run_dir, "logs", "--name", "duende-vm-a"]),
        ("daemonctl", &["--help"]),
        ("daemonctl", &["--version"]),
        ("daemonctl", &["--no-such-option"]),
        ("ticker", &["--no-such-option"]),
        ("one_for_one", &["/nowhere"]),
        ("embedded", &["/nowhere"]),
    ];
    let gone = || {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        Stdio::from(writer)
    };
    for (name, args) in calls {
        for output in [full as fn() -> Stdio, gone] {
            let mut child = Command::new(program(name))
                .args(*args)
                .stdin(Stdio::null())
                .stdout(output())
                .stderr(output())
                .spawn()
                .expect("the program runs");
            let status = end(&mut child);
            // 101 is the exit code of a panic; the agent aborts.
            assert_ne!(status.code(), Some(101), "{name} {args:?}");
            assert_ne!(status.signal(), Some(libc_sigabrt()), "{name} {args:?}");
        }
    }
    let status = host.ctl(&["status"]);
    assert!(status.status.success(), "{}", stderr(&status));
    daemon.stop();
    host.assert_nothing_left();
}

fn libc_sigabrt() -> i32 {
    Signal::SIGABRT as i32
}
