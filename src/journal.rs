//! What outlives the supervisor: desired state and counters of each VM, and the claim that there is one supervisor.
//!
//! One small JSON file a VM, replaced atomically. What the operator said is synced to the disk; counters are not,
//! because what loses unsynced writes (a power cut) ends the VMs as well.

mod remembered;

pub use remembered::{Remembered, Wanted};

use crate::spec::{Cid, Incarnation, VmName};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// What is kept of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The launcher's name for it.
    pub vm_id: String,
    /// The newest incarnation.
    pub incarnation: u64,
    /// It is to be up.
    pub wanted: bool,
    /// Consecutive failures.
    pub attempts: u32,
    /// It had ended cleanly and was not to be restarted.
    pub completed: bool,
    /// Its CID, while it holds one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cid: Option<u32>,
    /// The fingerprint of the configuration it was last started with.
    pub config: String,
    /// The newest incarnation whose end was taken in: its exit record is no news.
    #[serde(default)]
    pub ended: u64,
    /// Why it had given up. Not on the disk: a new run of the supervisor tries again.
    #[serde(skip)]
    pub failed: Option<String>,
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another supervisor works on it.
    #[error("{} is in use by another supervisor{}", .dir.display(), .pid.map(|p| format!(" (pid {p})")).unwrap_or_default())]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// Who.
        pid: Option<u32>,
    },
    /// Reading or writing failed.
    #[error("{}: {source}", .path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The journal. Clones are the same one. Without a directory it lives as long as the tree: enough for an actor that
/// fails, not for a supervisor that does.
#[derive(Debug, Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: Option<PathBuf>,
    entries: Mutex<BTreeMap<VmName, Entry>>,
    /// The last incarnations of VMs that were forgotten: should one come back, its numbers go on.
    retired: Mutex<BTreeMap<VmName, Incarnation>>,
    /// Held until it is closed.
    lock: Mutex<Option<File>>,
}

impl Journal {
    /// Opens the journal in a directory, which is made if need be, and takes its lock.
    ///
    /// # Errors
    /// When another supervisor has the lock, or the directory cannot be used. A file that cannot be read is told in the
    /// log and taken as absent: the VM is then known by the launcher's list alone.
    pub fn open(dir: Option<&Path>) -> Result<Self, JournalError> {
        let Some(dir) = dir else {
            let inner = Inner {
                dir: None,
                entries: Mutex::default(),
                retired: Mutex::default(),
                lock: Mutex::default(),
            };
            return Ok(Self { inner: Arc::new(inner) });
        };
        let fail = |path: &Path, source| JournalError::Io { path: path.to_owned(), source };
        let vms = dir.join("vms");
        std::fs::create_dir_all(&vms).map_err(|e| fail(&vms, e))?;
        let lock = lock(dir)?;
        let mut entries = BTreeMap::new();
        for file in std::fs::read_dir(&vms).map_err(|e| fail(&vms, e))? {
            let path = file.map_err(|e| fail(&vms, e))?.path();
            let name = path.file_stem().and_then(|s| s.to_str()).and_then(|s| VmName::new(s).ok());
            let (Some(name), true) = (name, path.extension().is_some_and(|e| e == "json")) else { continue };
            match std::fs::read(&path).map(|bytes| serde_json::from_slice::<Entry>(&bytes)) {
                Ok(Ok(entry)) => drop(entries.insert(name, entry)),
                Ok(Err(e)) => tracing::warn!("{}: not readable, ignored: {e}", path.display()),
                Err(e) => tracing::warn!("{}: {e}, ignored", path.display()),
            }
        }
        let inner = Inner {
            dir: Some(vms),
            entries: Mutex::new(entries),
            retired: Mutex::default(),
            lock: Mutex::new(Some(lock)),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What is known of all VMs, for a group that starts.
    pub fn remembered(&self) -> BTreeMap<VmName, Remembered> {
        let remembered = |entry: &Entry| Remembered {
            incarnation: Incarnation(entry.incarnation),
            wanted: if entry.wanted { Wanted::Up } else { Wanted::Down },
            attempts: entry.attempts,
            completed: entry.completed,
            failed: entry.failed.clone(),
        };
        self.entries().iter().map(|(vm, entry)| (vm.clone(), remembered(entry))).collect()
    }

    /// The CIDs that VMs held.
    pub fn cids(&self) -> Vec<(VmName, Cid)> {
        let cid = |entry: &Entry| Cid::new(entry.cid?).ok();
        self.entries().iter().filter_map(|(vm, entry)| Some((vm.clone(), cid(entry)?))).collect()
    }

    /// The newest incarnation of a VM whose end was taken in.
    pub fn ended(&self, vm: &VmName) -> Incarnation {
        Incarnation(self.entries().get(vm).map_or(0, |entry| entry.ended))
    }

    /// The last incarnation of a VM that this run has forgotten; 0 of any other.
    pub fn retired(&self, vm: &VmName) -> Incarnation {
        let retired = self.inner.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.get(vm).copied().unwrap_or_default()
    }

    /// Writes down what is to be remembered of a VM. `config` is the fingerprint of the configuration that it was, or is
    /// about to be, started with; `None` if it runs with the one that is written down already.
    pub fn save(&self, vm: &VmName, remembered: &Remembered, config: Option<&str>) {
        let mut entries = self.entries();
        let former = entries.get(vm);
        let config = config.or(former.map(|entry| entry.config.as_str())).unwrap_or_default().to_owned();
        let entry = Entry {
            vm_id: vm.id().to_string(),
            incarnation: remembered.incarnation.0,
            wanted: remembered.wanted == Wanted::Up,
            attempts: remembered.attempts,
            completed: remembered.completed,
            cid: former.and_then(|entry| entry.cid),
            config,
            ended: former.map_or(0, |entry| entry.ended),
            failed: remembered.failed.clone(),
        };
        let said_anew = former.is_none_or(|former| former.wanted != entry.wanted);
        if former != Some(&entry) {
            self.write(vm, &entry, said_anew);
            entries.insert(vm.clone(), entry);
        }
    }

    /// Writes down which CID a VM holds.
    pub fn save_cid(&self, vm: &VmName, cid: Option<Cid>) {
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(vm)
            && entry.cid != cid.map(Cid::get)
        {
            entry.cid = cid.map(Cid::get);
            self.write(vm, entry, false);
        }
    }

    /// Writes down that the end of an incarnation was taken in.
    pub fn save_end(&self, vm: &VmName, incarnation: Incarnation) {
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(vm)
            && entry.ended < incarnation.0
        {
            entry.ended = incarnation.0;
            self.write(vm, entry, false);
        }
    }

    /// Gives the lock back: the next supervisor may take it, and nothing is written any more. Actors that are still on
    /// their way out hold clones, so that dropping one would not do.
    pub fn close(&self) {
        let _entries = self.entries();
        *self.lock() = None;
    }

    /// Forgets a VM that is no longer in the configuration.
    pub fn forget(&self, vm: &VmName) {
        let mut entries = self.entries();
        if let Some(entry) = entries.remove(vm) {
            let mut retired = self.inner.retired.lock().unwrap_or_else(PoisonError::into_inner);
            retired.insert(vm.clone(), Incarnation(entry.incarnation));
        }
        if let Some(dir) = self.dir() {
            let path = file(dir, vm);
            if let Err(e) = std::fs::remove_file(&path)
                && e.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!("{}: cannot be removed: {e}", path.display());
            }
        }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<VmName, Entry>> {
        self.inner.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<File>> {
        self.inner.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where to write, while we may.
    fn dir(&self) -> Option<&Path> {
        self.inner.dir.as_deref().filter(|_| self.lock().is_some())
    }

    /// A disk that is full does not stop the supervision: the loss is told, and adoption will know less.
    fn write(&self, vm: &VmName, entry: &Entry, sync: bool) {
        let Some(dir) = self.dir() else { return };
        let path = file(dir, vm);
        if let Err(e) = replace(&path, entry, sync) {
            tracing::error!("{}: cannot be written: {e}", path.display());
        }
    }
}

fn file(dir: &Path, vm: &VmName) -> PathBuf {
    dir.join(format!("{vm}.json"))
}

fn replace(path: &Path, entry: &Entry, sync: bool) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(serde_json::to_string_pretty(entry)?.as_bytes())?;
    if sync {
        file.sync_all()?;
    }
    std::fs::rename(&temporary, path)
}

fn lock(dir: &Path) -> Result<File, JournalError> {
    let path = dir.join("lock");
    let fail = |source| JournalError::Io { path: path.clone(), source };
    let mut options = File::options();
    let mut file = options.create(true).truncate(false).read(true).write(true).open(&path).map_err(fail)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            let written =
                file.set_len(0).and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
            written.map_err(fail)?;
            Ok(file)
        }
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let pid = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
            Err(JournalError::Locked { dir: dir.to_owned(), pid })
        }
        Err(e) => Err(fail(e.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remembered(incarnation: u64, wanted: Wanted) -> Remembered {
        Remembered {
            incarnation: Incarnation(incarnation),
            wanted,
            attempts: 2,
            completed: false,
            failed: None,
        }
    }

    #[test]
    fn what_was_saved_is_there_for_the_next_run_and_a_torn_file_harms_no_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let (api, db) = (VmName::new("api").expect("good"), VmName::new("db").expect("good"));
        {
            let journal = Journal::open(Some(dir.path())).expect("opens");
            journal.save(&api, &remembered(7, Wanted::Down), Some("abc"));
            journal.save(&db, &remembered(1, Wanted::Up), Some("def"));
            journal.save_cid(&api, Cid::new(42).ok());
        }
        std::fs::write(dir.path().join("vms/db.json"), "{\"vm_id\":").expect("written");
        let journal = Journal::open(Some(dir.path())).expect("opens");
        assert_eq!(journal.remembered(), BTreeMap::from([(api.clone(), remembered(7, Wanted::Down))]));
        assert_eq!(journal.cids(), [(api, Cid::new(42).expect("good"))]);
    }

    #[test]
    fn two_supervisors_do_not_share_a_journal() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = Journal::open(Some(dir.path())).expect("opens");
        let error = Journal::open(Some(dir.path())).expect_err("locked");
        assert!(matches!(error, JournalError::Locked { pid: Some(pid), .. } if pid == std::process::id()));
        drop(first);
        assert!(Journal::open(Some(dir.path())).is_ok());
    }
}
