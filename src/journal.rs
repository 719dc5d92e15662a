//! The state that outlives the supervisor: the desired state and the counters of each VM, and the lock that admits one
//! supervisor.
//!
//! Each VM has one small JSON file. A file that holds the word of an operator is synced to the disk, each time that it is
//! written: an unsynced write would put the word at risk again. The counters of other VMs are not synced, because an
//! event that loses unsynced writes (a power cut) ends the VMs as well.
//!
//! A directory that cannot be written, at the start or later, stops no supervision. [`Journal::trouble`] says so, and all
//! is written when the disk takes it.
//!
//! A reader sees at once the values that were saved; the disk follows. A step that needs the values on the disk waits
//! for [`Journal::written`]: an incarnation is written before it is launched, because a supervisor that is killed in
//! between would give its number to another one.

pub(crate) mod entry;
mod remembered;

pub use remembered::{Remembered, Wanted};

use crate::lock::{self, Holder};
use crate::spec::{Cid, Incarnation, VmName};
use crate::store::{self, Change, Store, Written};
use entry::Entry;
use pepita_wire::Stored;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// The time that the disk has to answer when the journal is opened.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// The time that the disk has to take the process id for the reader of the lock file.
const PID_LIMIT: Duration = Duration::from_secs(2);

/// The reason why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process holds the lock of the journal, most often another supervisor.
    #[error("{} is in use by another supervisor{}", .dir.display(), holder(*.pid))]
    Locked {
        /// The directory of the journal.
        dir: PathBuf,
        /// The process of the other supervisor, if it is known.
        pid: Option<u32>,
    },
    /// Reading or writing failed.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

/// A file of the journal that could not be read, and was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable {
    /// The VM that the file belongs to.
    pub(crate) vm: VmName,
    /// The reason why the file cannot be read.
    pub(crate) why: String,
    /// The present place of the file.
    pub(crate) aside: PathBuf,
}

/// The journal. All clones are one journal. Without a directory it lives as long as the tree: enough for an actor that
/// fails, not for a supervisor that does.
#[derive(Debug, Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    entries: Mutex<BTreeMap<VmName, Entry>>,
    /// The last incarnations of VMs that were removed: should such a VM come back, its numbers go on.
    retired: Mutex<BTreeMap<VmName, Incarnation>>,
    unreadable: Vec<Unreadable>,
    /// The directory of the run directories in which this supervisor starts VMs, when it is known.
    run_dir: OnceLock<PathBuf>,
    disk: Option<Disk>,
}

#[derive(Debug)]
struct Disk {
    /// The directory of the VMs' files.
    vms: PathBuf,
    store: Store,
    /// The lock, which is held until the journal is closed.
    lock: Mutex<Option<File>>,
    trouble: watch::Receiver<Option<String>>,
}

/// The content of the directory of a journal.
#[derive(Debug)]
struct Contents {
    /// `None` when no lock file can be made, because the disk takes nothing.
    lock: Option<File>,
    vms: PathBuf,
    entries: BTreeMap<VmName, Entry>,
    unreadable: Vec<Unreadable>,
}

impl Journal {
    /// Opens the journal in a directory, which is made if necessary, and takes its lock.
    ///
    /// A file that cannot be read is set aside: the VM is then known from the launcher's list alone. See
    /// [`Journal::unreadable`].
    ///
    /// A directory that cannot be made or written because the disk is full, read-only or broken is no error: the journal
    /// writes as soon as the disk takes it, see [`Journal::trouble`].
    ///
    /// # Errors
    /// Returns an error when another supervisor has the lock, when the directory may not be used or the disk does not
    /// answer, or when a file that cannot be read cannot be set aside either: the next write would destroy it.
    pub async fn open(dir: Option<&Path>) -> Result<Self, JournalError> {
        let Some(dir) = dir.map(Path::to_owned) else {
            return Ok(Self::with(BTreeMap::new(), Vec::new(), None));
        };
        let path = dir.clone();
        let fail = |source| JournalError::Io { path: path.clone(), source };
        let read = tokio::task::spawn_blocking(move || Contents::read(&dir));
        let read = tokio::time::timeout(OPEN_LIMIT, read).await;
        let silent = |_| fail(io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer"));
        let contents = read.map_err(silent)?.unwrap_or_else(|e| Err(fail(io::Error::other(e))))?;
        let Contents { lock, vms, entries, unreadable } = contents;
        if let Some(lock) = lock.as_ref().and_then(|lock| lock.try_clone().ok()) {
            // Only people read the process id: a disk that is full or hangs need not take it.
            let write = tokio::task::spawn_blocking(move || write_pid(lock));
            let _ = tokio::time::timeout(PID_LIMIT, write).await;
        }
        let store = Store::spawn();
        if !vms.is_dir() {
            drop(store.hand_over(Change::Folder { path: vms.clone() }));
        }
        let trouble = store.trouble();
        let disk = Disk { vms, trouble: trouble.clone(), store, lock: Mutex::new(lock) };
        let journal = Self::with(entries, unreadable, Some(disk));
        tokio::spawn(keep_whole(Arc::downgrade(&journal.inner), trouble));
        Ok(journal)
    }

    fn with(entries: BTreeMap<VmName, Entry>, unreadable: Vec<Unreadable>, disk: Option<Disk>) -> Self {
        let (entries, retired, run_dir) = (Mutex::new(entries), Mutex::default(), OnceLock::new());
        Self { inner: Arc::new(Inner { entries, retired, unreadable, run_dir, disk }) }
    }

    /// Sets the directory of the run directories in which VMs are started from now on. The first call counts.
    pub(crate) fn set_run_dir(&self, run_dir: PathBuf) {
        let _ = self.inner.run_dir.set(run_dir);
    }

    /// Returns the VMs that were last started in other directories of run directories than `run_dir`, by directory.
    pub(crate) fn elsewhere(&self, run_dir: &Path) -> BTreeMap<PathBuf, Vec<VmName>> {
        let mut places: BTreeMap<PathBuf, Vec<VmName>> = BTreeMap::new();
        for (vm, entry) in self.entries().iter() {
            if let Some(place) = entry.run_dir.as_ref().filter(|place| *place != run_dir) {
                places.entry(place.clone()).or_default().push(vm.clone());
            }
        }
        places
    }

    /// Returns the writer of the journal; `None` when the journal lives in memory only.
    pub(crate) fn store(&self) -> Option<Store> {
        self.inner.disk.as_ref().map(|disk| disk.store.clone())
    }

    /// Returns the files that could not be read when the journal was opened.
    pub(crate) fn unreadable(&self) -> &[Unreadable] {
        &self.inner.unreadable
    }

    /// Returns the state of all VMs that is known.
    pub fn remembered(&self) -> BTreeMap<VmName, Remembered> {
        self.entries().iter().map(|(vm, entry)| (vm.clone(), entry.remembered())).collect()
    }

    /// Returns the state that is known of these VMs, for their group when it starts. A tree has many groups, so none of them looks
    /// at the VMs of all others.
    pub fn remembered_of<'v>(
        &self,
        vms: impl IntoIterator<Item = &'v VmName>,
    ) -> BTreeMap<VmName, Remembered> {
        let entries = self.entries();
        let known = |vm: &VmName| Some((vm.clone(), entries.get(vm)?.remembered()));
        vms.into_iter().filter_map(known).collect()
    }

    /// Returns the CIDs that VMs held.
    pub fn cids(&self) -> Vec<(VmName, Cid)> {
        self.entries().iter().filter_map(|(vm, entry)| Some((vm.clone(), entry.cid()?))).collect()
    }

    /// Returns the CID that a VM held.
    pub fn cid(&self, vm: &VmName) -> Option<Cid> {
        self.entries().get(vm)?.cid()
    }

    /// Returns the newest incarnation of a VM whose end was recorded.
    pub fn ended(&self, vm: &VmName) -> Incarnation {
        Incarnation(self.entries().get(vm).map_or(0, |entry| entry.ended))
    }

    /// Returns the newest incarnation of a VM that is known, also of one that this run has removed; 0 for any other VM.
    pub fn newest(&self, vm: &VmName) -> Incarnation {
        let present = self.entries().get(vm).map_or(0, |entry| entry.incarnation);
        let retired = self.inner.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.get(vm).copied().unwrap_or_default().max(Incarnation(present))
    }

    /// Returns the reason why some of the state is not saved; `None` in the receiver while all is. Without a directory
    /// there is no such reason.
    pub fn trouble(&self) -> Option<watch::Receiver<Option<String>>> {
        self.inner.disk.as_ref().map(|disk| disk.trouble.clone())
    }

    /// Returns the reason why the newest state of a VM is not saved; `None` when it is.
    pub fn unsaved(&self, vm: &VmName) -> Option<String> {
        self.inner.disk.as_ref().and_then(|disk| disk.store.unsaved(&disk.file(vm)))
    }

    /// Saves the state of a VM. `config` is the fingerprint of the configuration that the VM was, or is about to be,
    /// started with; `None` if the saved fingerprint still holds.
    pub fn save(&self, vm: &VmName, remembered: &Remembered, config: Option<&str>) {
        let mut entries = self.entries();
        let former = entries.get(vm);
        let wanted = remembered.wanted == Wanted::Up;
        let config = config.or(former.map(|entry| entry.config.as_str())).unwrap_or_default().to_owned();
        let entry = Entry {
            vm_id: vm.id().to_string(),
            incarnation: remembered.incarnation.0,
            wanted,
            said: Entry::is_said(wanted, former),
            attempts: remembered.attempts,
            has_run: remembered.has_run,
            completed: remembered.completed,
            idle: remembered.idle,
            cid: former.and_then(|entry| entry.cid),
            run_dir: self.inner.run_dir.get().cloned().or_else(|| former?.run_dir.clone()),
            config,
            ended: former.map_or(0, |entry| entry.ended),
            failed: remembered.failed.clone(),
        };
        if former != Some(&entry) {
            self.write(vm, &entry);
            entries.insert(vm.clone(), entry);
        }
    }

    /// Saves which CID a VM holds.
    pub fn save_cid(&self, vm: &VmName, cid: Option<Cid>) {
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(vm)
            && entry.cid != cid.map(Cid::get)
        {
            entry.cid = cid.map(Cid::get);
            self.write(vm, entry);
        }
    }

    /// Saves that the end of an incarnation was recorded.
    pub fn save_end(&self, vm: &VmName, incarnation: Incarnation) {
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(vm)
            && entry.ended < incarnation.0
        {
            entry.ended = incarnation.0;
            self.write(vm, entry);
        }
    }

    /// Removes a VM that is no longer in the configuration.
    pub fn remove(&self, vm: &VmName) {
        let mut entries = self.entries();
        if let Some(entry) = entries.remove(vm) {
            let mut retired = self.inner.retired.lock().unwrap_or_else(PoisonError::into_inner);
            let newest = retired.entry(vm.clone()).or_default();
            *newest = (*newest).max(Incarnation(entry.incarnation));
        }
        if let Some(disk) = &self.inner.disk {
            drop(disk.store.hand_over(Change::Remove { path: disk.file(vm) }));
        }
    }

    /// Returns the moment at which all that was saved so far is on the disk.
    pub fn written(&self) -> Written {
        self.inner.disk.as_ref().map_or_else(Written::already, |disk| disk.store.written())
    }

    /// Writes the pending changes, and gives the lock back: the next supervisor may take it, and this supervisor writes
    /// no more. Actors that have not ended yet hold clones, so that dropping the journal would not do.
    pub async fn close(&self) {
        if let Some(disk) = &self.inner.disk {
            disk.store.close().await;
            *disk.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// Writes all that is known once more, if the directory of the files is gone: with it went also the files of VMs that
    /// have not changed since, and all is to be saved when the directory is there again.
    async fn replace_lost(&self) {
        let Some(disk) = &self.inner.disk else { return };
        let vms = disk.vms.clone();
        let is_there = tokio::task::spawn_blocking(move || vms.is_dir()).await;
        if !is_there.unwrap_or(true) {
            self.entries().iter().for_each(|(vm, entry)| self.write(vm, entry));
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<VmName, Entry>> {
        self.inner.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called with the entries locked, so that the files change in the order of the entries.
    fn write(&self, vm: &VmName, entry: &Entry) {
        let Some(disk) = &self.inner.disk else { return };
        let content = serde_json::to_vec_pretty(entry).expect("an entry is JSON");
        drop(disk.store.hand_over(Change::Replace {
            path: disk.file(vm),
            content,
            synced: entry.said,
            private: false,
        }));
    }
}

/// Looks at each beginning of trouble whether files were lost, until the journal is gone.
async fn keep_whole(journal: Weak<Inner>, mut trouble: watch::Receiver<Option<String>>) {
    while trouble.changed().await.is_ok() {
        if trouble.borrow_and_update().is_none() {
            continue;
        }
        let Some(inner) = journal.upgrade() else { return };
        Journal { inner }.replace_lost().await;
    }
}

impl Disk {
    fn file(&self, vm: &VmName) -> PathBuf {
        self.vms.join(format!("{vm}.json"))
    }
}

impl Contents {
    /// Takes the lock, then reads: before the lock another supervisor may be writing.
    fn read(dir: &Path) -> Result<Self, JournalError> {
        let fail = |path: &Path, source| JournalError::Io { path: path.to_owned(), source };
        let vms = dir.join("vms");
        if let Err(e) = store::make_folder(&vms)
            && !takes_nothing(&e)
        {
            return Err(fail(&vms, e));
        }
        let lock = lock(dir)?;
        let (mut entries, mut unreadable) = (BTreeMap::new(), Vec::new());
        let files = match std::fs::read_dir(&vms) {
            Ok(files) => files,
            // The disk takes no folder: there is nothing to read either.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { lock, vms, entries, unreadable });
            }
            Err(e) => return Err(fail(&vms, e)),
        };
        for file in files {
            let path = file.map_err(|e| fail(&vms, e))?.path();
            let name = path.file_stem().and_then(|s| s.to_str()).and_then(|s| VmName::new(s).ok());
            let (Some(vm), true) = (name, path.extension().is_some_and(|e| e == "json")) else { continue };
            match store::read::<Entry>(&path) {
                Stored::Read(mut entry) => {
                    // An older program did not write who had decided it.
                    entry.said |= !entry.wanted;
                    entries.insert(vm, entry);
                }
                Stored::Absent => {}
                Stored::Unreadable(why) => {
                    let aside = store::set_aside(&path).map_err(|e| fail(&path, e))?;
                    tracing::warn!("{why}; kept as {}", aside.display());
                    unreadable.push(Unreadable { vm, why, aside });
                }
            }
        }
        Ok(Self { lock, vms, entries, unreadable })
    }
}

/// Returns whether an error says that the disk is full, read-only or broken: that may pass, and is no reason to leave
/// VMs unsupervised.
fn takes_nothing(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
        || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// Takes the lock of a journal. Returns `None` when the disk takes no lock file.
fn lock(dir: &Path) -> Result<Option<File>, JournalError> {
    let path = dir.join("lock");
    let fail = |source| JournalError::Io { path: path.clone(), source };
    let file = match lock::open_lock(&path) {
        Ok(file) => file,
        Err(e) if takes_nothing(&e) => return Ok(None),
        // The folder could not be made.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fail(e)),
    };
    if lock::try_lock(&file).map_err(fail)? {
        return Ok(Some(file));
    }
    let written = || std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
    let pid = lock::holder(&file).map(|Holder { pid, .. }| pid).or_else(written);
    Err(JournalError::Locked { dir: dir.to_owned(), pid })
}

fn write_pid(mut lock: File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.write_all(std::process::id().to_string().as_bytes())
}

/// Returns the process that holds the lock, in words.
fn holder(pid: Option<u32>) -> String {
    let Some(pid) = pid else { return String::new() };
    let program = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!(" ({})", Holder { pid, program: program.trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(name: &str) -> VmName {
        VmName::new(name).expect("a good name")
    }

    fn remembered(incarnation: u64, wanted: Wanted) -> Remembered {
        Remembered {
            incarnation: Incarnation(incarnation),
            wanted,
            attempts: 2,
            has_run: true,
            completed: false,
            idle: false,
            failed: None,
        }
    }

    async fn open(dir: &Path) -> Journal {
        Journal::open(Some(dir)).await.expect("opens")
    }

    #[tokio::test]
    async fn what_was_saved_is_there_for_the_next_run_and_a_torn_file_harms_no_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let (api, db) = (vm("api"), vm("db"));
        let journal = open(dir.path()).await;
        journal.save(&api, &remembered(7, Wanted::Down), Some("abc"));
        journal.save(&db, &remembered(1, Wanted::Up), Some("def"));
        journal.save_cid(&api, Cid::new(42).ok());
        journal.close().await;
        journal.save(&api, &remembered(8, Wanted::Up), None);
        std::fs::write(dir.path().join("vms/db.json"), "{\"vm_id\":").expect("written");
        let journal = open(dir.path()).await;
        assert_eq!(journal.remembered(), BTreeMap::from([(api.clone(), remembered(7, Wanted::Down))]));
        assert_eq!(journal.cids(), [(api, Cid::new(42).expect("good"))]);
        let [Unreadable { vm, aside, .. }] = journal.unreadable() else { panic!("one") };
        assert_eq!(*vm, db);
        // The file is kept when the VM's entry is written anew.
        journal.save(&db, &remembered(2, Wanted::Up), Some("def"));
        journal.close().await;
        assert_eq!(std::fs::read_to_string(aside).expect("kept"), "{\"vm_id\":");
        assert_eq!(open(dir.path()).await.remembered()[&db].incarnation, Incarnation(2));
    }

    #[tokio::test]
    async fn a_directory_that_was_removed_is_named_and_all_is_saved_when_it_is_there_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = dir.path().join("state");
        let (journal, changed, quiet) = (open(&place).await, vm("api"), vm("db"));
        journal.save(&changed, &remembered(1, Wanted::Up), Some("abc"));
        journal.save(&quiet, &remembered(1, Wanted::Down), Some("def"));
        journal.written().reached().await;
        std::fs::remove_dir_all(&place).expect("removed");
        journal.save(&changed, &remembered(2, Wanted::Up), Some("abc"));
        let mut trouble = journal.trouble().expect("a disk");
        let why = trouble.wait_for(Option::is_some).await.expect("open").clone().expect("trouble");
        let vms = place.join("vms");
        let advice = format!("is missing; mount it, or make it again (`mkdir -p {}`)", vms.display());
        assert!(why.starts_with(vms.to_str().expect("UTF-8")) && why.ends_with(&advice), "{why}");
        // No event tells when the files of other VMs were missed, too.
        let missed = async {
            while journal.unsaved(&quiet).is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), missed).await.expect("the other file is missed");
        std::fs::create_dir_all(&vms).expect("made");
        trouble.wait_for(Option::is_none).await.expect("open");
        journal.close().await;
        let all = [(changed, remembered(2, Wanted::Up)), (quiet, remembered(1, Wanted::Down))];
        assert_eq!(open(&place).await.remembered(), BTreeMap::from(all));
    }

    #[tokio::test]
    async fn what_must_be_on_the_disk_first_can_be_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let (journal, api) = (open(dir.path()).await, vm("api"));
        journal.save(&api, &remembered(7, Wanted::Up), Some("abc"));
        assert_eq!(journal.remembered()[&api].incarnation, Incarnation(7), "at once");
        journal.written().reached().await;
        let text = std::fs::read_to_string(dir.path().join("vms/api.json")).expect("there");
        assert!(text.contains("\"incarnation\": 7"), "{text}");
        journal.remove(&api);
        journal.written().reached().await;
        assert!(!dir.path().join("vms/api.json").exists());
        assert_eq!(journal.newest(&api), Incarnation(7));
    }

    #[tokio::test]
    async fn two_supervisors_do_not_share_a_journal() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = open(dir.path()).await;
        let error = Journal::open(Some(dir.path())).await.expect_err("locked");
        assert!(matches!(error, JournalError::Locked { pid: Some(pid), .. } if pid == std::process::id()));
        drop(first);
        assert!(Journal::open(Some(dir.path())).await.is_ok());
    }

    #[tokio::test]
    async fn the_files_of_445d9af_are_read() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/445d9af/vms");
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("vms")).expect("made");
        for name in ["flap", "micro", "process", "stopped", "zero"] {
            let file = format!("{name}.json");
            std::fs::copy(golden.join(&file), dir.path().join("vms").join(&file)).expect("copied");
        }
        let journal = open(dir.path()).await;
        assert_eq!(journal.unreadable(), []);
        let remembered = journal.remembered();
        assert_eq!(remembered.len(), 5);
        assert_eq!(remembered[&vm("stopped")].wanted, Wanted::Down);
        assert_eq!(remembered[&vm("process")].wanted, Wanted::Up);
        assert!(remembered[&vm("zero")].completed);
        // A field that is missing has its default.
        std::fs::write(dir.path().join("vms/bare.json"), "{\"incarnation\": 3}").expect("written");
        drop(journal);
        let bare = open(dir.path()).await.remembered()[&vm("bare")].clone();
        assert_eq!((bare.incarnation, bare.wanted, bare.attempts), (Incarnation(3), Wanted::Up, 0));
    }
}
