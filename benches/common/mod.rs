//! Code that the benchmarks share: a run directory of their own, a tree in it, and the removal of its VMs at the end.
#![allow(dead_code, unused_imports, reason = "each bench uses a part of it")]

mod host;
mod record;

pub(crate) use host::{Processes, Work, pss_kib};
pub(crate) use record::{Aim, Figure, in_ms, missing, percentile, table};

use pepita_supervisor::executor::find;
use pepita_supervisor::observe::VmPhase;
use pepita_supervisor::spec::{
    Backoff, GroupName, GroupSpec, Intensity, MachineSpec, TreeSpec, VmName, VmSpec,
};
use pepita_supervisor::tree::Tree;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// The directories of one benchmark. Dropping it destroys the VMs that run in them.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    pub(crate) pepita: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        // The directory is in memory, as the launcher's usual run directory (/run) is. Otherwise the disk would be
        // measured.
        Self::below(in_memory())
    }

    /// Makes the directories below this one, which says what kind of file system is measured.
    pub(crate) fn below(home: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("pb").tempdir_in(home).expect("a directory");
        let named = std::env::var_os("PEPITA").map_or_else(|| PathBuf::from("pepita"), PathBuf::from);
        let pepita = find(&named).unwrap_or_else(|e| panic!("{e}; run `cargo build --release --bins` first"));
        Self { dir, pepita }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the daemon and returns its path.
    pub(crate) fn daemon(&self) -> PathBuf {
        let path = self.path("daemon");
        write_daemon(&path);
        path
    }

    /// Returns a VM that is a plain process with this daemon.
    pub(crate) fn vm(&self, name: &str, command: &[&Path]) -> VmSpec {
        let mut vm = VmSpec::new(VmName::new(name).expect("a good name"), MachineSpec::process());
        vm.command = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        vm.restart.backoff = Backoff { initial: Duration::ZERO, ..Backoff::default() };
        vm
    }

    pub(crate) fn group(name: &str, vms: Vec<VmSpec>) -> GroupSpec {
        let intensity = Intensity { max_restarts: 1_000_000, period: Duration::from_secs(60) };
        GroupSpec { intensity, ..GroupSpec::new(GroupName::new(name).expect("a good name"), vms) }
    }

    pub(crate) async fn start(&self, groups: Vec<GroupSpec>) -> Tree {
        let mut spec = TreeSpec::new("bench");
        (spec.run_dir, spec.state_dir) = (Some(self.path("r")), Some(self.path("s")));
        (spec.pepita, spec.max_parallel_launches) = (self.pepita.clone(), parallel());
        spec.groups = groups;
        Tree::start(spec).await.unwrap_or_else(|e| panic!("{e}"))
    }

    /// Runs `work` on a tree of these groups and ends the tree afterwards, also when the work fails or a signal
    /// interrupts it. Returns how long the stop took.
    pub(crate) async fn with<W: Future<Output = ()> + Send + 'static>(
        &self,
        groups: Vec<GroupSpec>,
        work: impl FnOnce(Tree) -> W,
    ) -> Duration {
        let tree = self.start(groups).await;
        let mut terminated = signal(SignalKind::terminate()).expect("a signal handler");
        let work = tokio::spawn(work(tree.clone()));
        let outcome = tokio::select! {
            outcome = work => outcome.map_err(|e| e.to_string()),
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
            _ = terminated.recv() => Err("terminated".into()),
        };
        let before = Instant::now();
        if let Err(why) = outcome {
            // The VMs are ended through the tree, because the tree would restart VMs that are destroyed by another
            // program.
            tree.destroy().await;
            panic!("{why}");
        }
        tree.stop().await;
        before.elapsed()
    }

    fn call(&self, args: &[&str]) -> Vec<u8> {
        let call = Command::new(&self.pepita).arg("--run-dir").arg(self.path("r")).args(args).output();
        call.map(|output| output.stdout).unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // After an orderly stop the list is empty.
        let names = self.call(&["list", "--format", "name"]);
        for name in String::from_utf8_lossy(&names).lines() {
            self.call(&["destroy", "--name", name, "--force"]);
        }
    }
}

/// Returns a directory in memory, as far as this host has one.
pub(crate) fn in_memory() -> &'static Path {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory } else { Path::new("/tmp") }
}

/// Returns how many launches may run at once: two for each processor, or what `PEPITA_BENCH_PARALLEL` says.
fn parallel() -> usize {
    let cpus = std::thread::available_parallelism().map_or(2, usize::from);
    std::env::var("PEPITA_BENCH_PARALLEL").ok().and_then(|n| n.parse().ok()).unwrap_or(cpus * 2)
}

/// Writes a script that writes its pid to the file that is its argument, and then sleeps.
pub(crate) fn write_daemon(path: &Path) {
    std::fs::write(path, "#!/bin/sh\necho $$ > \"$1\"\nexec sleep 1000000\n").expect("written");
    make_executable(path);
}

pub(crate) fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("ours");
}

pub(crate) fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid"));
    // The process may have ended meanwhile.
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
}

/// Waits until every VM is ready, and each VM of `killed` in a newer incarnation than the given one.
pub(crate) async fn all_ready(tree: &Tree, killed: &[(String, u64)], patience: Duration) {
    let deadline = Instant::now() + patience;
    loop {
        let status = tree.status();
        let back = |(name, former): &(String, u64)| {
            status.vm(name).is_some_and(|vm| vm.incarnation.0 > *former && vm.vmm_pid.is_some())
        };
        if killed.iter().all(back) && status.vms().all(|vm| vm.phase == VmPhase::Ready) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "not all ready: {:?}",
            status.vms().find(|vm| vm.phase != VmPhase::Ready)
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Waits until the VM has as many spares that are ready as it is to have.
pub(crate) async fn spare_ready(tree: &Tree, name: &str, patience: Duration) {
    let deadline = Instant::now() + patience;
    loop {
        let status = tree.status();
        let vm = status.vm(name).expect("there is such a VM");
        let ready = vm.spares.iter().filter(|spare| spare.ready).count();
        if ready >= usize::try_from(vm.standby).unwrap_or_default() {
            return;
        }
        assert!(Instant::now() < deadline, "no spare of {name} is ready");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Formats a duration in milliseconds.
pub(crate) fn ms(time: Duration) -> String {
    format!("{:.1} ms", in_ms(time))
}
