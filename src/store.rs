//! Small files that outlive the process. No other module of the library writes to a disk.
//!
//! Changes are handed over without waiting, and one task carries them out in that order, on a thread where blocking is
//! allowed. A step that must not happen before a change is on the disk waits for [`Store::written`].
//!
//! A disk that is full or hangs holds nothing up (semantics 13.6): a change that fails is kept and tried again until the
//! disk takes it, and a disk that has not answered for a few seconds is not waited for any more.
//!
//! ```text
//!           a change fails              the last unsaved change is written
//!   good ──────────────────▶ unsaved ─────────────────────────────────────▶ good
//!     │                        │  ▲ tried again, at intervals
//!     │ no answer in time      │  │
//!     └───────▶ hangs ◀────────┘  │
//!                 └───────────────┘ the disk answers
//! ```

mod disk;

pub use disk::Change;
pub(crate) use disk::{make_folder, read, set_aside};

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// The time limits of a store.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// The time after which a disk that does not answer is not waited for any more.
    stall: Duration,
    /// The delay before changes that failed are tried again: no event tells that a disk has room.
    retry: Duration,
}

const LIMITS: Limits = Limits { stall: Duration::from_secs(2), retry: Duration::from_secs(2) };

/// Writes files one after the other. Clones are the same store.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
    /// Wakes the writer, which ends when the last handle is gone.
    wake: mpsc::Sender<()>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// The number of the newest job that nobody has to wait for: it is done, it has failed, or the disk hangs.
    settled: watch::Sender<u64>,
    /// The reason why some changes are not saved.
    trouble: watch::Sender<Option<String>>,
}

#[derive(Default)]
struct Queue {
    /// The jobs that are to be done, oldest first. A change stays here while it is carried out.
    jobs: VecDeque<Job>,
    /// The number of the newest job.
    accepted: u64,
    /// Whether the store takes no more changes.
    closed: bool,
    /// Whether the disk has not answered for too long.
    hangs: bool,
    /// The changes that are not saved, by path: of several changes of a file only the newest matters.
    unsaved: BTreeMap<PathBuf, Unsaved>,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("accepted", &self.accepted).finish_non_exhaustive()
    }
}

/// A change that is to be tried again.
struct Unsaved {
    change: Arc<Change>,
    why: String,
}

struct Job {
    number: u64,
    work: Work,
}

enum Work {
    /// Change a file.
    Change {
        /// The change of the file.
        change: Arc<Change>,
        /// Takes the outcome.
        outcome: oneshot::Sender<io::Result<()>>,
    },
    /// Call a function, behind all jobs that were handed over before.
    Call(Box<dyn FnOnce() + Send>),
}

/// The moment at which all changes that were handed over before are on the disk, or have failed, or the disk hangs.
#[derive(Debug, Clone)]
pub struct Written {
    /// The number of the job that must be settled, and of the newest that is; `None` when no job is pending.
    pending: Option<(u64, watch::Receiver<u64>)>,
}

impl Store {
    /// Makes a store, and spawns the task that writes.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn() -> Self {
        Self::with(LIMITS)
    }

    fn with(limits: Limits) -> Self {
        let (settled, trouble) = (watch::Sender::new(0), watch::Sender::new(None));
        let shared = Arc::new(Shared { queue: Mutex::default(), settled, trouble });
        // One message is enough to wake the writer.
        let (wake, woken) = mpsc::channel(1);
        tokio::spawn(write_all(Arc::clone(&shared), woken, limits));
        Self { shared, wake }
    }

    /// Hands a change over, and returns a handle to its outcome. A store that is closed drops the change.
    ///
    /// A change that fails is tried again, until it is saved or a newer change of its file is. See [`Store::trouble`].
    pub fn hand_over(&self, change: Change) -> oneshot::Receiver<io::Result<()>> {
        let (outcome, receiver) = oneshot::channel();
        let mut queue = self.shared.queue();
        if !queue.closed {
            queue.push(Work::Change { change: Arc::new(change), outcome });
            self.proceed(queue);
        }
        receiver
    }

    /// Calls `act` when all changes that were handed over before are settled, and behind each `act` of an earlier call.
    /// Calls it at once when no change is under way. `act` must be short, and must not use the store.
    pub fn in_order(&self, act: impl FnOnce() + Send + 'static) {
        let mut queue = self.shared.queue();
        if *self.shared.settled.borrow() >= queue.accepted {
            // Under the lock: a change that is handed over meanwhile must not let a later call overtake this one.
            act();
        } else {
            queue.push(Work::Call(Box::new(act)));
            self.proceed(queue);
        }
    }

    /// Has the new jobs done: by the writer, or here while the writer waits for a disk that hangs.
    fn proceed(&self, mut queue: MutexGuard<'_, Queue>) {
        if queue.hangs {
            self.shared.settle_all(&mut queue);
        } else {
            // A full channel wakes the writer, too; a writer that is gone ends with its runtime.
            let _ = self.wake.try_send(());
        }
    }

    /// Returns the moment at which all that was handed over so far is written.
    pub fn written(&self) -> Written {
        let accepted = self.shared.queue().accepted;
        Written { pending: Some((accepted, self.shared.settled.subscribe())) }
    }

    /// Returns the reason why the newest change of this file is not saved, if it is not.
    pub fn unsaved(&self, path: &Path) -> Option<String> {
        self.shared.queue().unsaved.get(path).map(|unsaved| unsaved.why.clone())
    }

    /// Returns the reason why some changes are not saved: `None` while all are.
    pub fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.shared.trouble.subscribe()
    }

    /// Takes no more changes, tries those once more that failed, and returns when all changes are settled.
    pub async fn close(&self) {
        {
            let mut queue = self.shared.queue();
            if !std::mem::replace(&mut queue.closed, true) {
                let again: Vec<_> =
                    queue.unsaved.values().map(|unsaved| Arc::clone(&unsaved.change)).collect();
                for change in again {
                    queue.push(Work::Change { change, outcome: oneshot::channel().0 });
                }
                self.proceed(queue);
            }
        }
        self.written().reached().await;
    }
}

impl Queue {
    fn push(&mut self, work: Work) {
        self.accepted += 1;
        self.jobs.push_back(Job { number: self.accepted, work });
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Settles all jobs without the disk, which hangs: changes are kept for later, and calls are made.
    fn settle_all(&self, queue: &mut Queue) {
        for Job { number, work } in std::mem::take(&mut queue.jobs) {
            match work {
                Work::Change { change, outcome } => {
                    let error = io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer");
                    self.failed(queue, change, &error);
                    // The sender of the change may not wait for the outcome.
                    let _ = outcome.send(Err(error));
                }
                Work::Call(act) => call(act),
            }
            self.settled.send_replace(number);
        }
    }

    fn failed(&self, queue: &mut Queue, change: Arc<Change>, error: &io::Error) {
        let why = reason(change.path(), error);
        tracing::debug!("cannot be written: {why}");
        self.trouble.send_if_modified(|trouble| {
            // The first reason stays: a disk that is full fails many files.
            trouble.is_none().then(|| *trouble = Some(why.clone())).is_some()
        });
        queue.unsaved.insert(change.path().to_owned(), Unsaved { change, why });
    }

    fn saved(&self, queue: &mut Queue, change: &Change) {
        queue.unsaved.remove(change.path());
        if queue.unsaved.is_empty() {
            self.trouble.send_if_modified(|trouble| trouble.take().is_some());
        }
    }

    /// Does the jobs, then tries once more what is unsaved. Blocks while the disk does.
    fn work(&self, again: bool) {
        while let Some((number, job)) = self.next() {
            let outcome = match job {
                Next::Change(change) => change.carry_out().map_err(|e| (change, e)),
                Next::Call(act) => {
                    call(act);
                    self.settled.send_replace(number);
                    continue;
                }
            };
            let mut queue = self.queue();
            if queue.hangs {
                // The change was settled without this thread, and a newer one may have come: it is tried again.
                return;
            }
            let Some(Job { work: Work::Change { change, outcome: told }, .. }) = queue.jobs.pop_front()
            else {
                continue;
            };
            match outcome {
                Ok(()) => {
                    self.saved(&mut queue, &change);
                    let _ = told.send(Ok(()));
                }
                Err((change, error)) => {
                    self.failed(&mut queue, change, &error);
                    let _ = told.send(Err(error));
                }
            }
            self.settled.send_replace(number);
        }
        if again {
            self.try_again();
        }
    }

    /// Takes a call, or returns a change that stays the first job.
    fn next(&self) -> Option<(u64, Next)> {
        let mut queue = self.queue();
        let Job { number, work } = queue.jobs.front()?;
        let number = *number;
        if let Work::Change { change, .. } = work {
            return Some((number, Next::Change(Arc::clone(change))));
        }
        match queue.jobs.pop_front()?.work {
            Work::Call(act) => Some((number, Next::Call(act))),
            Work::Change { .. } => None,
        }
    }

    /// Tries to save what is unsaved, up to the first change that fails again.
    fn try_again(&self) {
        let changes: Vec<_> = {
            let queue = self.queue();
            queue.unsaved.values().map(|unsaved| Arc::clone(&unsaved.change)).collect()
        };
        for change in changes {
            let outcome = change.carry_out();
            let mut queue = self.queue();
            // A newer change of the file may have come while the disk hung.
            let newest = queue.unsaved.get(change.path()).is_some_and(|u| Arc::ptr_eq(&u.change, &change));
            if outcome.is_ok() && newest {
                self.saved(&mut queue, &change);
            }
            if outcome.is_err() || queue.hangs || !queue.jobs.is_empty() {
                return;
            }
        }
    }
}

/// Returns the reason why a change of a file failed, and what is to be done when its directory was removed.
///
/// The directory is not made again here: where a file system was mounted, it would be in the wrong place.
fn reason(path: &Path, error: &io::Error) -> String {
    let said = format!("{}: {error}", path.display());
    match path.parent() {
        // A change makes its file, so what is missing is the directory.
        Some(dir) if error.kind() == io::ErrorKind::NotFound => {
            let dir = dir.display();
            format!("{said}: the directory {dir} is missing; mount it, or make it again (`mkdir -p {dir}`)")
        }
        Some(_) | None => said,
    }
}

enum Next {
    Change(Arc<Change>),
    Call(Box<dyn FnOnce() + Send>),
}

/// Makes a call. A panic in it, in a host's subscriber for example, must not cost the jobs behind it.
fn call(act: Box<dyn FnOnce() + Send>) {
    if catch_unwind(AssertUnwindSafe(act)).is_err() {
        tracing::error!("a call behind a write panicked");
    }
}

impl Written {
    /// Returns a moment that has come.
    pub fn already() -> Self {
        Self { pending: None }
    }

    /// Waits for the moment. A writer that is gone, because the runtime ends, is not waited for.
    pub async fn reached(self) {
        if let Some((accepted, mut settled)) = self.pending {
            let _ = settled.wait_for(|settled| *settled >= accepted).await;
        }
    }

    /// Calls `act` at the moment: at once when it has come, else in a task of its own.
    pub fn then(self, act: impl FnOnce() + Send + 'static) {
        if self.pending.as_ref().is_none_or(|(accepted, settled)| *settled.borrow() >= *accepted) {
            return act();
        }
        tokio::spawn(async move {
            self.reached().await;
            act();
        });
    }
}

/// Has the jobs done. A blocking thread of the runtime does the work, not a thread of this module: in a test that
/// controls the clock, the clock stands still meanwhile.
async fn write_all(shared: Arc<Shared>, mut woken: mpsc::Receiver<()>, limits: Limits) {
    let mut more = true;
    while more {
        let unsaved = !shared.queue().unsaved.is_empty();
        let mut again = false;
        tokio::select! {
            message = woken.recv() => more = message.is_some(),
            () = tokio::time::sleep(limits.retry), if unsaved => again = true,
        }
        let worker = Arc::clone(&shared);
        let mut thread = tokio::task::spawn_blocking(move || worker.work(again));
        let mut seen = None;
        // An error of the thread says that the runtime ends.
        while tokio::time::timeout(limits.stall, &mut thread).await.is_err() {
            let mut queue = shared.queue();
            let front = queue.jobs.front().map(|job| job.number);
            // A long row of changes takes its time. A change that is the same as at the last look hangs.
            if front.is_none() || front == seen {
                queue.hangs = true;
                shared.settle_all(&mut queue);
            }
            seen = front;
        }
        shared.queue().hangs = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(path: &Path, content: &str) -> Change {
        Change::Replace { path: path.to_owned(), content: content.into(), synced: true, private: true }
    }

    #[tokio::test]
    async fn changes_are_made_in_order_and_waited_for() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let (path, store) = (dir.path().join("a.json"), Store::spawn());
        for n in 0..1000 {
            drop(store.hand_over(change(&path, &n.to_string())));
        }
        store.written().reached().await;
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "999");
        assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o600);
        drop(store.hand_over(Change::Remove { path: path.clone() }));
        drop(store.hand_over(Change::Remove { path: path.clone() }));
        drop(store.hand_over(change(&path, "last")));
        store.close().await;
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "last");
        assert!(store.hand_over(change(&path, "too late")).await.is_err());
    }

    #[tokio::test]
    async fn a_call_comes_behind_the_writes_and_the_calls_before_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, (told, seen)) = (Store::spawn(), std::sync::mpsc::channel());
        for n in 0..100 {
            let path = dir.path().join(format!("{n}.json"));
            drop(store.hand_over(change(&path, "x")));
            let told = told.clone();
            store.in_order(move || told.send((n, path.exists())).expect("the test listens"));
        }
        store.close().await;
        let expected: Vec<_> = (0..100).map(|n| (n, true)).collect();
        assert_eq!(seen.try_iter().collect::<Vec<_>>(), expected);
        let last = told.clone();
        store.in_order(move || last.send((100, true)).expect("the test listens"));
        assert_eq!(seen.try_recv(), Ok((100, true)), "a closed store holds nothing up");
    }

    #[tokio::test]
    async fn a_change_that_fails_says_so_and_holds_up_no_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::spawn();
        let failed = store.hand_over(change(&dir.path().join("missing/a.json"), "x"));
        let made = store.hand_over(change(&dir.path().join("a.json"), "x"));
        assert_eq!(failed.await.expect("told").expect_err("no folder").kind(), io::ErrorKind::NotFound);
        assert!(made.await.expect("told").is_ok());
    }

    const QUICK: Limits = Limits { stall: Duration::from_millis(50), retry: Duration::from_millis(20) };

    async fn wait_for(store: &Store, in_trouble: bool) -> Option<String> {
        let mut trouble = store.trouble();
        trouble.wait_for(|why| why.is_some() == in_trouble).await.expect("the store is there").clone()
    }

    #[tokio::test]
    async fn what_could_not_be_saved_is_tried_again_and_only_the_newest_counts() {
        let dir = tempfile::tempdir().expect("a directory");
        let (folder, store) = (dir.path().join("vms"), Store::with(QUICK));
        let (a, b) = (folder.join("a.json"), folder.join("b.json"));
        assert!(store.hand_over(change(&a, "old")).await.expect("told").is_err());
        assert!(store.hand_over(change(&a, "new")).await.expect("told").is_err());
        drop(store.hand_over(change(&b, "x")));
        drop(store.hand_over(Change::Remove { path: b.clone() }));
        let why = wait_for(&store, true).await.expect("a reason");
        assert!(why.contains("a.json"), "{why}");
        assert!(store.unsaved(&a).is_some());
        // A call is not held up.
        store.written().reached().await;
        let (told, seen) = std::sync::mpsc::channel();
        store.in_order(move || told.send(()).expect("the test listens"));
        assert!(seen.try_recv().is_ok());
        std::fs::create_dir(&folder).expect("made");
        wait_for(&store, false).await;
        assert_eq!(std::fs::read_to_string(&a).expect("saved"), "new");
        assert!(store.unsaved(&a).is_none() && !b.exists());
    }

    #[tokio::test]
    async fn a_store_that_is_closed_tries_once_more_and_does_not_wait() {
        let dir = tempfile::tempdir().expect("a directory");
        let (folder, store) = (dir.path().join("vms"), Store::with(LIMITS));
        drop(store.hand_over(change(&folder.join("a.json"), "x")));
        wait_for(&store, true).await;
        std::fs::create_dir(&folder).expect("made");
        store.close().await;
        assert_eq!(std::fs::read_to_string(folder.join("a.json")).expect("saved"), "x");
    }

    /// A pipe that no program reads stands for a disk that hangs: it cannot be opened for writing.
    #[tokio::test]
    async fn a_disk_that_hangs_holds_up_neither_changes_nor_calls() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, pipe) = (dir.path().join("a.json"), dir.path().join("a.tmp"));
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
        assert!(made.success());
        let store = Store::with(QUICK);
        let first = store.hand_over(change(&path, "first"));
        let (told, seen) = std::sync::mpsc::channel();
        let tell = told.clone();
        store.in_order(move || tell.send(1).expect("the test listens"));
        assert_eq!(first.await.expect("told").expect_err("it hangs").kind(), io::ErrorKind::TimedOut);
        wait_for(&store, true).await;
        // While it hangs, all is settled at once, in order.
        let second = store.hand_over(change(&path, "second"));
        store.in_order(move || told.send(2).expect("the test listens"));
        assert!(second.await.expect("told").is_err());
        store.written().reached().await;
        assert_eq!(seen.try_iter().collect::<Vec<_>>(), [1, 2]);
        assert!(store.unsaved(&path).is_some_and(|why| why.contains("does not answer")));
        // The disk answers again. The pipe is no file that can be synced, so it is taken away first.
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || {
                let open = std::fs::File::open(&pipe).expect("opened");
                std::fs::remove_file(&pipe).expect("removed");
                open
            }
        });
        wait_for(&store, false).await;
        drop(reader.join());
        assert_eq!(std::fs::read_to_string(&path).expect("saved"), "second");
        store.close().await;
    }
}
