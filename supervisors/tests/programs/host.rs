//! A host for one test: a folder with a configuration, the programs in it, and a check at the end that nothing is left.

use crate::events::{self, Pattern};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use pepita_wire::StatusRecord;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long to wait for anything that a machine without load does in a few seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) fn program(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_pepitad")).parent().expect("target/<profile>");
    let program = target.join(name);
    assert!(program.exists(), "{}: run `cargo build --workspace --bins` first", program.display());
    program
}

/// Returns the path of a file for guests, which `make setup` has made. `PEPITA_TEST_KERNEL` names another kernel.
pub(crate) fn guest(file: &str) -> PathBuf {
    let kernel = (file == "vmlinuz").then(|| std::env::var_os("PEPITA_TEST_KERNEL")).flatten();
    let ours = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.guest").join(file);
    let path = kernel.map_or_else(ours, PathBuf::from);
    path.canonicalize().unwrap_or_else(|e| panic!("{}: {e}: run `make setup` first", path.display()))
}

pub(crate) struct Host {
    dir: tempfile::TempDir,
}

/// Returns the `[[group.vm]]` of a ticker with these arguments.
pub(crate) fn ticker(name: &str, args: &[&str]) -> String {
    let mut command = vec![program("ticker").to_string_lossy().into_owned()];
    command.extend(args.iter().map(|arg| (*arg).to_owned()));
    format!("[[group.vm]]\nname = \"{name}\"\ncommand = {command:?}\n")
}

/// Returns a group of these VMs, which tick.
pub(crate) fn group(vms: &[&str]) -> String {
    let vms: String = vms.iter().map(|vm| ticker(vm, &[])).collect();
    format!("[[group]]\nname = \"web\"\n{vms}")
}

impl Host {
    /// Makes a host whose VMs are plain processes. `supervisor` has more keys for `[supervisor]`.
    pub(crate) fn new(supervisor: &str, groups: &str) -> Self {
        // A short path, because that of a Unix socket ends at 107 bytes.
        let dir = tempfile::Builder::new().prefix("pp").tempdir_in("/tmp").expect("a folder");
        let host = Self { dir };
        host.configure(supervisor, groups);
        host
    }

    /// Makes a host whose VMs are microVMs.
    pub(crate) fn with_microvms(groups: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("pp").tempdir_in("/tmp").expect("a folder");
        let host = Self { dir };
        host.configure_microvms(groups);
        host
    }

    pub(crate) fn configure(&self, supervisor: &str, groups: &str) {
        self.configure_machine("vmm = \"process\"\n", supervisor, groups);
    }

    pub(crate) fn configure_microvms(&self, groups: &str) {
        let machine = format!(
            "vcpus = 1\nmemory_mb = 128\nkernel_path = {:?}\nrootfs_path = {:?}\n",
            guest("vmlinuz"),
            guest("ticker.cpio")
        );
        self.configure_machine(&machine, "", groups);
    }

    fn configure_machine(&self, machine: &str, supervisor: &str, groups: &str) {
        let text = format!(
            "[platform.pepita]\n{machine}\
             [supervisor]\nname = \"test\"\nrun_dir = \"r\"\nstate_dir = \"s\"\ncontrol_socket = \"c/c.sock\"\n{supervisor}\n\
             [defaults.restart.backoff]\ninitial_delay = \"100ms\"\nmax_delay = \"500ms\"\njitter = 0.0\n\
             [defaults.start]\nready = \"notify\"\n{groups}"
        );
        std::fs::write(self.path("c.toml"), text).expect("written");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns a call of `pepitad` that was not started yet.
    pub(crate) fn pepitad(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program("pepitad"));
        command.arg("--config").arg(self.path("c.toml")).args(args);
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("RUST_LOG");
        command
    }

    /// Starts `pepitad --json`.
    pub(crate) fn start(&self) -> Daemon {
        Daemon::start(&mut self.pepitad(&["--json"]))
    }

    /// Starts `pepitad --json` and waits until all VMs are ready.
    pub(crate) fn ready(&self) -> Daemon {
        let daemon = self.start();
        let waited = self.ctl(&["wait", "--timeout", &PATIENCE.as_secs().to_string()]);
        assert!(waited.status.success(), "{}", stderr(&waited));
        daemon
    }

    pub(crate) fn ctl(&self, args: &[&str]) -> Output {
        let mut command = Command::new(program("pepitactl"));
        command.arg("--socket").arg(self.path("c/c.sock")).args(args).output().expect("pepitactl runs")
    }

    /// Returns what `pepitactl` prints; it must succeed.
    pub(crate) fn ctl_ok(&self, args: &[&str]) -> String {
        let output = self.ctl(args);
        assert!(output.status.success(), "{args:?}: {:?}: {}", output.status, stderr(&output));
        stdout(&output)
    }

    pub(crate) fn pepita(&self, args: &[&str]) -> Output {
        let mut command = Command::new(program("pepita"));
        command.arg("--run-dir").arg(self.path("r")).args(args).output().expect("pepita runs")
    }

    pub(crate) fn status(&self, vm: &str) -> StatusRecord {
        let output = self.pepita(&["status", "--name", &format!("duende-vm-{vm}"), "--json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{vm}: {e}: {}", stderr(&output)))
    }

    pub(crate) fn vmm_pid(&self, vm: &str) -> u32 {
        self.status(vm).vmm_pid.expect("a running process")
    }

    /// Returns the processes of this host's VMs, as their lines of `/proc/<pid>/stat`. Their current directory lies in the
    /// run directory.
    pub(crate) fn processes(&self) -> Vec<String> {
        let run = self.path("r");
        let pids = std::fs::read_dir("/proc").expect("/proc").flatten();
        let here = pids
            .filter(|pid| std::fs::read_link(pid.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&run)));
        here.filter_map(|pid| std::fs::read_to_string(pid.path().join("stat")).ok()).collect()
    }

    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(stdout(&self.pepita(&["list", "--format", "name"])), "", "VMs are left");
        self.assert_no_process_left();
        assert!(!self.path("c/c.sock").exists(), "the control socket is left");
    }

    pub(crate) fn assert_no_process_left(&self) {
        // A process releases its locks a moment before it is gone from /proc, and no event says when.
        let deadline = Instant::now() + Duration::from_secs(1);
        while !self.processes().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(self.processes(), [] as [&str; 0], "processes are left");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Also after a failure no VM of the test keeps running.
        for name in stdout(&self.pepita(&["list", "--format", "name"])).lines() {
            self.pepita(&["destroy", "--name", name, "--force"]);
        }
    }
}

/// Makes a FIFO.
pub(crate) fn make_fifo(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
    assert!(made.success(), "{}", path.display());
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A running program and its output. Dropping it kills the program.
pub(crate) struct Daemon {
    child: Child,
    lines: Receiver<String>,
    /// The lines that were read so far, of both output streams.
    pub(crate) seen: Vec<String>,
}

impl Daemon {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
        let (sender, lines) = channel();
        let output = [
            Box::new(child.stdout.take().expect("piped")) as Box<dyn Read + Send>,
            Box::new(child.stderr.take().expect("piped")),
        ];
        for stream in output {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    drop(sender.send(line));
                }
            });
        }
        Self { child, lines, seen: Vec::new() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that contains this.
    pub(crate) fn until(&mut self, text: &str) -> String {
        self.until_line(&format!("{text:?}"), |line| line.contains(text))
    }

    /// Waits for an event or a note, and returns it.
    pub(crate) fn until_event(&mut self, pattern: Pattern<'_>) -> Value {
        let is_wanted = |line: &str| events::parse(line).is_some_and(|event| pattern.matches(&event));
        let line = self.until_line(&format!("{pattern:?}"), is_wanted);
        events::parse(&line).expect("a parsed event")
    }

    fn until_line(&mut self, what: &str, is_wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if is_wanted(&line) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no {what}; seen:\n{}", self.story()),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("ended before {what}; seen:\n{}", self.story())
                }
            }
        }
    }

    /// Returns the events and notes that were read so far.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.seen.iter().filter_map(|line| events::parse(line)).collect()
    }

    /// Returns the events and notes since the last call, and forgets their lines.
    pub(crate) fn take_events(&mut self) -> Vec<Value> {
        self.seen.extend(self.lines.try_iter());
        let events = self.events();
        self.seen.clear();
        events
    }

    pub(crate) fn story(&self) -> String {
        self.seen.join("\n")
    }

    /// Suspends the supervisor, and returns when it stands still: a thread on another CPU may go on for a moment after the
    /// signal was sent.
    pub(crate) fn suspend(&self) {
        self.signal(Signal::SIGSTOP);
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid"));
        let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("a child");
        assert_eq!(stopped, WaitStatus::Stopped(pid, Signal::SIGSTOP));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid"));
        kill(pid, signal).expect("a process that runs");
    }

    /// Reads the output to its end, and returns how the program ended.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Timeout) => panic!("does not end; seen:\n{}", self.story()),
                Err(RecvTimeoutError::Disconnected) => return self.child.wait().expect("our child"),
            }
        }
    }

    /// Sends SIGTERM; the program must end with 0.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.end();
        assert!(status.success(), "{status}:\n{}", self.story());
    }

    /// Sends SIGKILL to the process.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.end();
    }

    /// Asserts that events and notes were read in this order, with others between them.
    pub(crate) fn assert_order(&self, patterns: &[Pattern<'_>]) {
        let events = self.events();
        let mut rest = events.iter();
        for pattern in patterns {
            assert!(
                rest.any(|event| pattern.matches(event)),
                "{pattern:?} is missing or too early:\n{}",
                self.story()
            );
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The program may have ended. `Host` removes its VMs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
