//! A host for a test: a run directory of its own, the real `pepita`, and the end of every VM that was started in it.
#![allow(dead_code, reason = "each test file uses its part")]

use pepita_launcher::client::Client;
use pepita_wire::MonitorRequest;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A run directory, and the programs that are built beside the launcher.
pub(crate) struct Host {
    dir: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

impl Host {
    pub(crate) fn new() -> Self {
        // The path is short, because the path of a Unix socket has to be.
        let dir = tempfile::Builder::new().prefix("pt").tempdir_in("/tmp").expect("a directory in /tmp");
        Self { dir, variables: Vec::new() }
    }

    /// Adds a variable to the environment of every call.
    pub(crate) fn with(mut self, name: &str, value: impl AsRef<Path>) -> Self {
        self.variables.push((name.to_owned(), value.as_ref().to_string_lossy().into_owned()));
        self
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Returns a VM's run directory.
    pub(crate) fn vm(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(pepita());
        command.args(args).env("PEPITA_RUN_DIR", self.path()).stdin(Stdio::null());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn call(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("pepita runs")
    }

    /// Makes a call that has to succeed. Returns what it printed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.call(args);
        assert!(output.status.success(), "pepita {args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Makes a call that has to fail with this exit code. Returns what it printed on standard error.
    pub(crate) fn fails(&self, args: &[&str], code: i32) -> String {
        let output = self.call(args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "pepita {args:?}: {said}");
        said
    }

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

    /// Waits without polling until a VM's status is as wanted.
    pub(crate) fn until(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut client = Client::open(&self.vm(name)).expect("its monitor");
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut since = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let watch = MonitorRequest::Watch { since };
            let answer = client.ask(watch, Some(left.max(Duration::from_millis(1))));
            let status = answer.expect("its monitor answers in time").expect("it may be watched");
            if wanted(&status) {
                return status;
            }
            since = status["generation"].as_u64().expect("a generation");
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for name in self.ok(&["list", "--format", "name"]).lines() {
            self.call(&["destroy", "--force", "--name", name]);
        }
        let left = processes_in(self.path());
        if !std::thread::panicking() {
            assert_eq!(left, Vec::<u32>::new(), "processes were left behind");
        }
    }
}

/// The launcher that Cargo has built for this test.
pub(crate) fn pepita() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pepita"))
}

/// A program of the workspace that lies beside the launcher.
pub(crate) fn program(name: &str) -> String {
    let path = pepita().with_file_name(name);
    assert!(path.exists(), "{} is missing: cargo build --workspace --bins", path.display());
    path.to_string_lossy().into_owned()
}

/// Kernel and root file system for a real microVM.
pub(crate) fn images() -> (PathBuf, PathBuf) {
    let guest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.guest");
    let images = (guest.join("vmlinuz"), guest.join("ticker.cpio"));
    for image in [&images.0, &images.1] {
        assert!(image.exists(), "{} is missing: run ./scripts/setup.sh", image.display());
    }
    images
}

/// A file beside the tests.
pub(crate) fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Processes that work in a directory or below it.
pub(crate) fn processes_in(dir: &Path) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir)))
        .collect()
}
