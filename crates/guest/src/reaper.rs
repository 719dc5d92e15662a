//! Waits for every child, its own and the orphans that PID 1 inherits, and hands each end to whoever waits for it.
//!
//! `std` reaps a child whose exec failed by itself, inside `spawn`. So nobody here may take it away: an end is first
//! looked at (WNOWAIT), and taken only under the lock that every spawn holds.

use nix::sys::signal::{SigSet, SigmaskHow};
use pepita_wire::Exit;
use rustix::process::{Pid, WaitOptions};
use std::collections::HashMap;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};

/// The one who waits.
#[derive(Debug, Clone)]
pub struct Reaper {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    waiting: Mutex<HashMap<u32, mpsc::Sender<Exit>>>,
    spawned: Condvar,
}

impl Reaper {
    /// Starts waiting, in a thread of its own.
    pub fn start() -> Self {
        let reaper = Self { inner: Arc::new(Inner { waiting: Mutex::default(), spawned: Condvar::new() }) };
        let same = reaper.clone();
        std::thread::spawn(move || same.run());
        reaper
    }

    /// Spawns a child. Its end comes through the receiver.
    ///
    /// # Errors
    /// As [`Command::spawn`]: an error of exec has the operating system's number.
    pub fn spawn(&self, command: &mut Command) -> io::Result<(Child, mpsc::Receiver<Exit>)> {
        let mut waiting = self.lock();
        let child = unmasked(|| command.spawn())??;
        let (sender, receiver) = mpsc::channel();
        waiting.insert(child.id(), sender);
        self.inner.spawned.notify_one();
        Ok((child, receiver))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, mpsc::Sender<Exit>>> {
        self.inner.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        use nix::sys::wait::{Id, WaitPidFlag, waitid};
        loop {
            match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
                Ok(status) => self.take(status.pid().and_then(|pid| Pid::from_raw(pid.as_raw()))),
                // A real-time signal, which nix has no name for: whoever it is, take it.
                Err(nix::errno::Errno::EINVAL) => self.take(None),
                Err(nix::errno::Errno::ECHILD) => {
                    let waiting = self.lock();
                    // Without children there is nothing to wait for. One spawned since is in the map.
                    if waiting.is_empty() {
                        drop(self.inner.spawned.wait(waiting));
                    } else {
                        // Its end was taken by `spawn` itself, or is about to be seen.
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
        if let Ok(Some((pid, status))) = taken
            && let Some(sender) = waiting.remove(&u32::try_from(pid.as_raw_nonzero().get()).unwrap_or(0))
        {
            // Whoever waited may have given up.
            let _ = sender.send(exit_of(ExitStatus::from_raw(status.as_raw())));
        }
    }
}

/// Does something with no signal blocked: a child inherits the mask of the thread that spawns it, and one that the agent
/// waits for itself would never reach a daemon. (The agent's own end, if it is asked for at this very moment, is then that
/// of a process that was killed; its monitor clears up.)
fn unmasked<T>(act: impl FnOnce() -> T) -> io::Result<T> {
    let former = SigSet::empty().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let result = act();
    former.thread_set_mask()?;
    Ok(result)
}

/// A process' end in the words of the wire.
pub fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Exited { code },
        (None, Some(signal)) => Exit::Signalled { signal, core: status.core_dumped() },
        (None, None) => Exit::Unknown,
    }
}
