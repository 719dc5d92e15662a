//! What an adapter's successor has to know: the daemons that were spawned. One JSON file, replaced atomically.

use crate::spec::{Backoff, MachineSpec, OnGiveUp, Port, Restart, RestartSpec, VmName, VmSpec, Vmm};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A daemon as it is written down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Saved {
    daemon: String,
    vm: String,
    kernel: PathBuf,
    rootfs: PathBuf,
    vcpus: u32,
    memory_mb: u32,
    port: u32,
    process: bool,
    command: Vec<String>,
    env: BTreeMap<String, String>,
    policy: String,
    max_retries: u32,
    escalates: bool,
    #[serde(with = "humantime_serde")]
    reset_after: Duration,
    success: BTreeSet<i32>,
    never: BTreeSet<i32>,
    always: BTreeSet<i32>,
    #[serde(with = "humantime_serde")]
    initial_delay: Duration,
    #[serde(with = "humantime_serde")]
    max_delay: Duration,
    multiplier: f64,
    jitter: f64,
}

const POLICIES: [(&str, Restart); 4] = [
    ("always", Restart::Always),
    ("unless-stopped", Restart::UnlessStopped),
    ("on-failure", Restart::OnFailure),
    ("never", Restart::Never),
];

impl Saved {
    fn of(daemon: &str, spec: &VmSpec) -> Self {
        let (machine, restart) = (&spec.machine, &spec.restart);
        let policy =
            POLICIES.iter().find(|(_, policy)| *policy == restart.policy).map_or("never", |(word, _)| word);
        Self {
            daemon: daemon.to_owned(),
            vm: spec.name.to_string(),
            kernel: machine.kernel.clone(),
            rootfs: machine.rootfs.clone(),
            vcpus: machine.vcpus,
            memory_mb: machine.memory_mb,
            port: machine.port.0,
            process: machine.vmm == Vmm::Process,
            command: spec.command.clone(),
            env: spec.env.clone(),
            policy: policy.to_owned(),
            max_retries: restart.max_retries,
            escalates: restart.on_give_up == OnGiveUp::Escalate,
            reset_after: restart.reset_after,
            success: restart.success.clone(),
            never: restart.never.clone(),
            always: restart.always.clone(),
            initial_delay: restart.backoff.initial,
            max_delay: restart.backoff.max,
            multiplier: restart.backoff.multiplier,
            jitter: restart.backoff.jitter,
        }
    }

    fn into_spec(self) -> Option<(String, VmSpec)> {
        let machine = MachineSpec {
            vcpus: self.vcpus,
            memory_mb: self.memory_mb,
            kernel: self.kernel,
            rootfs: self.rootfs,
            port: Port(self.port),
            vmm: if self.process { Vmm::Process } else { Vmm::Qemu },
        };
        let mut spec = VmSpec::new(VmName::new(&self.vm).ok()?, machine);
        spec.command = self.command;
        spec.env = self.env;
        spec.stop.timeout = Duration::ZERO;
        spec.restart = RestartSpec {
            policy: POLICIES.iter().find(|(word, _)| *word == self.policy)?.1,
            max_retries: self.max_retries,
            on_give_up: if self.escalates { OnGiveUp::Escalate } else { OnGiveUp::Fail },
            reset_after: self.reset_after,
            success: self.success,
            never: self.never,
            always: self.always,
            backoff: Backoff {
                initial: self.initial_delay,
                max: self.max_delay,
                multiplier: self.multiplier,
                jitter: self.jitter,
            },
        };
        Some((self.daemon, spec))
    }
}

/// The daemons of one adapter, by VM.
#[derive(Debug)]
pub(super) struct Store {
    file: PathBuf,
    daemons: BTreeMap<VmName, (String, VmSpec)>,
}

impl Store {
    /// Reads what a former adapter wrote. A file that cannot be read is told in the log and taken as empty: the VMs it
    /// named are then orphans.
    pub(super) fn open(dir: &Path) -> Self {
        let file = dir.join("daemons.json");
        let saved = match std::fs::read(&file).map(|bytes| serde_json::from_slice::<Vec<Saved>>(&bytes)) {
            Ok(Ok(saved)) => saved,
            Ok(Err(e)) => {
                tracing::warn!("{}: not readable, ignored: {e}", file.display());
                Vec::new()
            }
            Err(_) => Vec::new(),
        };
        let daemons = saved.into_iter().filter_map(Saved::into_spec);
        Self { file, daemons: daemons.map(|(daemon, spec)| (spec.name.clone(), (daemon, spec))).collect() }
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    pub(super) fn specs(&self) -> impl Iterator<Item = &VmSpec> {
        self.daemons.values().map(|(_, spec)| spec)
    }

    pub(super) fn holds(&self, vm: &VmName) -> bool {
        self.daemons.contains_key(vm)
    }

    pub(super) fn add(&mut self, daemon: &str, spec: VmSpec) -> io::Result<()> {
        self.daemons.insert(spec.name.clone(), (daemon.to_owned(), spec));
        self.write()
    }

    pub(super) fn remove(&mut self, vm: &VmName) -> io::Result<()> {
        self.daemons.remove(vm);
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let saved: Vec<Saved> = self.daemons.values().map(|(daemon, spec)| Saved::of(daemon, spec)).collect();
        let beside = self.file.with_extension("tmp");
        // The environment may hold secrets.
        let mut file =
            std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(serde_json::to_string_pretty(&saved)?.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, &self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spawned_is_there_for_the_next_adapter() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut spec = VmSpec::new(VmName::new("api").expect("good"), MachineSpec::qemu("/k", "/r"));
        spec.command = vec!["/usr/bin/api".into()];
        spec.env.insert("KEY".into(), "value".into());
        spec.restart.policy = Restart::UnlessStopped;
        spec.restart.never.insert(64);
        spec.stop.timeout = Duration::ZERO;
        Store::open(dir.path()).add("The API", spec.clone()).expect("written");
        let mut store = Store::open(dir.path());
        assert_eq!(store.specs().collect::<Vec<_>>(), [&spec]);
        store.remove(&spec.name).expect("written");
        assert!(!Store::open(dir.path()).holds(&spec.name));
    }
}
