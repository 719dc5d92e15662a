//! The data that the agent's threads share: values that are fixed at the start, and the state behind a lock.

use crate::boot::{Boot, Image};
use crate::console::Console;
use crate::forerunner::Ahead;
use crate::forwarding::Forwarding;
use crate::panics;
use crate::prepared::{Forerunner, Preparation};
use crate::reach::Reach;
use crate::reaper::Reaper;
use crate::state::{Daemon, State};
use crate::surroundings::Surroundings;
use pepita_wire::agent::{AgentStatus, Start};
use pepita_wire::console::Note;
use pepita_wire::storage::Mount;
use pepita_wire::{ErrorKind, Exit, Hello, WireError};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The shared data of the agent: the daemon's state, and the values that all connections use.
#[derive(Debug)]
pub(crate) struct Agent {
    /// The identity of this guest.
    pub(crate) boot: Boot,
    /// The description of the image.
    pub(crate) image: Image,
    /// The kind of place in which the agent runs.
    pub(crate) mode: Mode,
    /// The console, where the daemon's output goes.
    pub(crate) console: Console,
    /// The thread that waits for all children.
    pub(crate) reaper: Reaper,
    /// What is prepared for the daemon's start. The lock is held while more is.
    pub(crate) preparation: Mutex<Preparation>,
    /// The path of the daemon's notify socket.
    pub(crate) notify_path: PathBuf,
    /// The daemon's notify socket, once it is open. The lock is held while a report is read and applied.
    pub(crate) notify_socket: Mutex<Option<UnixDatagram>>,
    /// What is mounted for the daemon. The lock is held while a mount is made.
    pub(crate) mounts: Mutex<Vec<Mount>>,
    /// The connections that are forwarded to programs of the guest.
    pub(crate) forwarding: Forwarding,
    /// The places that the daemon may dial.
    pub(crate) reach: Reach,
    /// The surroundings of the daemon, once it was started: commands that a host runs have them, too.
    surroundings: OnceLock<Arc<Surroundings>>,
    clock_is_set: AtomicBool,
    /// The id of this boot.
    boot_id: String,
    started_at: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

/// The kind of place in which the agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The agent is the init of a microVM.
    Init,
    /// The agent is a process of the host, without any isolation.
    Process,
}

impl Agent {
    /// Returns an agent that has not started its daemon yet. No other thread runs.
    pub(crate) fn new(boot: Boot, image: Image, mode: Mode, console: Console, notify_path: PathBuf) -> Self {
        let ahead = Ahead::start();
        // In a VM the kernel's boot id is new with each boot. On a host it is not, so a random id is used instead.
        let file = match mode {
            Mode::Init => "boot_id",
            Mode::Process => "uuid",
        };
        let boot_id = std::fs::read_to_string(format!("/proc/sys/kernel/random/{file}")).unwrap_or_default();
        let state = State::new(boot.token.clone());
        let reaper = Reaper::start();
        let forerunner = ahead.map(|ahead| {
            let end = reaper.expect(ahead.pid());
            Forerunner { ahead, end }
        });
        Self {
            boot,
            image,
            mode,
            console,
            reaper,
            preparation: Mutex::new(Preparation::Begun(forerunner)),
            notify_path,
            notify_socket: Mutex::default(),
            mounts: Mutex::default(),
            forwarding: Forwarding::default(),
            reach: Reach::default(),
            surroundings: OnceLock::new(),
            clock_is_set: AtomicBool::new(false),
            boot_id: boot_id.trim().to_owned(),
            started_at: Instant::now(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Returns the surroundings of the programs in this guest: the daemon's, once it was started.
    ///
    /// # Errors
    /// The errors of [`Agent::surroundings_for`].
    pub(crate) fn surroundings(&self) -> Result<Arc<Surroundings>, Exit> {
        match self.surroundings.get() {
            Some(of_daemon) => Ok(Arc::clone(of_daemon)),
            None => self.surroundings_for(&Start::default()).map(Arc::new),
        }
    }

    /// Returns the surroundings of a daemon that is started like this.
    ///
    /// # Errors
    /// [`Exit::NotExecutable`] with what this guest cannot give it.
    pub(crate) fn surroundings_for(&self, start: &Start) -> Result<Surroundings, Exit> {
        match self.mode {
            Mode::Init => Surroundings::in_guest(&self.image, start, self.boot.cid),
            Mode::Process => Surroundings::on_host(&self.image, start, self.boot.cid),
        }
    }

    /// Makes the surroundings of the daemon those of all programs.
    pub(crate) fn settle(&self, surroundings: Arc<Surroundings>) {
        // The daemon is started once.
        let _ = self.surroundings.set(surroundings);
    }

    /// Locks the state. Callers must not do slow work while they hold the lock.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes all threads that wait for a change.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.wake();
        result
    }

    /// Wakes all threads that wait for a change.
    pub(crate) fn wake(&self) {
        self.changed.notify_all();
    }

    /// Waits for a change of the state, at most until `limit` has passed.
    pub(crate) fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        limit: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        match limit {
            Some(limit) => self.changed.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0,
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Returns whether a host has set the guest's clock in this boot.
    pub(crate) fn is_clock_set(&self) -> bool {
        self.clock_is_set.load(Ordering::Relaxed)
    }

    /// Records that a host has set the guest's clock.
    pub(crate) fn clock_was_set(&self) {
        self.clock_is_set.store(true, Ordering::Relaxed);
    }

    /// Writes a note for the monitor on the console.
    pub(crate) fn note(&self, note: &Note) {
        let token = self.lock().token().to_owned();
        self.console.write(pepita_wire::console::encode(&token, note).as_bytes());
    }

    /// Returns the agent's hello.
    pub(crate) fn hello(&self) -> Hello {
        Hello {
            protocol_version: pepita_wire::PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: self.boot_id.clone(),
            incarnation: self.boot.incarnation,
            ..Hello::default()
        }
    }

    /// Checks the hello of a host.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthorized`] when the host expects another incarnation or has a wrong token.
    pub(crate) fn admit(&self, hello: &Hello) -> Result<(), WireError> {
        let refuse = |why: &str| Err(WireError::new(ErrorKind::Unauthorized, why));
        if hello.incarnation != self.boot.incarnation {
            return refuse(&format!(
                "this is incarnation {}, not {}",
                self.boot.incarnation, hello.incarnation
            ));
        }
        let mut state = self.lock();
        if state.admits(hello.token.as_deref(), hello.new_token.as_deref()) {
            panics::set_token(state.token());
            Ok(())
        } else {
            refuse("wrong token")
        }
    }

    /// Returns the answer to `status`.
    pub(crate) fn status(&self) -> AgentStatus {
        let state = self.lock();
        let (pid, exited) = match &state.daemon {
            Daemon::Held => (None, None),
            Daemon::Running { pid, .. } => (Some(*pid), None),
            Daemon::Exited { exit, .. } => (None, Some(exit.clone())),
        };
        AgentStatus {
            pid,
            started: state.daemon != Daemon::Held,
            ready: state.ready,
            status: state.status.clone(),
            exited,
            seq: state.seq,
            uptime_ms: u64::try_from(self.started_at.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}
