//! Small files that outlive the process: the one place of the library that writes to a disk.
//!
//! Writes are handed over without waiting, and one task carries them out in that order, on a thread where blocking is
//! allowed. What must not happen before something is written waits for [`Store::written`].

use pepita_wire::Stored;
use serde::de::DeserializeOwned;
use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot, watch};

/// Writes that are carried out with one change of thread.
const BATCH: usize = 256;

/// Writes files one after the other. Clones are the same store.
#[derive(Debug, Clone)]
pub struct Store {
    queue: Arc<Mutex<Queue>>,
    written: watch::Receiver<u64>,
}

struct Queue {
    /// `None` once the store is closed.
    sender: Option<mpsc::UnboundedSender<Request>>,
    /// How many writes were handed over.
    accepted: u64,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("accepted", &self.accepted).finish_non_exhaustive()
    }
}

/// What the writer is handed.
enum Request {
    /// To change a file.
    Change {
        /// What is to become of the file.
        change: Change,
        /// Takes the outcome.
        outcome: oneshot::Sender<io::Result<()>>,
    },
    /// To call a function, behind all that was handed over before.
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

/// What is to become of a file.
#[derive(Debug)]
pub enum Change {
    /// The file gets this content, all at once: a reader finds the old content or the new one.
    Replace {
        /// The path of the file.
        path: PathBuf,
        /// What the file is to hold.
        content: Vec<u8>,
        /// Whether the content is to survive a power cut.
        synced: bool,
        /// Whether only the owner may read the file.
        private: bool,
    },
    /// The file is removed. Removing what is not there is fine.
    Remove {
        /// The path of the file.
        path: PathBuf,
    },
}

/// The moment at which all that was handed over before is on the disk, or has failed to get there.
#[derive(Debug, Clone)]
pub struct Written {
    /// How many writes must be done, and how many are; `None` when there is nothing to wait for.
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
        Self { queue: Arc::new(Mutex::new(Queue { sender: Some(sender), accepted: 0 })), written }
    }

    /// Hands a change over, and returns where its outcome will be known. A store that is closed drops the change.
    ///
    /// A change that fails is told in the log. A disk that is full does not stop the supervision.
    pub fn hand_over(&self, change: Change) -> oneshot::Receiver<io::Result<()>> {
        let (outcome, receiver) = oneshot::channel();
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = &queue.sender
            && sender.send(Request::Change { change, outcome }).is_ok()
        {
            queue.accepted += 1;
        }
        receiver
    }

    /// Calls `act` when all that was handed over before is written, and behind each `act` of an earlier call. At once when
    /// nothing is under way. `act` must be short: later writes wait for it.
    pub fn in_order(&self, act: impl FnOnce() + Send + 'static) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let is_idle = *self.written.borrow() >= queue.accepted;
        match &queue.sender {
            Some(sender) if !is_idle => {
                // The writer has the receiver as long as there is a sender, unless the runtime ends.
                if sender.send(Request::Call(Box::new(act))).is_ok() {
                    queue.accepted += 1;
                }
            }
            Some(_) | None => {
                drop(queue);
                self.written().then(act);
            }
        }
    }

    /// Returns the moment at which all that was handed over so far is written.
    pub fn written(&self) -> Written {
        let accepted = self.queue.lock().unwrap_or_else(PoisonError::into_inner).accepted;
        Written { pending: Some((accepted, self.written.clone())) }
    }

    /// Takes no more changes, and returns when those that were handed over are written.
    pub async fn close(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).sender = None;
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

/// The writer. A blocking thread of the runtime does the work, not a thread of our own: a test that holds the clock has
/// its clock stand still meanwhile.
async fn write_all(mut requests: mpsc::UnboundedReceiver<Request>, done: watch::Sender<u64>) {
    let mut batch = Vec::new();
    loop {
        let count = requests.recv_many(&mut batch, BATCH).await;
        if count == 0 {
            return;
        }
        let work = std::mem::take(&mut batch);
        let written = tokio::task::spawn_blocking(move || {
            work.into_iter().for_each(Request::carry_out);
        });
        // An error says that the runtime ends.
        let _ = written.await;
        done.send_modify(|written| *written += count as u64);
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

/// Moves a file that cannot be read out of the way of what will be written, beside itself, and returns where to. Blocks;
/// for the time before there are actors.
///
/// # Errors
/// Returns why the file cannot be moved. It must not be overwritten then: people may still read something in it.
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
