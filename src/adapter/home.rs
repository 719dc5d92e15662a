//! The tree behind an adapter, and the place on disk that makes its daemons outlive the process.
//!
//! Places are numbered; each is one adapter's at a time, by the lock of its journal. A new adapter takes the first that
//! is free, and with it the daemons that a former one left there.

use super::daemon::DaemonStatus;
use super::error::AdapterError;
use super::store::Store;
use crate::executor::find;
use crate::journal::JournalError;
use crate::observe::{EventKind, Received, VmPhase};
use crate::policy::{Ending, Exit};
use crate::spec::{GroupName, GroupSpec, Incarnation, Intensity, TreeSpec, VmName, VmSpec};
use crate::tree::{StartError, Tree};
use pepita_wire::VmState;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Adapters at once in one state directory.
const PLACES: usize = 64;

/// The one group of an adapter's tree: its daemons share no fate.
const GROUP: &str = "daemons";

/// Where adapters keep their state unless told otherwise. What it holds is worth nothing after a reboot of the host.
pub(super) fn default_state_dir() -> PathBuf {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        PathBuf::from("/run/pepita-adapter")
    } else {
        PathBuf::from(format!("/tmp/pepita-adapter-{}", uid.as_raw()))
    }
}

#[derive(Debug)]
pub(super) struct Home {
    pub(super) tree: Tree,
    store: Mutex<Store>,
    ends: watch::Receiver<Ends>,
}

/// How each VM ended last, and which incarnation of it that was.
type Ends = BTreeMap<VmName, (Incarnation, Ending)>;

impl Home {
    /// Takes a place, and over what is in it.
    pub(super) async fn open(
        state_dir: &Path,
        pepita: &Path,
        run_dir: Option<PathBuf>,
    ) -> Result<Self, AdapterError> {
        let pepita = find(pepita).map_err(StartError::from)?;
        for place in 1..=PLACES {
            let dir = state_dir.join(place.to_string());
            let store = Store::open(&dir);
            let name = GroupName::new(GROUP).expect("a good name");
            let vms: Vec<VmSpec> = store.specs().cloned().collect();
            let mut group = GroupSpec::new(name, vms);
            // A daemon that fails again and again is its own affair: its backoff holds it back, nothing takes the others down.
            group.intensity = Intensity { max_restarts: u32::MAX, ..group.intensity };
            let mut spec = TreeSpec::new(&format!("adapter-{place}"));
            spec.pepita.clone_from(&pepita);
            spec.run_dir.clone_from(&run_dir);
            spec.state_dir = Some(dir);
            spec.groups = vec![group];
            let tree = match Tree::start(spec).await {
                Ok(tree) => tree,
                // Another adapter's.
                Err(StartError::Journal(JournalError::Locked { .. })) => continue,
                Err(e) => return Err(e.into()),
            };
            let ends = note_ends(&tree);
            return Ok(Self { tree, store: Mutex::new(store), ends });
        }
        Err(AdapterError::Crowded { dir: state_dir.to_owned(), places: PLACES })
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The VM is supervised by this adapter.
    pub(super) fn knows(&self, vm: &VmName) -> bool {
        self.store().holds(vm)
    }

    /// Writes a daemon down, then has it started.
    pub(super) async fn add(&self, daemon: &str, spec: VmSpec) -> Result<(), AdapterError> {
        let vm = spec.name.clone();
        {
            let mut store = self.store();
            if store.holds(&vm) {
                return Err(AdapterError::Taken(daemon.to_owned()));
            }
            let written = store.add(daemon, spec.clone());
            written.map_err(|source| AdapterError::Store { file: store.file().to_owned(), source })?;
        }
        match self.tree.add_vm(GROUP, spec).await {
            Ok(()) => Ok(()),
            Err(e) => {
                self.forget(&vm);
                Err(e.into())
            }
        }
    }

    /// Has a VM taken down and waits until it is gone.
    pub(super) async fn remove(&self, vm: &VmName) {
        let mut events = self.tree.events();
        // One that is not there is gone already.
        if self.tree.remove_vm(vm.as_str()).await.is_ok() {
            while self.tree.status().vm(vm.as_str()).is_some() {
                // The board changes before the event is told, except for the last change, which has none.
                let _ = tokio::time::timeout(Duration::from_millis(20), events.next()).await;
            }
        }
        self.forget(vm);
    }

    fn forget(&self, vm: &VmName) {
        let mut store = self.store();
        if let Err(e) = store.remove(vm) {
            tracing::error!("{}: {e}", store.file().display());
        }
    }

    /// How a VM ended last, as far as was seen.
    pub(super) async fn last_end(&self, vm: &VmName) -> Option<Ending> {
        let status = self.tree.status();
        let down = status.vm(vm.as_str()).filter(|known| !known.phase.is_live() && known.incarnation.0 > 0);
        let mut ends = self.ends.clone();
        if let Some(known) = down {
            // The status shows an end a moment before the event that says why is read. One whose event was missed is
            // not waited for.
            let told = |ends: &Ends| ends.get(vm).is_some_and(|(ended, _)| *ended >= known.incarnation);
            let _ = tokio::time::timeout(Duration::from_secs(1), ends.wait_for(told)).await;
        }
        ends.borrow().get(vm).map(|(_, ending)| ending.clone())
    }

    pub(super) async fn status(&self, vm: &VmName) -> Result<DaemonStatus, AdapterError> {
        let status = self.tree.status();
        let Some(known) = status.vm(vm.as_str()) else { return self.foreign_status(vm).await };
        Ok(match &known.phase {
            VmPhase::Waiting | VmPhase::Starting | VmPhase::Backoff { .. } => DaemonStatus::Starting,
            VmPhase::Running | VmPhase::Ready | VmPhase::Unhealthy => DaemonStatus::Running,
            VmPhase::Paused => DaemonStatus::Paused,
            VmPhase::Stopping => DaemonStatus::Stopping,
            VmPhase::Stopped | VmPhase::Completed => DaemonStatus::Stopped,
            VmPhase::Failed { .. } => {
                DaemonStatus::Failed(self.last_end(vm).await.unwrap_or(Exit::Unknown.into()))
            }
        })
    }

    /// Of a VM that another adapter, or somebody at a terminal, has started.
    async fn foreign_status(&self, vm: &VmName) -> Result<DaemonStatus, AdapterError> {
        use pepita_wire::record::CallErrorKind;
        let record = match self.tree.runner().status_of_any(vm).await {
            Ok(record) => record,
            Err(e) if e.kind() == Some(CallErrorKind::NoSuchVm) => return Ok(DaemonStatus::Stopped),
            Err(e) => return Err(e.into()),
        };
        Ok(match record.state {
            VmState::Created | VmState::Starting => DaemonStatus::Starting,
            VmState::Running | VmState::Unknown => DaemonStatus::Running,
            VmState::Paused => DaemonStatus::Paused,
            VmState::Stopping => DaemonStatus::Stopping,
            VmState::Stopped => DaemonStatus::Stopped,
            VmState::Failed => DaemonStatus::Failed(record.exit.clone().unwrap_or_default().into()),
        })
    }
}

/// Keeps how each daemon ended last, as long as the tree lives.
fn note_ends(tree: &Tree) -> watch::Receiver<Ends> {
    // The first reader: it hears of what was found at the start, too.
    let mut events = tree.events();
    let (sender, ends) = watch::channel(Ends::new());
    tokio::spawn(async move {
        while let Some(received) = events.next().await {
            if let Received::Event(event) = received
                && let EventKind::Vm(change) = event.kind
                && let (Some(ending), false) = (change.ending, change.to.is_live())
            {
                sender.send_modify(|ends| drop(ends.insert(change.vm, (change.incarnation, ending))));
            }
        }
    });
    ends
}
