//! A host for one test: a run directory of its own, trees in it, and a check at the end that nothing is left.

use pepita_supervisor::config;
use pepita_supervisor::observe::{Change, Event, EventKind, Events, Received};
use pepita_supervisor::spec::TreeSpec;
use pepita_supervisor::tree::Tree;
use pepita_wire::StatusRecord;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// The time limit of any action that a healthy machine carries out in a few seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Returns the time limit; where VMs boot inside an emulated VM, `PEPITA_TEST_PATIENCE` (seconds) sets a longer one.
pub(crate) fn patience() -> Duration {
    let longer = std::env::var("PEPITA_TEST_PATIENCE").ok().and_then(|text| text.parse().ok());
    longer.map_or(PATIENCE, Duration::from_secs)
}

/// A run directory and the VMs in it.
pub(crate) struct Host {
    dir: tempfile::TempDir,
}

/// Returns the folder of the repository.
pub(crate) fn top() -> PathBuf {
    // Inside a guest the folder lies elsewhere: a build in /tmp would be hidden by the guest's own /tmp.
    std::env::var_os("PEPITA_TEST_TOP")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// Returns a file of the set-up for guests. `PEPITA_TEST_KERNEL` names another kernel in place of the set-up's.
pub(crate) fn guest(file: &str) -> PathBuf {
    let kernel = (file == "vmlinuz").then(|| std::env::var_os("PEPITA_TEST_KERNEL")).flatten();
    let path = kernel.map_or_else(|| top().join(".guest").join(file), PathBuf::from);
    assert!(
        path.exists(),
        "{} is missing: run `make setup` first. These tests boot real microVMs and are never skipped",
        path.display()
    );
    path
}

/// Returns the launcher that was built with these tests.
pub(crate) fn pepita() -> PathBuf {
    let target = std::env::current_exe().expect("our own path");
    let profile = target.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    let pepita = profile.join("pepita");
    assert!(pepita.exists(), "{}: run `cargo build --workspace --bins` first", pepita.display());
    pepita
}

impl Host {
    pub(crate) fn new() -> Self {
        // The name is short, because the path of a Unix socket has at most 107 bytes.
        let dir = tempfile::Builder::new().prefix("pm").tempdir_in("/tmp").expect("a directory");
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns a configuration with the settings of the tests before `groups`: quick restarts, images, this host's run
    /// directory.
    pub(crate) fn config(&self, groups: &str) -> String {
        let (kernel, rootfs) = (guest("vmlinuz"), guest("ticker.cpio"));
        let (run, state, pepita) = (self.path("r"), self.path("s"), pepita());
        let seconds = patience().as_secs();
        format!(
            "[platform.pepita]\nvcpus = 1\nmemory_mb = 128\nkernel_path = {kernel:?}\nrootfs_path = {rootfs:?}\n\
             [supervisor]\nname = \"test\"\nrun_dir = {run:?}\nstate_dir = {state:?}\npepita = {pepita:?}\n\
             [defaults.restart.backoff]\ninitial_delay = \"100ms\"\njitter = 0.0\n\
             [defaults.start]\nready = \"notify\"\ntimeout = \"{seconds}s\"\n{groups}"
        )
    }

    pub(crate) fn spec(&self, groups: &str) -> TreeSpec {
        config::parse(&self.config(groups), Path::new("test.toml")).unwrap_or_else(|e| panic!("{e}")).spec
    }

    pub(crate) async fn start(&self, groups: &str) -> (Tree, Watcher) {
        let tree = Tree::start(self.spec(groups)).await.unwrap_or_else(|e| panic!("{e}"));
        let watcher = Watcher::of(&tree);
        (tree, watcher)
    }

    pub(crate) fn pepita(&self, args: &[&str]) -> Output {
        Command::new(pepita()).arg("--run-dir").arg(self.path("r")).args(args).output().expect("pepita runs")
    }

    pub(crate) fn status(&self, vm: &str) -> StatusRecord {
        let output = self.pepita(&["status", "--name", &format!("duende-vm-{vm}"), "--json"]);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{vm}: {e}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Kills a VM's VMM from outside.
    pub(crate) fn kill_vmm(&self, vm: &str) -> u32 {
        let pid = self.status(vm).vmm_pid.expect("the VM runs");
        signal(pid, nix::sys::signal::Signal::SIGKILL);
        pid
    }

    /// Returns the processes of VMs of this host: their current directory is in its run directory.
    pub(crate) fn processes(&self) -> Vec<String> {
        let run = self.path("r");
        let pids = std::fs::read_dir("/proc").expect("/proc").flatten();
        let here = pids
            .filter(|pid| std::fs::read_link(pid.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&run)));
        // A live process is neither a zombie nor in its exit (PF_EXITING), when only the scheduler still knows it.
        let alive = |stat: &str| {
            let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
            let fields: Vec<&str> = rest.split_whitespace().collect();
            let flags: u64 = fields.get(6).and_then(|flags| flags.parse().ok()).unwrap_or(0);
            fields.first() != Some(&"Z") && flags & 4 == 0
        };
        here.filter_map(|pid| std::fs::read_to_string(pid.path().join("stat")).ok())
            .filter(|s| alive(s))
            .collect()
    }

    /// Asserts that all of this host is gone.
    pub(crate) fn assert_nothing_left(&self) {
        let names = self.pepita(&["list", "--format", "name"]);
        assert_eq!(String::from_utf8_lossy(&names.stdout), "", "VMs are left");
        let files = |dir: PathBuf| {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(files(self.path("r/.cids")), [] as [&str; 0], "CIDs are left");
        let rest: Vec<String> =
            files(self.path("r")).into_iter().filter(|name| !name.starts_with('.')).collect();
        assert_eq!(rest, [] as [&str; 0], "run directories are left");
        assert_eq!(self.processes(), [] as [&str; 0], "processes are left");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Whatever the result of the test, no VM of it runs on.
        let names = self.pepita(&["list", "--format", "name"]);
        for name in String::from_utf8_lossy(&names.stdout).lines() {
            self.pepita(&["destroy", "--name", name, "--force"]);
        }
    }
}

pub(crate) fn signal(pid: u32, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid"));
    nix::sys::signal::kill(pid, signal).expect("a process that runs");
}

/// Reads a tree's events.
pub(crate) struct Watcher {
    events: Events,
    pub(crate) seen: Vec<Event>,
}

impl Watcher {
    /// Returns a reader of all events of a tree that were not read yet.
    pub(crate) fn of(tree: &Tree) -> Self {
        Self { events: tree.events(), seen: Vec::new() }
    }

    /// Returns the next event that `wanted` accepts.
    pub(crate) async fn until(&mut self, what: &str, mut wanted: impl FnMut(&Event) -> bool) -> Event {
        let next = async {
            loop {
                match self.events.next().await {
                    Some(Received::Event(event)) => {
                        self.seen.push(event.clone());
                        if wanted(&event) {
                            return event;
                        }
                    }
                    Some(Received::Lagged(missed)) => panic!("missed {missed} events"),
                    None => panic!("the tree has ended before {what}"),
                }
            }
        };
        match tokio::time::timeout(patience(), next).await {
            Ok(event) => event,
            Err(_) => panic!("no {what} in time; seen:\n{}", self.story()),
        }
    }

    /// Returns the next change of a VM into a phase.
    pub(crate) async fn phase(&mut self, vm: &str, word: &str) -> Change {
        let event = self.until(&format!("{vm} {word}"), |event| is_change(event, vm, word)).await;
        match event.kind {
            EventKind::Vm(change) => change,
            _ => unreachable!("only changes are accepted"),
        }
    }

    /// Returns the events so far, a line for each.
    pub(crate) fn story(&self) -> String {
        self.seen.iter().map(|event| format!("{event}\n")).collect()
    }
}

fn is_change(event: &Event, vm: &str, word: &str) -> bool {
    matches!(&event.kind, EventKind::Vm(change) if change.vm.as_str() == vm && change.to.word() == word)
}
