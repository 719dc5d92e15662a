//! A host for one test: a folder with a configuration, `pepitad` in it, and a look at the end that nothing is left.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pepita_wire::StatusRecord;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// For anything that a healthy machine does in a few seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) fn program(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_pepitad")).parent().expect("target/<profile>");
    let program = target.join(name);
    assert!(program.exists(), "{}: run `cargo build --workspace --bins` first", program.display());
    program
}

/// A guest's part of the set-up.
pub(crate) fn guest(file: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.guest").join(file);
    path.canonicalize().unwrap_or_else(|e| panic!("{}: {e}: run `make setup` first", path.display()))
}

pub(crate) struct Host {
    dir: tempfile::TempDir,
}

/// The `[[group.vm]]` of a ticker with these arguments.
pub(crate) fn ticker(name: &str, args: &[&str]) -> String {
    let mut command = vec![program("ticker").to_string_lossy().into_owned()];
    command.extend(args.iter().map(|arg| (*arg).to_owned()));
    format!("[[group.vm]]\nname = \"{name}\"\ncommand = {command:?}\n")
}

/// A group of these VMs, which tick.
pub(crate) fn group(vms: &[&str]) -> String {
    let vms: String = vms.iter().map(|vm| ticker(vm, &[])).collect();
    format!("[[group]]\nname = \"web\"\n{vms}")
}

impl Host {
    /// With a configuration: `supervisor` are more keys of `[supervisor]`.
    pub(crate) fn new(supervisor: &str, groups: &str) -> Self {
        // Short: a Unix socket's path ends at 107 bytes.
        let dir = tempfile::Builder::new().prefix("pp").tempdir_in("/tmp").expect("a folder");
        let host = Self { dir };
        host.configure(supervisor, groups);
        host
    }

    /// The same with real microVMs.
    pub(crate) fn with_microvms(groups: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("pp").tempdir_in("/tmp").expect("a folder");
        let host = Self { dir };
        let machine = format!(
            "vcpus = 1\nmemory_mb = 128\nkernel_path = {:?}\nrootfs_path = {:?}\n",
            guest("vmlinuz"),
            guest("ticker.cpio")
        );
        host.configure_machine(&machine, "", groups);
        host
    }

    pub(crate) fn configure(&self, supervisor: &str, groups: &str) {
        self.configure_machine("vmm = \"process\"\n", supervisor, groups);
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

    /// `pepitad`, not started yet.
    pub(crate) fn pepitad(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program("pepitad"));
        command.arg("--config").arg(self.path("c.toml")).args(args);
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("RUST_LOG");
        command
    }

    pub(crate) fn start(&self) -> Daemon {
        Daemon::start(&mut self.pepitad(&[]))
    }

    /// Started, and every VM ready.
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

    /// What `pepitactl` prints when all is well.
    pub(crate) fn told(&self, args: &[&str]) -> String {
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
        self.status(vm).vmm_pid.expect("it runs")
    }

    /// Processes of VMs of this host: their current directory is in its run directory.
    pub(crate) fn processes(&self) -> Vec<String> {
        let run = self.path("r");
        let pids = std::fs::read_dir("/proc").expect("/proc").flatten();
        let here = pids
            .filter(|pid| std::fs::read_link(pid.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&run)));
        here.filter_map(|pid| std::fs::read_to_string(pid.path().join("stat")).ok()).collect()
    }

    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(stdout(&self.pepita(&["list", "--format", "name"])), "", "VMs are left");
        // A process gives its locks back a moment before it is gone from /proc, and nothing tells when.
        let deadline = Instant::now() + Duration::from_secs(1);
        while !self.processes().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(self.processes(), [] as [&str; 0], "processes are left");
        assert!(!self.path("c/c.sock").exists(), "the control socket is left");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Whatever the test came to, nothing of it runs on.
        for name in stdout(&self.pepita(&["list", "--format", "name"])).lines() {
            self.pepita(&["destroy", "--name", name, "--force"]);
        }
    }
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A program at work, with a reader of its output. Dropped, it is killed.
pub(crate) struct Daemon {
    child: Child,
    lines: Receiver<String>,
    pub(crate) seen: Vec<String>,
}

impl Daemon {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
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

    /// Waits for a line that has this in it.
    pub(crate) fn until(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no {text:?}; seen:\n{}", self.story()),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("ended before {text:?}; seen:\n{}", self.story())
                }
            }
        }
    }

    /// Waits for lines that have these in them, in whatever order: there are two streams.
    pub(crate) fn until_all(&mut self, texts: &[&str]) {
        let from = self.seen.len();
        for text in texts {
            if !self.seen[from..].iter().any(|line| line.contains(text)) {
                self.until(text);
            }
        }
    }

    pub(crate) fn story(&self) -> String {
        self.seen.join("\n")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid"));
        kill(pid, signal).expect("a process that runs");
    }

    /// Reads its output to the end, and says how it ended.
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

    /// SIGTERM, and a good end.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.end();
        assert!(status.success(), "{status}:\n{}", self.story());
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.end();
    }

    /// These come one after the other in what was seen.
    pub(crate) fn assert_order(&self, texts: &[&str]) {
        let mut rest = self.seen.iter();
        for text in texts {
            assert!(
                rest.any(|line| line.contains(text)),
                "{text:?} is missing or too early:\n{}",
                self.story()
            );
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended; its VMs are the host's matter.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
