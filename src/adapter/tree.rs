//! The tree behind an adapter, and the slot on disk that makes its daemons outlive the process.
//!
//! Slots are numbered directories; the lock of the journal in a slot gives the slot to one adapter at a time. A new
//! adapter takes the first free slot, and with it the daemons that a former adapter left there. The number of the slot
//! is in the name of the adapter's tree, which is claimed: adapters with different state directories share no number.

use super::daemon::DaemonStatus;
use super::daemons::Daemons;
use super::error::AdapterError;
use super::place;
use crate::claim::ClaimError;
use crate::executor::{Launcher, find};
use crate::journal::{Journal, JournalError};
use crate::observe::{EventKind, Received, VmPhase};
use crate::policy::{Ending, Exit};
use crate::ports::Ports;
use crate::spec::{GroupName, GroupSpec, Incarnation, Intensity, TreeSpec, VmName, VmSpec};
use crate::tree::{Parts, Removal, StartError, Tree};
use pepita_wire::VmState;
use pepita_wire::record::CallErrorKind;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// The number of adapters for which one state directory has room.
const SLOTS: usize = 64;

/// The name of the one group of an adapter's tree.
const GROUP: &str = "daemons";

#[derive(Debug)]
pub(super) struct AdapterTree {
    pub(super) tree: Tree,
    daemons: Mutex<Daemons>,
    ends: watch::Receiver<Ends>,
}

/// Removes a stored daemon when it is dropped.
struct Undo<'a> {
    adapter: &'a AdapterTree,
    vm: Option<&'a VmName>,
}

impl Undo<'_> {
    fn not_needed(mut self) {
        self.vm = None;
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if let Some(vm) = self.vm {
            drop(self.adapter.daemons().remove(vm));
        }
    }
}

/// The last end of each VM.
type Ends = BTreeMap<VmName, LastEnd>;

#[derive(Debug)]
struct LastEnd {
    incarnation: Incarnation,
    ending: Ending,
}

impl AdapterTree {
    /// Takes a free slot, and takes over the daemons in it.
    pub(super) async fn open(
        state_dir: &Path,
        pepita: &Path,
        run_dir: Option<PathBuf>,
    ) -> Result<Self, AdapterError> {
        let pepita = find(pepita).map_err(StartError::from)?;
        let launcher = Launcher::new(pepita.clone(), run_dir.clone());
        let claims = launcher.verify().await.map_err(StartError::from)?.run_dir.map(PathBuf::from);
        let parts = Parts::host(launcher, claims);
        let mut unreadable = Vec::new();
        place::check(state_dir)?;
        for slot in 1..=SLOTS {
            let dir = state_dir.join(slot.to_string());
            // The lock is taken first: a former adapter may still be writing.
            let journal = match Journal::open(Some(&dir)).await {
                Ok(journal) => journal,
                Err(JournalError::Locked { .. }) => continue,
                Err(e) => return Err(StartError::from(e).into()),
            };
            // Another user may have made the directory since it was checked.
            place::check(state_dir)?;
            // An adapter with another state directory may have the slot of this number, and with it the name.
            let name = format!("adapter-{slot}");
            let claim = match parts.claim(&name).await {
                Ok(claim) => claim,
                Err(ClaimError::Taken { .. }) => continue,
                Err(e) => return Err(StartError::from(e).into()),
            };
            // One writer for both: the journal waits for it before it gives its lock to the next adapter.
            let store = journal.store().expect("a journal in a directory has a writer");
            let daemons = match Daemons::open(&dir, store, !journal.remembered().is_empty()).await {
                Ok(daemons) => daemons,
                Err(why) => {
                    // The VMs of this slot run on. In a tree that does not know them they would be orphans, and be
                    // destroyed.
                    let text = format!("{why}; the daemons of this slot are left alone");
                    tracing::warn!("{text}");
                    unreadable.push(text);
                    continue;
                }
            };
            let mut spec = TreeSpec::new(&name);
            spec.pepita.clone_from(&pepita);
            spec.run_dir.clone_from(&run_dir);
            spec.state_dir = Some(dir);
            spec.groups = vec![group(daemons.specs().cloned().collect())];
            let tree =
                Tree::start_in(spec, Removal::Allowed, journal, claim, parts, Ports::default()).await?;
            for text in unreadable {
                tree.notice(text);
            }
            let ends = note_ends(&tree);
            return Ok(Self { tree, daemons: Mutex::new(daemons), ends });
        }
        Err(AdapterError::Crowded { dir: state_dir.to_owned(), places: SLOTS })
    }

    fn daemons(&self) -> MutexGuard<'_, Daemons> {
        self.daemons.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether this adapter supervises the VM.
    pub(super) fn knows(&self, vm: &VmName) -> bool {
        self.daemons().holds(vm)
    }

    /// Stores a daemon, then has it started. A daemon that is stored and does not run is started by the next adapter; a
    /// daemon that runs and is not stored would be an orphan.
    pub(super) async fn add(&self, daemon: &str, spec: VmSpec) -> Result<(), AdapterError> {
        let vm = spec.name.clone();
        let (stored, file) = {
            let mut daemons = self.daemons();
            if daemons.holds(&vm) {
                return Err(AdapterError::Taken(daemon.to_owned()));
            }
            (daemons.add(daemon, spec.clone()), daemons.file().to_owned())
        };
        // A caller that gives up before the tree was told leaves nothing stored.
        let undo = Undo { adapter: self, vm: Some(&vm) };
        let stored = stored.await.unwrap_or_else(|_| Err(std::io::Error::other("the runtime ends")));
        undo.not_needed();
        let added = match stored {
            Ok(()) => self.tree.add_vm(GROUP, spec).await.map_err(AdapterError::from),
            Err(source) => Err(AdapterError::Store { file, source }),
        };
        if added.is_err() {
            self.remove_stored(&vm).await;
        }
        added
    }

    /// Has a VM taken down and waits until it is gone.
    pub(super) async fn remove(&self, vm: &VmName) {
        let mut events = self.tree.events();
        // A VM that does not exist is gone already.
        if self.tree.remove_vm(vm.as_str()).await.is_ok() {
            while self.tree.status().vm(vm.as_str()).is_some() {
                // The status changes before the event is told, except for the last change, which has no event.
                let _ = tokio::time::timeout(Duration::from_millis(20), events.next()).await;
            }
        }
        self.remove_stored(vm).await;
    }

    async fn remove_stored(&self, vm: &VmName) {
        let removed = self.daemons().remove(vm);
        // A failure is in the log. The next adapter then starts the daemon, which its host sees.
        let _ = removed.await;
    }

    /// Returns how a VM ended last, as far as the events were read.
    pub(super) async fn last_end(&self, vm: &VmName) -> Option<Ending> {
        let status = self.tree.status();
        let down = status.vm(vm.as_str()).filter(|known| !known.phase.is_live() && known.incarnation.0 > 0);
        let mut ends = self.ends.clone();
        if let Some(known) = down {
            // The status shows an end a moment before the event with its reason is read. An end whose event was missed
            // is not waited for.
            let told = |ends: &Ends| ends.get(vm).is_some_and(|end| end.incarnation >= known.incarnation);
            let _ = tokio::time::timeout(Duration::from_secs(1), ends.wait_for(told)).await;
        }
        ends.borrow().get(vm).map(|end| end.ending.clone())
    }

    pub(super) async fn status(&self, vm: &VmName) -> Result<DaemonStatus, AdapterError> {
        let status = self.tree.status();
        let Some(known) = status.vm(vm.as_str()) else { return self.foreign_status(vm).await };
        Ok(match &known.phase {
            VmPhase::Waiting | VmPhase::Starting | VmPhase::Backoff { .. } => DaemonStatus::Starting,
            VmPhase::Running | VmPhase::Ready | VmPhase::Unhealthy | VmPhase::Unknown => {
                DaemonStatus::Running
            }
            VmPhase::Paused => DaemonStatus::Paused,
            VmPhase::Stopping => DaemonStatus::Stopping,
            VmPhase::Stopped | VmPhase::Idle { .. } | VmPhase::Completed => DaemonStatus::Stopped,
            VmPhase::Failed(_) => {
                DaemonStatus::Failed(self.last_end(vm).await.unwrap_or(Exit::Unknown.into()))
            }
        })
    }

    /// Returns the status of a VM that another adapter, or a user of the command line, has started.
    async fn foreign_status(&self, vm: &VmName) -> Result<DaemonStatus, AdapterError> {
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

/// Returns the one group of an adapter's tree, with these VMs.
fn group(vms: Vec<VmSpec>) -> GroupSpec {
    let mut group = GroupSpec::new(GroupName::new(GROUP).expect("a good name"), vms);
    // The daemons do not depend on each other: the backoff of a daemon that fails again and again delays that daemon
    // alone, and no failure takes the other daemons down.
    group.intensity = Intensity { max_restarts: u32::MAX, ..group.intensity };
    group
}

/// Records how each daemon ended last, as long as the tree lives.
fn note_ends(tree: &Tree) -> watch::Receiver<Ends> {
    // The first reader of a tree also gets the events about VMs that were found at the start.
    let mut events = tree.events();
    let (sender, ends) = watch::channel(Ends::new());
    tokio::spawn(async move {
        while let Some(received) = events.next().await {
            if let Received::Event(event) = received
                && let EventKind::Vm(change) = event.kind
                && let (Some(ending), false) = (change.ending, change.to.is_live())
            {
                let end = LastEnd { incarnation: change.incarnation, ending };
                sender.send_modify(|ends| drop(ends.insert(change.vm, end)));
            }
        }
    });
    ends
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::os::unix::fs::PermissionsExt;

    /// A launcher that lists one VM of the first slot's adapter as running, and keeps a list of its calls.
    const LAUNCHER: &str = r#"#!/bin/sh
echo "$1" >> "$(dirname "$0")/calls"
case "$1" in
--version) echo '{"name": "pepita-launcher", "version": "0", "contract": CONTRACT, "additions": ADDITIONS,
  "run_dir": "RUN_DIR"}' ;;
list) echo '[{"name": "duende-vm-a", "state": "running", "incarnation": 1,
  "labels": {"pepita-supervisor.owner": "adapter-1"}}]' ;;
*) exit 1 ;;
esac
"#;

    /// Writes the launcher into a directory.
    fn launcher(dir: &Path) -> PathBuf {
        let launcher = dir.join("pepita");
        let text = LAUNCHER
            .replace("CONTRACT", &pepita_wire::CLI_VERSION.to_string())
            .replace("ADDITIONS", &pepita_wire::CLI_ADDITIONS.to_string())
            .replace("RUN_DIR", &dir.join("run").to_string_lossy());
        std::fs::write(&launcher, text).expect("written");
        std::fs::set_permissions(&launcher, std::fs::Permissions::from_mode(0o755)).expect("executable");
        launcher
    }

    fn calls(dir: &Path) -> BTreeSet<String> {
        let calls = std::fs::read_to_string(dir.join("calls")).expect("called");
        calls.lines().map(str::to_owned).collect()
    }

    // semantics 9.13, 9.6
    #[tokio::test]
    async fn adapters_with_different_state_directories_end_no_daemons_of_each_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let launcher = launcher(dir.path());
        let open = |state: &str| {
            let (state, launcher) = (dir.path().join(state), launcher.clone());
            async move { AdapterTree::open(&state, &launcher, None).await.expect("a slot is free") }
        };
        let (first, second) = (open("x").await, open("y").await);
        assert_eq!((first.tree.name(), second.tree.name()), ("adapter-1", "adapter-2"));
        first.tree.leave().await;
        // The daemons of the first one run on, and have the mark that the next one has, too.
        let third = open("z").await;
        assert_eq!(third.tree.name(), "adapter-1");
        third.tree.leave().await;
        second.tree.leave().await;
        assert_eq!(calls(dir.path()), BTreeSet::from(["--version".into(), "list".into()]));
    }

    #[tokio::test]
    async fn daemons_whose_file_cannot_be_read_are_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let (state, launcher) = (dir.path().join("state"), launcher(dir.path()));
        std::fs::create_dir_all(state.join("1")).expect("made");
        let file = state.join("1/daemons.json");
        std::fs::write(&file, "[{\"daemon\": \"a\"").expect("written");
        let adapter = AdapterTree::open(&state, &launcher, None).await.expect("another slot is free");
        assert_eq!(adapter.tree.name(), "adapter-2");
        adapter.tree.leave().await;
        assert_eq!(
            calls(dir.path()),
            BTreeSet::from(["--version".into(), "list".into()]),
            "nothing was destroyed"
        );
        assert_eq!(std::fs::read_to_string(&file).expect("kept"), "[{\"daemon\": \"a\"");
    }
}
