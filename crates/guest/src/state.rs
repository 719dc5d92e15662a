//! What the agent knows, shared by its threads: the daemon, the events, who may speak, whether it is time to go.

use crate::boot::{Boot, Image};
use crate::console::Console;
use crate::reaper::Reaper;
use crate::tail::Tail;
use pepita_wire::agent::{AgentStatus, Health};
use pepita_wire::console::Note;
use pepita_wire::{ErrorKind, Exit, GuestEvent, Hello, WireError};
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Events that are kept for watchers that come later.
const EVENTS_KEPT: usize = 256;

/// The agent.
#[derive(Debug)]
pub struct Agent {
    /// Who this guest is.
    pub boot: Boot,
    /// What the image says.
    pub image: Image,
    /// PID 1 of a VM, or a process of the host.
    pub mode: Mode,
    /// Where output goes.
    pub console: Console,
    /// Who waits for children.
    pub reaper: Reaper,
    /// This boot's id.
    pub boot_id: String,
    /// Where the daemon finds its notify socket.
    pub notify_path: String,
    /// When the agent started.
    pub started: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

/// Where the agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is the guest's init.
    Init,
    /// It is a process of the host: no isolation.
    Process,
}

/// The part that changes.
#[derive(Debug)]
pub struct State {
    token: String,
    renewed: bool,
    /// What the daemon does.
    pub daemon: Daemon,
    /// It has said `READY=1`.
    pub ready: bool,
    /// Its last `STATUS=`.
    pub status: String,
    /// Events, numbered from 1.
    events: VecDeque<(u64, GuestEvent)>,
    /// The newest event's number.
    pub seq: u64,
    /// The newest event that a client has acknowledged.
    pub acked: u64,
    /// When the daemon is killed if it has not stopped.
    pub stop_deadline: Option<Instant>,
    /// It is time to go.
    pub power_off: bool,
    /// The last output.
    pub tail: Tail,
}

/// What the daemon does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Daemon {
    /// Nobody has asked for it yet.
    Held,
    /// It runs.
    Running {
        /// Its pid, which is also its group.
        pid: u32,
    },
    /// It has ended.
    Exited {
        /// How.
        exit: Exit,
        /// The event that says so.
        seq: u64,
        /// When.
        at: Instant,
    },
}

impl Agent {
    /// An agent that has started nothing yet.
    pub fn new(boot: Boot, image: Image, mode: Mode, console: Console, notify_path: String) -> Self {
        let random = "/proc/sys/kernel/random/";
        // In a VM the kernel's boot id is new with each boot; on a host a fresh random one stands for it.
        let file = if mode == Mode::Init { "boot_id" } else { "uuid" };
        let boot_id =
            std::fs::read_to_string(format!("{random}{file}")).unwrap_or_default().trim().to_owned();
        let state = State {
            token: boot.token.clone(),
            renewed: false,
            daemon: Daemon::Held,
            ready: false,
            status: String::new(),
            events: VecDeque::new(),
            seq: 0,
            acked: 0,
            stop_deadline: None,
            power_off: false,
            tail: Tail::default(),
        };
        Self {
            boot,
            image,
            mode,
            console,
            reaper: Reaper::start(),
            boot_id,
            notify_path,
            started: Instant::now(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// The state, locked. Do nothing slow with it.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes whoever waits for a change.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Waits for a change, or until the time is over.
    pub fn wait<'a>(&self, state: MutexGuard<'a, State>, limit: Option<Duration>) -> MutexGuard<'a, State> {
        match limit {
            Some(limit) => self.changed.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0,
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Tells watchers.
    pub fn tell(&self, event: GuestEvent) -> u64 {
        self.change(|state| state.tell(event))
    }

    /// Writes a note for the monitor on the console.
    pub fn note(&self, note: &Note) {
        let token = self.lock().token.clone();
        self.console.write(pepita_wire::console::encode(&token, note).as_bytes());
    }

    /// Our hello.
    pub fn hello(&self) -> Hello {
        Hello {
            generation: pepita_wire::GENERATION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: self.boot_id.clone(),
            incarnation: self.boot.incarnation,
            ..Hello::default()
        }
    }

    /// Lets a host in, or says why not. The first that gets in may replace the boot token, which stood where the daemon
    /// could read it; the daemon has not been started by then.
    ///
    /// # Errors
    /// When the token or the incarnation is wrong.
    pub fn admit(&self, hello: &Hello) -> Result<(), WireError> {
        let refuse = |why: &str| Err(WireError::new(ErrorKind::Unauthorized, why));
        if hello.incarnation != self.boot.incarnation {
            return refuse(&format!(
                "this is incarnation {}, not {}",
                self.boot.incarnation, hello.incarnation
            ));
        }
        let mut state = self.lock();
        if state.token.is_empty() || hello.token.as_deref() != Some(&state.token) {
            return refuse("wrong token");
        }
        if let Some(new) = hello.new_token.as_ref().filter(|new| !new.is_empty())
            && !state.renewed
            && state.daemon == Daemon::Held
        {
            state.token.clone_from(new);
            state.renewed = true;
        }
        Ok(())
    }

    /// The answer to `status`.
    pub fn status(&self) -> AgentStatus {
        let state = self.lock();
        AgentStatus {
            pid: match state.daemon {
                Daemon::Running { pid } => Some(pid),
                Daemon::Held | Daemon::Exited { .. } => None,
            },
            started: state.daemon != Daemon::Held,
            ready: state.ready,
            status: state.status.clone(),
            exited: match &state.daemon {
                Daemon::Exited { exit, .. } => Some(exit.clone()),
                Daemon::Held | Daemon::Running { .. } => None,
            },
            seq: state.seq,
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl State {
    /// Numbers an event and keeps it for watchers.
    pub fn tell(&mut self, event: GuestEvent) -> u64 {
        self.seq += 1;
        if is_heartbeat(&event) {
            // Only the last counts; else a daemon that lives long would push out what it said of itself at first.
            self.events.retain(|(_, earlier)| !is_heartbeat(earlier));
        }
        if self.events.len() == EVENTS_KEPT {
            self.events.pop_front();
        }
        self.events.push_back((self.seq, event));
        self.seq
    }

    /// The events after a number that are still kept.
    pub fn events_since(&self, since: u64) -> Vec<(u64, GuestEvent)> {
        self.events.iter().filter(|(seq, _)| *seq > since).cloned().collect()
    }
}

fn is_heartbeat(event: &GuestEvent) -> bool {
    matches!(event, GuestEvent::Health(health) if *health == Health { watchdog: true, ..Health::default() })
}
