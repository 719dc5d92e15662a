//! Waits for every child, including the orphans that PID 1 inherits, and passes the end of each child to the thread
//! that spawned it.
//!
//! When exec fails, `std` itself reaps the child inside `spawn`. If the reaper reaped that child before, `spawn` would
//! fail with another error. The reaper therefore first only observes an end (WNOWAIT), and then reaps the child under
//! the lock that every spawn holds.

use nix::sys::signal::{SigSet, SigmaskHow};
use pepita_wire::Exit;
use rustix::process::{Pid, WaitOptions};
use std::collections::HashMap;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};

/// A handle of the thread that waits for children.
#[derive(Debug, Clone)]
pub(crate) struct Reaper {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    spawned: Condvar,
}

/// The receivers for the ends of processes, by pid.
#[derive(Debug, Default)]
struct Waiting {
    /// The children that this process has spawned.
    spawned: HashMap<u32, mpsc::Sender<Exit>>,
    /// Orphans that this process has inherited, or will inherit.
    followed: HashMap<u32, mpsc::Sender<Exit>>,
}

impl Reaper {
    /// Starts the thread that waits for children.
    pub(crate) fn start() -> Self {
        let reaper = Self { shared: Arc::new(Shared { waiting: Mutex::default(), spawned: Condvar::new() }) };
        let shared = reaper.clone();
        std::thread::spawn(move || shared.run());
        reaper
    }

    /// Spawns a child. The receiver gets the end of the child.
    ///
    /// # Errors
    /// The errors of [`Command::spawn`]. An error of exec contains the number of the operating system.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<(Child, mpsc::Receiver<Exit>)> {
        let mut waiting = self.lock();
        let child = unmasked(|| command.spawn())??;
        let (sender, receiver) = mpsc::channel();
        waiting.spawned.insert(child.id(), sender);
        self.shared.spawned.notify_one();
        Ok((child, receiver))
    }

    /// Registers a child that was made before the reaper was started. The receiver gets the end of the child.
    pub(crate) fn expect(&self, child: u32) -> mpsc::Receiver<Exit> {
        let (sender, receiver) = mpsc::channel();
        self.lock().spawned.insert(child, sender);
        self.shared.spawned.notify_one();
        receiver
    }

    /// Registers a process that this one has not spawned: an orphan that was or will be inherited. The receiver gets its
    /// end, if this process reaps it.
    pub(crate) fn follow(&self, pid: u32) -> mpsc::Receiver<Exit> {
        let (sender, receiver) = mpsc::channel();
        self.lock().followed.insert(pid, sender);
        receiver
    }

    /// Stops waiting for a process that another one has reaped.
    pub(crate) fn forget(&self, pid: u32) {
        self.lock().followed.remove(&pid);
    }

    /// Returns whether the end of this process is waited for.
    pub(crate) fn waits_for(&self, pid: u32) -> bool {
        let waiting = self.lock();
        waiting.spawned.contains_key(&pid) || waiting.followed.contains_key(&pid)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        use nix::sys::wait::{Id, WaitPidFlag, waitid};
        loop {
            match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
                Ok(status) => self.take(status.pid().and_then(|pid| Pid::from_raw(pid.as_raw()))),
                // The child died of a real-time signal, for which nix has no name. The next end of any child is taken.
                Err(nix::errno::Errno::EINVAL) => self.take(None),
                Err(nix::errno::Errno::ECHILD) => {
                    let waiting = self.lock();
                    // There was no child at that moment. A child that was spawned since then is in the map.
                    if waiting.spawned.is_empty() {
                        drop(self.shared.spawned.wait(waiting));
                    } else {
                        // `spawn` itself has reaped the child, or the end will be observed again.
                        drop(waiting);
                        std::thread::yield_now();
                    }
                }
                Err(_) => {}
            }
        }
    }

    fn take(&self, pid: Option<Pid>) {
        let mut waiting = self.lock();
        let taken = match pid {
            Some(pid) => rustix::process::waitpid(Some(pid), WaitOptions::NOHANG),
            None => rustix::process::wait(WaitOptions::NOHANG),
        };
        let Ok(Some((pid, status))) = taken else { return };
        let pid = u32::try_from(pid.as_raw_nonzero().get()).unwrap_or(0);
        let Waiting { spawned, followed } = &mut *waiting;
        // The number of a process that has ended may be given to a new one, so both lists forget it.
        for sender in [spawned.remove(&pid), followed.remove(&pid)].into_iter().flatten() {
            // The receiver may have been dropped.
            let _ = sender.send(exit_of(ExitStatus::from_raw(status.as_raw())));
        }
    }
}

/// Runs `act` with no signal blocked. A child inherits the signal mask of the thread that spawns it, so a signal that
/// the agent blocks would never reach the daemon. (A signal that asks the agent to end during `act` kills the agent.
/// Its monitor cleans up in that case.)
fn unmasked<T>(act: impl FnOnce() -> T) -> io::Result<T> {
    let former = SigSet::empty().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let result = act();
    former.thread_set_mask()?;
    Ok(result)
}

/// Returns the end that a wait status describes.
fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Exited { code },
        (None, Some(signal)) => Exit::Signalled { signal, core: status.core_dumped() },
        (None, None) => Exit::Unknown,
    }
}
