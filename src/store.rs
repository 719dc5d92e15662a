//! Small files that outlive the process. No other module of the library writes to a disk.
//!
//! Writes are handed over without waiting, and one task carries them out in that order, on a thread where blocking is
//! allowed. A step that must not happen before a write is done waits for [`Store::written`].

use pepita_wire::Stored;
use serde::de::DeserializeOwned;
use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot, watch};

/// The largest number of writes that are carried out with one change of thread.
const BATCH: usize = 256;

/// Writes files one after the other. Clones are the same store.
#[derive(Debug, Clone)]
pub struct Store {
    queue: Arc<Mutex<Queue>>,
    written: watch::Receiver<u64>,
}

struct Queue {
    sender: mpsc::UnboundedSender<Request>,
    /// Whether the store takes no more changes.
    closed: bool,
    /// The number of writes that were handed over.
    accepted: u64,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("accepted", &self.accepted).finish_non_exhaustive()
    }
}

/// A job of the writer.
enum Request {
    /// Change a file.
    Change {
        /// The change of the file.
        change: Change,
        /// Takes the outcome.
        outcome: oneshot::Sender<io::Result<()>>,
    },
    /// Call a function, behind all jobs that were handed over before.
    Call(Box<dyn FnOnce() + Send>),
}

impl Request {
    fn carry_out(self) {
        match self {
            // The sender of the change may not wait for the outcome.
            Self::Change { change, outcome } => drop(outcome.send(change.carry_out())),
            Self::Call(act) => act(),
        }
    }
}

/// A change of a file.
#[derive(Debug)]
pub enum Change {
    /// The file gets this content, all at once: a reader finds the old content or the new one.
    Replace {
        /// The path of the file.
        path: PathBuf,
        /// The new content of the file.
        content: Vec<u8>,
        /// Whether the content is to survive a power cut.
        synced: bool,
        /// Whether only the owner may read the file.
        private: bool,
    },
    /// The file is removed. Removing a file that does not exist is no error.
    Remove {
        /// The path of the file.
        path: PathBuf,
    },
}

/// The moment at which all writes that were handed over before are on the disk, or have failed.
#[derive(Debug, Clone)]
pub struct Written {
    /// The number of writes that must be done, and the number that are; `None` when no write is pending.
    pending: Option<(u64, watch::Receiver<u64>)>,
}

impl Store {
    /// Makes a store, and spawns the task that writes.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn() -> Self {
        let (sender, requests) = mpsc::unbounded_channel();
        let (done, written) = watch::channel(0);
        tokio::spawn(write_all(requests, done));
        Self { queue: Arc::new(Mutex::new(Queue { sender, closed: false, accepted: 0 })), written }
    }

    /// Hands a change over, and returns a handle to its outcome. A store that is closed drops the change.
    ///
    /// A change that fails is reported in the log. A disk that is full does not stop the supervision.
    pub fn hand_over(&self, change: Change) -> oneshot::Receiver<io::Result<()>> {
        let (outcome, receiver) = oneshot::channel();
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if !queue.closed && queue.sender.send(Request::Change { change, outcome }).is_ok() {
            queue.accepted += 1;
        }
        receiver
    }

    /// Calls `act` when all writes that were handed over before are done, and behind each `act` of an earlier call.
    /// Calls it at once when no write is under way. `act` must be short: later writes wait for it.
    pub fn in_order(&self, act: impl FnOnce() + Send + 'static) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if *self.written.borrow() >= queue.accepted {
            // Under the lock: a change that is handed over meanwhile must not let a later call overtake this one.
            act();
        } else if queue.sender.send(Request::Call(Box::new(act))).is_ok() {
            queue.accepted += 1;
        }
        // Without a receiver the runtime ends.
    }

    /// Returns the moment at which all that was handed over so far is written.
    pub fn written(&self) -> Written {
        let accepted = self.queue.lock().unwrap_or_else(PoisonError::into_inner).accepted;
        Written { pending: Some((accepted, self.written.clone())) }
    }

    /// Takes no more changes, and returns when the changes that were handed over are written.
    pub async fn close(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.written().reached().await;
    }
}

impl Written {
    /// Returns a moment that has come.
    pub fn already() -> Self {
        Self { pending: None }
    }

    /// Waits for the moment. A writer that is gone, because the runtime ends, is not waited for.
    pub async fn reached(self) {
        if let Some((accepted, mut written)) = self.pending {
            let _ = written.wait_for(|written| *written >= accepted).await;
        }
    }

    /// Calls `act` at the moment: at once when it has come, else in a task of its own.
    pub fn then(self, act: impl FnOnce() + Send + 'static) {
        if self.pending.as_ref().is_none_or(|(accepted, written)| *written.borrow() >= *accepted) {
            return act();
        }
        tokio::spawn(async move {
            self.reached().await;
            act();
        });
    }
}

/// Carries out the jobs. A blocking thread of the runtime does the work, not a thread of this module: in a test that
/// controls the clock, the clock stands still meanwhile.
async fn write_all(mut requests: mpsc::UnboundedReceiver<Request>, done: watch::Sender<u64>) {
    let done = Arc::new(done);
    let mut batch = Vec::new();
    while requests.recv_many(&mut batch, BATCH).await > 0 {
        let (work, done) = (std::mem::take(&mut batch), Arc::clone(&done));
        let written = tokio::task::spawn_blocking(move || {
            for request in work {
                // A panic of a call, in a host's subscriber for example, must not cost the requests behind it.
                if catch_unwind(AssertUnwindSafe(|| request.carry_out())).is_err() {
                    tracing::error!("a call behind a write panicked");
                }
                // One by one: what waits for the first write need not wait for the last.
                done.send_modify(|written| *written += 1);
            }
        });
        // An error says that the runtime ends.
        let _ = written.await;
    }
}

impl Change {
    fn carry_out(&self) -> io::Result<()> {
        let (path, outcome) = match self {
            Self::Replace { path, content, synced, private } => {
                (path, replace(path, content, *synced, *private))
            }
            Self::Remove { path } => (path, remove(path)),
        };
        outcome.inspect_err(|e| tracing::error!("{}: cannot be written: {e}", path.display()))
    }
}

fn replace(path: &Path, content: &[u8], synced: bool, private: bool) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let temporary = path.with_extension("tmp");
    let mode = if private { 0o600 } else { 0o666 };
    let mut file = File::options().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    file.write_all(content)?;
    if synced {
        file.sync_all()?;
    }
    std::fs::rename(&temporary, path)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Reads a file of JSON. Blocks; for the time before there are actors.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Stored<T> {
    Stored::of_json(path, std::fs::read(path))
}

/// Moves a file that cannot be read out of the way of future writes, to a name beside it, and returns the new path.
/// Blocks; for the time before there are actors.
///
/// Returns the reason why the file cannot be moved. Then the file must not be overwritten: people may still be able to
/// read parts of it.
pub(crate) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let mut number = 1_u32;
    loop {
        let mut name = path.as_os_str().to_owned();
        name.push(".unreadable");
        if number > 1 {
            name.push(format!(".{number}"));
        }
        let aside = PathBuf::from(name);
        if !aside.try_exists()? {
            std::fs::rename(path, &aside)?;
            return Ok(aside);
        }
        number += 1;
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

    #[test]
    fn a_file_that_is_set_aside_replaces_no_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.json");
        for (content, name) in [("one", "a.json.unreadable"), ("two", "a.json.unreadable.2")] {
            std::fs::write(&path, content).expect("written");
            let aside = set_aside(&path).expect("moved");
            assert_eq!(aside, dir.path().join(name));
            assert_eq!(std::fs::read_to_string(aside).expect("there"), content);
            assert!(!path.exists());
        }
    }
}
