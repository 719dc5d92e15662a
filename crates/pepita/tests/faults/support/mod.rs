//! A world for one test: a run directory of its own, the calls, and the question at its end whether anything is left.

mod gate;
mod leaks;
mod link;

pub(crate) use leaks::{Counts, processes_in};
pub(crate) use link::Link;

use gate::Permit;
use pepita_launcher::client::Client;
use pepita_wire::record::DaemonState;
use pepita_wire::{ExitRecord, MonitorRequest, StatusRecord, VmId};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// For whatever has to happen on a machine that others use, too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What a deadline that is promised may be missed by: for the processes that a call consists of, on a busy machine.
pub(crate) const SLACK: Duration = Duration::from_secs(3);

/// The long form repeats a fault as often as it is promised for; the short one, as often as CI has time for.
pub(crate) fn times(short: usize, long: usize) -> usize {
    if std::env::var_os("PEPITA_LONG").is_some() { long } else { short }
}

/// What runs the VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Qemu,
    Process,
}

/// The world.
pub(crate) struct World {
    pub(crate) dir: PathBuf,
    pub(crate) form: Form,
    _permit: Permit,
}

impl World {
    /// One that shares the machine with others.
    pub(crate) fn new(form: Form) -> Self {
        Self::with(form, gate::enter())
    }

    /// One that has the test process to itself, so that its open files can be counted.
    pub(crate) fn alone(form: Form) -> Self {
        Self::with(form, gate::enter_alone())
    }

    fn with(form: Form, permit: Permit) -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        // In memory, as /run is where pepita is at home; and short: the path of a socket ends at 108 bytes.
        let base = Some("/dev/shm").filter(|shm| Path::new(shm).is_dir()).unwrap_or("/tmp");
        let dir = PathBuf::from(format!("{base}/pf{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a run directory");
        // One for all: unpacking a kernel takes a while.
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pepita-cache");
        std::fs::create_dir_all(&cache).expect("a cache");
        std::os::unix::fs::symlink(cache, dir.join(".cache")).expect("a link to the cache");
        Self { dir, form, _permit: permit }
    }

    /// The run directory of a VM.
    pub(crate) fn vm(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The program, in this world.
    pub(crate) fn pepita(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pepita"));
        command.env("PEPITA_RUN_DIR", &self.dir).env("PEPITA_AGENT", guest_file("daemonctl"));
        command.args(args).stdin(Stdio::null());
        command
    }

    /// Makes a call and waits for its end.
    pub(crate) fn call(&self, args: &[&str]) -> Output {
        self.pepita(args).output().expect("the program runs")
    }

    /// Makes a call that has to succeed; gives back what it printed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.call(args);
        assert!(output.status.success(), "{args:?}: {}", errors(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The words of a `run` of the ticker.
    pub(crate) fn run_args(&self, name: &str, options: &[&str], ticker: &[&str]) -> Vec<String> {
        let daemon = match self.form {
            Form::Qemu => "/usr/bin/ticker".to_owned(),
            Form::Process => guest_file("ticker").to_string_lossy().into_owned(),
        };
        let mut words: Vec<String> = match self.form {
            Form::Qemu => ["--memory", "128", "--kernel"].map(str::to_owned).to_vec(),
            Form::Process => ["--vmm", "process"].map(str::to_owned).to_vec(),
        };
        if self.form == Form::Qemu {
            let image = |name| guest_file(name).to_string_lossy().into_owned();
            words.extend([image("vmlinuz"), "--rootfs".to_owned(), image("ticker.cpio")]);
        }
        let head = ["run", "--json", "--name", name].map(str::to_owned);
        let options = options.iter().map(|o| (*o).to_owned());
        let daemon = ["--".to_owned(), daemon].into_iter().chain(ticker.iter().map(|o| (*o).to_owned()));
        head.into_iter().chain(words).chain(options).chain(daemon).collect()
    }

    /// A `run` of the ticker, not started yet.
    pub(crate) fn run(&self, name: &str, options: &[&str], ticker: &[&str]) -> Command {
        let words = self.run_args(name, options, ticker);
        self.pepita(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Starts the ticker in a VM and leaves it.
    pub(crate) fn start(&self, name: &str, ticker: &[&str]) -> StatusRecord {
        self.start_with(name, &[], ticker)
    }

    /// The same, with more options.
    pub(crate) fn start_with(&self, name: &str, options: &[&str], ticker: &[&str]) -> StatusRecord {
        let options: Vec<&str> = ["--daemon"].iter().chain(options).copied().collect();
        let output = self.run(name, &options, ticker).output().expect("the program runs");
        assert!(output.status.success(), "run {name}: {}", errors(&output));
        serde_json::from_slice(&output.stdout).expect("a status record")
    }

    /// Starts the ticker in a VM and waits until it has said READY.
    pub(crate) fn ready(&self, name: &str, ticker: &[&str]) -> StatusRecord {
        self.start(name, ticker);
        self.until(name, |status| status.daemon.state == DaemonState::Ready)
    }

    /// Watches a VM until it is so; an end before that is a failure.
    pub(crate) fn until(&self, name: &str, so: impl Fn(&StatusRecord) -> bool) -> StatusRecord {
        let deadline = Instant::now() + PATIENCE;
        let mut client = Client::open(&self.vm(name)).unwrap_or_else(|e| panic!("monitor of {name}: {e}"));
        let mut since = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let status = client.watch(since, Some(left)).unwrap_or_else(|e| panic!("watching {name}: {e}"));
            if so(&status) {
                return status;
            }
            assert!(!status.state.is_terminal(), "{name} ended: {:?}", status.exit);
            since = status.revision;
        }
    }

    /// The status.
    pub(crate) fn status(&self, name: &str) -> StatusRecord {
        serde_json::from_str(&self.ok(&["status", "--name", name])).expect("a status record")
    }

    /// Waits for the end.
    pub(crate) fn exit(&self, name: &str) -> ExitRecord {
        let patience = format!("{}s", PATIENCE.as_secs());
        serde_json::from_str(&self.ok(&["wait", "--name", name, "--timeout", &patience])).expect("a record")
    }

    /// Destroys, and says how long that took.
    pub(crate) fn destroy(&self, name: &str, options: &[&str]) -> Duration {
        let began = Instant::now();
        self.ok(&[&["destroy", "--name", name], options].concat());
        assert!(!self.vm(name).exists(), "{name} has left its run directory");
        began.elapsed()
    }

    /// Talks to the guest agent, as a supervisor does.
    pub(crate) fn link(&self, name: &str) -> Link {
        Link::open(&self.vm(name), self.status(name).incarnation)
    }

    /// Asks the monitor.
    pub(crate) fn ask(&self, name: &str, method: &str, params: serde_json::Value) -> serde_json::Value {
        let request = MonitorRequest::from_parts(method, params).expect("a request");
        let answer = pepita_launcher::client::ask(&self.vm(name), request).expect("a monitor");
        answer.unwrap_or_else(|e| panic!("{method}: {e}"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
                if entry.file_name().to_str().is_some_and(|name| VmId::new(name).is_ok()) {
                    let log = std::fs::read_to_string(entry.path().join("monitor.log")).unwrap_or_default();
                    eprintln!("{}: the monitor's log:\n{log}", entry.path().display());
                }
            }
        }
        let left = leaks::clear(&self.dir);
        let _ = std::fs::remove_dir_all(&self.dir);
        if !std::thread::panicking() {
            assert!(left.is_empty(), "left behind: {left:#?}");
        }
    }
}

/// What a call complained about.
pub(crate) fn errors(output: &Output) -> String {
    format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())
}

/// Something that `scripts/setup.sh` makes. Without it there is nothing to test, and no test passes.
pub(crate) fn guest_file(name: &str) -> PathBuf {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = match name {
        // It lies where the agent was built.
        "ticker" => top.join(".guest/daemonctl").canonicalize().unwrap_or_default().with_file_name("ticker"),
        name => top.join(".guest").join(name),
    };
    path.canonicalize().unwrap_or_else(|e| {
        panic!(
            "{}: {e}: run `make setup` (scripts/setup.sh) first, it brings kernel and images",
            path.display()
        )
    })
}

/// Prints what was measured: the middle, the 99th of 100, the worst.
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
