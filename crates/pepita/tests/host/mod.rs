//! A host for a test: a run directory of its own, the real `pepita`, and at the end a check that nothing is left.
#![allow(dead_code, unused_imports, reason = "each test program uses its part")]

mod gate;
mod leaks;
mod link;

pub(crate) use leaks::{Counts, processes_in};
pub(crate) use link::Link;

use gate::Permit;
use pepita_launcher::client::Client;
use pepita_wire::agent::Exec;
use pepita_wire::record::DaemonState;
use pepita_wire::{Ask, ExecResult, ExitRecord, MonitorRequest, StatusRecord, VmId};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The time limit for an expected event, on a machine that other programs use, too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The tolerance for a promised deadline: the time of the processes of a call, on a busy machine.
pub(crate) const SLACK: Duration = Duration::from_secs(3);

/// Returns the number of repetitions of a fault: a few for CI, or with `PEPITA_LONG=1` as many as the requirements say.
pub(crate) fn times(short: usize, long: usize) -> usize {
    if std::env::var_os("PEPITA_LONG").is_some() { long } else { short }
}

/// The kind of VMs on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Qemu,
    Process,
}

/// The expected state at the end of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// VMs may be left; they are destroyed.
    Destroy,
    /// Nothing is left.
    Clean,
}

/// A run directory, and the calls in it.
pub(crate) struct Host {
    pub(crate) dir: PathBuf,
    pub(crate) form: Form,
    variables: Vec<(String, String)>,
    end: End,
    _permit: Option<Permit>,
}

fn new_dir(base: &str) -> PathBuf {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    // The path is short, because the path of a socket is limited to 108 bytes.
    let dir = PathBuf::from(format!("{base}/pt{}-{number}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a run directory");
    dir
}

impl Host {
    /// Makes a host whose VMs are destroyed at the end.
    pub(crate) fn new() -> Self {
        let (form, end) = (Form::Process, End::Destroy);
        Self { dir: new_dir("/tmp"), form, variables: Vec::new(), end, _permit: None }
    }

    /// Makes a host that shares the machine with others and on which nothing may be left at the end.
    pub(crate) fn of(form: Form) -> Self {
        Self::clean(form, gate::enter())
    }

    /// Makes a host that has the test process to itself, so that its open files can be counted.
    pub(crate) fn alone(form: Form) -> Self {
        Self::clean(form, gate::enter_alone())
    }

    fn clean(form: Form, permit: Permit) -> Self {
        // The directory is in memory, as the usual run directory of pepita (/run) is.
        let dir = new_dir(Some("/dev/shm").filter(|shm| Path::new(shm).is_dir()).unwrap_or("/tmp"));
        // All tests share one cache, because unpacking a kernel takes a while.
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pepita-cache");
        std::fs::create_dir_all(&cache).expect("a cache");
        std::os::unix::fs::symlink(cache, dir.join(".cache")).expect("a link to the cache");
        let host = Self { dir, form, variables: Vec::new(), end: End::Clean, _permit: Some(permit) };
        host.with("PEPITA_AGENT", guest_file("daemonctl"))
    }

    /// Adds a variable to the environment of every call.
    pub(crate) fn with(mut self, name: &str, value: impl AsRef<Path>) -> Self {
        self.variables.push((name.to_owned(), value.as_ref().to_string_lossy().into_owned()));
        self
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// Returns a VM's run directory.
    pub(crate) fn vm(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Returns a call, not started yet.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(pepita());
        command.args(args).env("PEPITA_RUN_DIR", &self.dir).stdin(Stdio::null());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Makes a call and waits for its end.
    pub(crate) fn call(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("pepita runs")
    }

    /// Makes a call that has to succeed. Returns what it printed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.call(args);
        assert!(output.status.success(), "pepita {args:?}: {}", errors(&output));
        text(&output.stdout)
    }

    /// Makes a call that has to fail with this exit code. Returns its error.
    pub(crate) fn fails(&self, args: &[&str], code: i32) -> String {
        let output = self.call(args);
        assert_eq!(output.status.code(), Some(code), "pepita {args:?}: {}", errors(&output));
        text(&output.stderr)
    }

    /// Makes a call that has to succeed. Returns the JSON that it printed.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).expect("JSON")
    }

    /// Starts a VM that is a plain process, and waits until its agent answers.
    pub(crate) fn process(&self, name: &str, command: &[&str]) {
        let run = ["run", "--vmm", "process", "--name", name, "--daemon", "--wait-ready", "--json", "--"];
        self.ok(&[&run, command].concat());
    }

    /// Starts a real microVM, and waits until its agent answers.
    pub(crate) fn microvm(&self, name: &str, more: &[&str]) {
        let (kernel, rootfs) = images();
        let (kernel, rootfs) = (kernel.to_string_lossy(), rootfs.to_string_lossy());
        let run = ["run", "--name", name, "--kernel", &kernel, "--rootfs", &rootfs, "--memory", "128"];
        self.ok(&[&run[..], &["--daemon", "--wait-ready"], more].concat());
    }

    /// Returns the words of a `run` of the ticker in this host's form.
    pub(crate) fn run_args(&self, name: &str, options: &[&str], ticker: &[&str]) -> Vec<String> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let file = |name| guest_file(name).to_string_lossy().into_owned();
        let (machine, daemon) = match self.form {
            Form::Qemu => {
                let (kernel, rootfs) = (file("vmlinuz"), file("ticker.cpio"));
                let machine = ["--memory", "128", "--kernel", &kernel, "--rootfs", &rootfs];
                (words(&machine), "/usr/bin/ticker".to_owned())
            }
            Form::Process => (words(&["--vmm", "process"]), file("ticker")),
        };
        let head = words(&["run", "--json", "--name", name]);
        [head, machine, words(options), words(&["--", &daemon]), words(ticker)].concat()
    }

    /// Returns a `run` of the ticker, not started yet.
    pub(crate) fn run(&self, name: &str, options: &[&str], ticker: &[&str]) -> Command {
        let words = self.run_args(name, options, ticker);
        self.command(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Starts the ticker in a VM and leaves it.
    pub(crate) fn start(&self, name: &str, ticker: &[&str]) -> StatusRecord {
        self.start_with(name, &[], ticker)
    }

    /// Starts the ticker in a VM, with more options, and leaves it.
    pub(crate) fn start_with(&self, name: &str, options: &[&str], ticker: &[&str]) -> StatusRecord {
        let options: Vec<&str> = ["--daemon"].iter().chain(options).copied().collect();
        let output = self.run(name, &options, ticker).output().expect("pepita runs");
        assert!(output.status.success(), "run {name}: {}", errors(&output));
        serde_json::from_slice(&output.stdout).expect("a status record")
    }

    /// Starts the ticker in a VM and waits until it has said READY.
    pub(crate) fn ready(&self, name: &str, ticker: &[&str]) -> StatusRecord {
        self.start(name, ticker);
        self.until(name, |status| status.daemon.state == DaemonState::Ready)
    }

    /// Watches a VM until its status is as wanted. An end before that is a failure.
    pub(crate) fn until(&self, name: &str, wanted: impl Fn(&StatusRecord) -> bool) -> StatusRecord {
        let deadline = Instant::now() + PATIENCE;
        let mut client = Client::open(&self.vm(name)).unwrap_or_else(|e| panic!("monitor of {name}: {e}"));
        let mut since = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let status = client.watch(since, Some(left)).unwrap_or_else(|e| panic!("watching {name}: {e}"));
            if wanted(&status) {
                return status;
            }
            assert!(!status.state.is_terminal(), "{name} ended: {:?}", status.exit);
            since = status.revision;
        }
    }

    pub(crate) fn status(&self, name: &str) -> StatusRecord {
        serde_json::from_str(&self.ok(&["status", "--name", name])).expect("a status record")
    }

    /// Waits for the end of a VM.
    pub(crate) fn exit(&self, name: &str) -> ExitRecord {
        let patience = format!("{}s", PATIENCE.as_secs());
        serde_json::from_str(&self.ok(&["wait", "--name", name, "--timeout", &patience])).expect("a record")
    }

    /// Destroys a VM. Returns how long that took.
    pub(crate) fn destroy(&self, name: &str, options: &[&str]) -> Duration {
        let began = Instant::now();
        self.ok(&[&["destroy", "--name", name], options].concat());
        assert!(!self.vm(name).exists(), "{name} has left its run directory");
        began.elapsed()
    }

    /// Talks to a guest agent, as a supervisor does.
    pub(crate) fn link(&self, name: &str) -> Link {
        Link::open(&self.vm(name), self.status(name).incarnation)
    }

    /// Talks to a guest agent over a connection that the monitor hands over.
    pub(crate) fn dialled(&self, name: &str) -> Link {
        Link::dialled(&self.vm(name), self.status(name).incarnation)
    }

    /// Asks a monitor for something that it has to grant.
    pub(crate) fn ask(&self, name: &str, request: MonitorRequest) -> Value {
        let answer = pepita_launcher::client::ask(&self.vm(name), request.clone()).expect("a monitor");
        answer.unwrap_or_else(|e| panic!("{request:?}: {e}"))
    }

    /// Runs a command in a guest to its end. 0 = the agent's own time limit.
    pub(crate) fn exec(&self, name: &str, command: &[&str], timeout_ms: u64) -> ExecResult {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let exec = Ask::Exec(Exec { command, timeout_ms, bulk: false });
        serde_json::from_value(self.ask(name, MonitorRequest::Forward(exec))).expect("a result")
    }

    fn print_logs(&self) {
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|name| VmId::new(name).is_ok()) {
                for file in ["monitor.log", "exit.json", "console.log"] {
                    let bytes = std::fs::read(entry.path().join(file)).unwrap_or_default();
                    let shown = text(&bytes[bytes.len().saturating_sub(8 * 1024)..]);
                    eprintln!("{}:\n{shown}", entry.path().join(file).display());
                }
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let has_failed = std::thread::panicking();
        if has_failed {
            self.print_logs();
        }
        let left = match self.end {
            End::Destroy => {
                let names = text(&self.call(&["list", "--format", "name"]).stdout);
                for name in names.lines() {
                    self.call(&["destroy", "--force", "--name", name]);
                }
                leaks::end_processes(&self.dir)
            }
            End::Clean => leaks::clear(&self.dir),
        };
        let _ = std::fs::remove_dir_all(&self.dir);
        if !has_failed {
            assert!(left.is_empty(), "left behind: {left:#?}");
        }
    }
}

/// Returns the launcher that Cargo has built for this test.
pub(crate) fn pepita() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pepita"))
}

/// Returns a program of the workspace that lies beside the launcher.
pub(crate) fn program(name: &str) -> String {
    let path = pepita().with_file_name(name);
    assert!(path.exists(), "{} is missing: cargo build --workspace --bins", path.display());
    path.to_string_lossy().into_owned()
}

/// Returns a file that `scripts/setup.sh` creates. Without this file no test passes.
pub(crate) fn guest_file(name: &str) -> PathBuf {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = match name {
        // The file is in the directory in which the agent was built.
        "ticker" => top.join(".guest/daemonctl").canonicalize().unwrap_or_default().with_file_name("ticker"),
        "vmlinuz" => {
            std::env::var_os("PEPITA_TEST_KERNEL").map_or_else(|| top.join(".guest/vmlinuz"), PathBuf::from)
        }
        name => top.join(".guest").join(name),
    };
    path.canonicalize().unwrap_or_else(|e| {
        panic!(
            "{}: {e}: run `make setup` (scripts/setup.sh) first, it brings kernel and images",
            path.display()
        )
    })
}

/// Returns kernel and root file system for a real microVM.
pub(crate) fn images() -> (PathBuf, PathBuf) {
    (guest_file("vmlinuz"), guest_file("ticker.cpio"))
}

/// Returns a file beside the tests.
pub(crate) fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Returns how a call ended and its error.
pub(crate) fn errors(output: &Output) -> String {
    format!("{}: {}", output.status, text(&output.stderr).trim())
}

/// Prints measured times: the median, the 99th percentile, the maximum.
pub(crate) fn figure(what: &str, mut all: Vec<Duration>) {
    all.sort();
    let at = |share: usize| all[(all.len() * share / 100).min(all.len() - 1)];
    println!("{what}: n={} p50={:?} p99={:?} max={:?}", all.len(), at(50), at(99), at(100));
}

/// Sends a signal.
pub(crate) fn kill(pid: Option<u32>, signal: rustix::process::Signal) {
    let pid = pid.and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("a process");
}
