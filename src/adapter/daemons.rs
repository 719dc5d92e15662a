//! The list of spawned daemons, which the successor of an adapter has to know. One JSON file, `daemons.json`.

use crate::spec::{Backoff, MachineSpec, OnGiveUp, Port, RestartSpec, VmName, VmSpec, Vmm};
use crate::store::{self, Change, Store};
use pepita_wire::Stored;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::oneshot;

/// A daemon as it is stored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Saved {
    /// The present form, with every key of the specification, under the names of the configuration file.
    Keys { daemon: String, keys: Map<String, Value> },
    /// The form of the versions up to commit 445d9af.
    Flat(Box<Flat>),
}

/// A daemon as versions up to commit 445d9af stored it.
#[derive(Debug, Serialize, Deserialize)]
struct Flat {
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

impl Saved {
    fn of(daemon: &Daemon) -> Self {
        Self::Keys { daemon: daemon.name.clone(), keys: daemon.spec.to_keys() }
    }

    fn into_daemon(self) -> Result<Daemon, String> {
        match self {
            Self::Keys { daemon, keys } => {
                let spec = VmSpec::from_keys(&keys).map_err(|key| format!("{daemon:?}: {key}"))?;
                Ok(Daemon { name: daemon, spec })
            }
            Self::Flat(flat) => flat.into_daemon(),
        }
    }
}

impl Flat {
    fn into_daemon(self) -> Result<Daemon, String> {
        let machine = MachineSpec {
            vcpus: self.vcpus,
            memory_mb: self.memory_mb,
            kernel: self.kernel,
            rootfs: self.rootfs,
            image: None,
            port: Port(self.port),
            vmm: if self.process { Vmm::Process } else { Vmm::Qemu },
            jail: None,
        };
        let name = VmName::new(&self.vm).map_err(|e| e.to_string())?;
        let mut spec = VmSpec::new(name, machine);
        spec.command = self.command;
        spec.env = self.env;
        spec.stop.timeout = Duration::ZERO;
        spec.restart = RestartSpec {
            policy: self.policy.parse().map_err(|_| format!("{:?}: policy", self.daemon))?,
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
        Ok(Daemon { name: self.daemon, spec })
    }
}

/// A daemon of an adapter.
#[derive(Debug)]
struct Daemon {
    name: String,
    spec: VmSpec,
}

/// The daemons of one adapter, by VM.
#[derive(Debug)]
pub(super) struct Daemons {
    file: PathBuf,
    store: Store,
    daemons: BTreeMap<VmName, Daemon>,
}

impl Daemons {
    /// Reads the list that a former adapter stored in the directory `dir`. `has_vms` tells whether the journal knows any
    /// VM there: the list was written before the first VM was launched, so that a list that is absent then was lost.
    ///
    /// # Errors
    /// Returns why the list cannot be read. The VMs of the list may run, and without the list only their names are
    /// known: they must be left alone.
    pub(super) async fn open(dir: &Path, store: Store, has_vms: bool) -> Result<Self, String> {
        let file = dir.join("daemons.json");
        let path = file.clone();
        let read = tokio::task::spawn_blocking(move || store::read::<Vec<Saved>>(&path)).await;
        let saved = match read.map_err(|e| e.to_string())? {
            Stored::Absent if has_vms => return Err(format!("{}: is missing", file.display())),
            Stored::Absent => Vec::new(),
            Stored::Unreadable(why) => return Err(why),
            Stored::Read(saved) => saved,
        };
        let mut daemons = BTreeMap::new();
        for saved in saved {
            let daemon = saved.into_daemon().map_err(|why| format!("{}: {why}", file.display()))?;
            daemons.insert(daemon.spec.name.clone(), daemon);
        }
        Ok(Self { file, store, daemons })
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    pub(super) fn specs(&self) -> impl Iterator<Item = &VmSpec> {
        self.daemons.values().map(|daemon| &daemon.spec)
    }

    pub(super) fn holds(&self, vm: &VmName) -> bool {
        self.daemons.contains_key(vm)
    }

    /// Adds a daemon, and returns a handle that tells when the change is on the disk.
    pub(super) fn add(&mut self, daemon: &str, spec: VmSpec) -> oneshot::Receiver<io::Result<()>> {
        self.daemons.insert(spec.name.clone(), Daemon { name: daemon.to_owned(), spec });
        self.write()
    }

    /// Removes a daemon, and returns a handle that tells when the change is on the disk.
    pub(super) fn remove(&mut self, vm: &VmName) -> oneshot::Receiver<io::Result<()>> {
        self.daemons.remove(vm);
        self.write()
    }

    fn write(&self) -> oneshot::Receiver<io::Result<()>> {
        let saved: Vec<Saved> = self.daemons.values().map(Saved::of).collect();
        let content = serde_json::to_vec_pretty(&saved).expect("daemons are JSON");
        // The environment of a daemon may hold secrets.
        self.store.hand_over(Change::Replace {
            path: self.file.clone(),
            content,
            synced: true,
            private: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Restart;

    async fn open(dir: &Path) -> Daemons {
        Daemons::open(dir, Store::spawn(), false).await.expect("readable")
    }

    #[tokio::test]
    async fn what_was_spawned_is_there_for_the_next_adapter() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut spec = VmSpec::new(VmName::new("api").expect("good"), MachineSpec::qemu("/k", "/r"));
        spec.command = vec!["/usr/bin/api".into()];
        spec.env.insert("KEY".into(), "value".into());
        spec.restart.policy = Restart::UnlessStopped;
        spec.restart.never.insert(64);
        spec.stop.timeout = Duration::ZERO;
        open(dir.path()).await.add("The API", spec.clone()).await.expect("told").expect("written");
        let mut daemons = open(dir.path()).await;
        assert_eq!(daemons.specs().collect::<Vec<_>>(), [&spec]);
        daemons.remove(&spec.name).await.expect("told").expect("written");
        assert!(!open(dir.path()).await.holds(&spec.name));
    }

    #[tokio::test]
    async fn the_file_of_445d9af_is_read() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/445d9af");
        let daemons = open(&golden).await;
        let specs: Vec<&VmSpec> = daemons.specs().collect();
        let [made, plain] = specs[..] else { panic!("two: {specs:?}") };
        assert_eq!((made.name.as_str(), plain.name.as_str()), ("my-daemon-x00d568ea96ff9f01", "plain"));
        assert_eq!(made.command, ["/usr/bin/ticker", "--interval", "500"]);
        assert_eq!((made.machine.memory_mb, made.restart.policy), (128, Restart::UnlessStopped));
        assert_eq!((made.restart.max_retries, made.restart.on_give_up), (5, OnGiveUp::Escalate));
        assert_eq!(made.restart.never, BTreeSet::from([64]));
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_not_an_empty_one_and_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("daemons.json");
        for text in
            ["[{\"daemon\":", "[{\"daemon\": \"a\", \"keys\": {\"name\": \"a\", \"vcpus\": \"many\"}}]"]
        {
            std::fs::write(&file, text).expect("written");
            assert!(Daemons::open(dir.path(), Store::spawn(), true).await.is_err(), "{text}");
            assert_eq!(std::fs::read_to_string(&file).expect("there"), text);
        }
        std::fs::remove_file(&file).expect("removed");
        assert!(Daemons::open(dir.path(), Store::spawn(), true).await.is_err(), "lost, and VMs may run");
        assert!(Daemons::open(dir.path(), Store::spawn(), false).await.is_ok(), "a slot that is new");
    }
}
