//! One VM's life as its monitor sees it: what each event means, what is to be done, and the one status record.
//! Knows no process, no socket and no clock; time comes in with each event, effects go out.

mod event;

pub use event::{Effect, Event};

use super::evidence::{Asked, Evidence, judge};
use crate::vm_config::{VmConfig, VmmKind};
use crate::vmm::VmmEnd;
use pepita_wire::agent::{Health, Start, Stop};
use pepita_wire::console::Note;
use pepita_wire::record::{DaemonState, VcpuState, VcpuStatus, VsockStatus};
use pepita_wire::{Ask, ErrorKind, ExitRecord, GuestEvent, Signal, StatusRecord, VmState, WireError};
use std::time::{Duration, Instant};

/// An agent whose note was missed is dialled unasked, this often. Not more: vhost-device-vsock does not survive a client
/// that goes away (with its monitor, say) before a guest that still boots has answered it.
const UNASKED_DIAL: Duration = Duration::from_secs(5);

/// An agent that was there before is waited for so long when it is to be told to stop and cannot be reached.
const COME_BACK: Duration = Duration::from_millis(300);

/// A VMM that seems to be ending takes its back-end along; it has to be gone by then.
const GOING: Duration = Duration::from_millis(500);

/// From the daemon's end until the VMM has to be gone.
const LINGER: Duration = Duration::from_secs(5);

/// From the daemon's KILL until the VMM's TERM: draining, the report, the guest's way down.
const AFTER_GRACE: Duration = Duration::from_millis(400);

/// From the VMM's TERM until its KILL.
const TERM_TO_KILL: Duration = Duration::from_millis(400);

/// The way down.
#[derive(Debug, Clone, Copy)]
struct Down {
    term_at: Instant,
    termed: bool,
    kill_at: Instant,
}

/// The life of one VM.
#[derive(Debug)]
pub struct Life {
    start: Start,
    hold: bool,
    kind: VmmKind,
    status: StatusRecord,
    evidence: Evidence,
    born: Instant,
    boot_deadline: Option<Instant>,
    /// What is left until then, while the virtual CPUs stand still.
    boot_left: Option<Duration>,
    dial_at: Option<Instant>,
    down: Option<Down>,
    /// A stop was asked for: the polite signal, and when the daemon's grace is over.
    stop: Option<(Signal, Instant)>,
    /// The back-end is gone, and the VMM is not by then.
    backend_deadline: Option<Instant>,
    paused: bool,
    last_heard: Option<Instant>,
    effects: Vec<Effect>,
}

impl Life {
    /// A VM about to be started at `now`.
    pub fn new(plan: &VmConfig, mut status: StatusRecord, now: Instant) -> Self {
        status.vsock = VsockStatus { cid: plan.cid.unwrap_or_default(), ..status.vsock };
        status.state = VmState::Created;
        if plan.hold {
            status.daemon.state = DaemonState::Held;
        }
        Self {
            start: Start { command: plan.command.clone(), env: plan.env.clone() },
            hold: plan.hold,
            kind: plan.vmm,
            status,
            evidence: Evidence::default(),
            born: now,
            boot_deadline: Some(now + Duration::from_millis(plan.ready_timeout_ms)),
            boot_left: None,
            dial_at: Some(now + UNASKED_DIAL),
            down: None,
            stop: None,
            backend_deadline: None,
            paused: false,
            last_heard: None,
            effects: Vec::new(),
        }
    }

    /// A VM that outlived its former monitor, as that one last wrote it down: its agent may be there already.
    pub fn adopt(plan: &VmConfig, status: StatusRecord, now: Instant) -> Self {
        let (daemon, was_paused) = (status.daemon.clone(), status.state == VmState::Paused);
        let spent = Duration::from_millis(status.uptime_ms);
        let mut life = Self::new(plan, status, now);
        life.status.daemon = daemon;
        // News for everybody who watched the former monitor.
        life.status.generation += 1;
        life.evidence.vmm_ran = true;
        life.dial_at = Some(now);
        life.boot_deadline = match life.status.boot_ms.agent {
            // It has booted long ago.
            Some(_) => None,
            None => Some(now + Duration::from_millis(plan.ready_timeout_ms).saturating_sub(spent)),
        };
        // QEMU says nothing of a pause that it knows nothing of.
        life.paused = was_paused;
        if was_paused {
            life.boot_left = life.boot_deadline.take().map(|at| at.saturating_duration_since(now));
        }
        life.status.state = life.state();
        life
    }

    /// The record at this moment.
    pub fn status(&self, now: Instant) -> StatusRecord {
        let mut status = self.status.clone();
        if status.exit.is_none() {
            status.uptime_ms = self.since_start(now);
        }
        let vcpus = if self.paused { VcpuState::Paused } else { VcpuState::Running };
        let runs = self.evidence.vmm_ran && status.exit.is_none();
        status.vcpus = runs.then_some(VcpuStatus { state: vcpus });
        status.agent.last_heard_ms = self.last_heard.map(|at| ms(now.saturating_duration_since(at)));
        status
    }

    /// For what only the monitor knows: process ids, dropped bytes.
    pub fn note(&mut self, change: impl FnOnce(&mut StatusRecord)) {
        change(&mut self.status);
    }

    /// For evidence that only the monitor can gather.
    pub fn evidence(&mut self) -> &mut Evidence {
        &mut self.evidence
    }

    /// The present generation; grows with each change that a watcher is told.
    pub fn generation(&self) -> u64 {
        self.status.generation
    }

    /// When to send a [`Event::Tick`].
    pub fn wake_at(&self) -> Option<Instant> {
        let down = self.down.map(|down| if down.termed { down.kill_at } else { down.term_at });
        self.boot_deadline.into_iter().chain(self.dial_at).chain(down).chain(self.backend_deadline).min()
    }

    /// Takes in an event.
    pub fn on(&mut self, now: Instant, unix_ms: u64, event: Event) -> Vec<Effect> {
        if self.status.exit.is_some() {
            return Vec::new();
        }
        let before = (self.status.clone(), self.state());
        match event {
            Event::VmmUp => self.evidence.vmm_ran = true,
            Event::VmmEnded(end) => self.vmm_ended(unix_ms, end),
            Event::BackendEnded { vmm_going } => {
                let since = if vmm_going { GOING } else { Duration::ZERO };
                self.backend_deadline = Some(now + since);
                self.tick(now);
            }
            Event::HostOom => self.evidence.host_oom = true,
            Event::ConsoleSpoke => {
                let since_start = self.since_start(now);
                self.status.boot_ms.kernel.get_or_insert(since_start);
            }
            Event::Noted(note) => self.noted(now, note),
            Event::Shutdown(reason) => self.evidence.shutdown = Some(reason),
            Event::Paused(paused) => self.paused(now, unix_ms, paused),
            Event::AgentUp { generation } => self.agent_up(now, unix_ms, generation),
            Event::AgentDown => self.status.agent.ready = false,
            Event::AgentSaid { seq, event } => self.agent_said(now, seq, event),
            Event::Started(result) => self.started(result),
            Event::Stop { signal, grace } => self.stop(now, signal, grace),
            Event::Kill => self.kill(),
            Event::Start(start) => self.effects.push(Effect::Ask(Ask::Start(start))),
            Event::Tick => self.tick(now),
        }
        self.status.state = self.state();
        if (&before.0, before.1) != (&self.status, self.status.state) {
            self.status.generation += 1;
        }
        std::mem::take(&mut self.effects)
    }

    /// Of the VM; [`StatusRecord::uptime_ms`] has what a former monitor has seen of it.
    fn since_start(&self, now: Instant) -> u64 {
        self.status.uptime_ms + ms(now.saturating_duration_since(self.born))
    }

    fn state(&self) -> VmState {
        if let Some(exit) = &self.status.exit {
            return VmState::after(&exit.exit);
        }
        match self.status.daemon.state {
            _ if self.down.is_some() => VmState::Stopping,
            _ if self.paused => VmState::Paused,
            DaemonState::Running | DaemonState::Ready => VmState::Running,
            DaemonState::Exited => VmState::Stopping,
            DaemonState::Pending | DaemonState::Held | DaemonState::Unknown => {
                if self.evidence.vmm_ran {
                    VmState::Starting
                } else {
                    VmState::Created
                }
            }
        }
    }

    fn noted(&mut self, now: Instant, note: Note) {
        match note {
            Note::Up => {
                self.evidence.agent_noted = true;
                self.effects.push(Effect::Dial);
            }
            Note::Exited(exit) => {
                if self.evidence.report.is_none() {
                    self.evidence.report = Some(exit);
                    self.evidence.by_console = true;
                    self.on_the_way_out(now);
                }
            }
            Note::Failed(why) => self.evidence.agent_failed = Some(why),
        }
    }

    fn paused(&mut self, now: Instant, unix_ms: u64, paused: bool) {
        let resumed = std::mem::replace(&mut self.paused, paused) && !paused;
        // A guest that stands still does not boot.
        if paused {
            let left = self.boot_deadline.take().map(|at| at.saturating_duration_since(now));
            self.boot_left = left.or(self.boot_left);
        } else if let Some(left) = self.boot_left.take() {
            self.boot_deadline = Some(now + left);
        }
        // The guest's clock stood still with its CPUs.
        if resumed && self.kind == VmmKind::Qemu {
            self.effects.push(Effect::Ask(Ask::SetTime { unix_ms }));
        }
    }

    fn agent_up(&mut self, now: Instant, unix_ms: u64, generation: u32) {
        self.last_heard = Some(now);
        self.dial_at = None;
        (self.boot_deadline, self.boot_left) = (None, None);
        self.status.agent.ready = true;
        self.status.agent.generation = generation;
        let since_start = self.since_start(now);
        self.status.boot_ms.agent.get_or_insert(since_start);
        if self.kind == VmmKind::Qemu {
            self.effects.push(Effect::Ask(Ask::SetTime { unix_ms }));
        }
        if let Some((signal, until)) = self.stop {
            // It may not have heard. Back again, the daemon gets its grace, and never more than was promised.
            self.ask_to_stop(now, signal, until);
            let term_at = until + AFTER_GRACE;
            if let Some(down) = self.down.as_mut().filter(|down| !down.termed) {
                (down.term_at, down.kill_at) = (term_at, term_at + TERM_TO_KILL);
            }
        } else if !self.hold && self.status.daemon.state == DaemonState::Pending {
            // If it runs already, this is refused, and does no harm.
            self.effects.push(Effect::Ask(Ask::Start(self.start.clone())));
        }
    }

    fn agent_said(&mut self, now: Instant, seq: u64, event: GuestEvent) {
        self.last_heard = Some(now);
        let daemon = &mut self.status.daemon;
        match event {
            GuestEvent::Started { pid } => {
                daemon.pid = Some(pid);
                daemon.state = DaemonState::Running;
                let since_start = self.since_start(now);
                self.status.boot_ms.daemon.get_or_insert(since_start);
            }
            GuestEvent::Health(Health { status: Some(text), .. }) => self.status.daemon.status = text,
            GuestEvent::Ready if daemon.state == DaemonState::Running => daemon.state = DaemonState::Ready,
            GuestEvent::Exited(exit) => {
                self.effects.push(Effect::Ask(Ask::Ack { seq }));
                if self.evidence.report.is_none() || self.evidence.by_console {
                    self.evidence.report = Some(exit);
                    self.evidence.by_console = false;
                    self.on_the_way_out(now);
                }
            }
            GuestEvent::Ready
            | GuestEvent::Health(_)
            | GuestEvent::Memory { .. }
            | GuestEvent::Unknown(_) => {}
        }
    }

    /// The daemon has ended: the guest powers off by itself, or is helped to.
    fn on_the_way_out(&mut self, now: Instant) {
        self.status.daemon.state = DaemonState::Exited;
        self.status.daemon.pid = None;
        let limit = now + LINGER;
        self.down.get_or_insert(Down { term_at: limit, termed: false, kill_at: limit + TERM_TO_KILL });
    }

    fn started(&mut self, result: Result<(), WireError>) {
        match result {
            // The event says the rest.
            Ok(()) => {}
            // It was started before, or could not be executed, which is told as its end.
            Err(WireError { kind: ErrorKind::Conflict | ErrorKind::Os, .. }) => {}
            Err(e) => {
                self.evidence.agent_failed = Some(format!("it could not start the daemon: {e}"));
                self.effects.push(Effect::KillVmm);
            }
        }
    }

    fn stop(&mut self, now: Instant, signal: Signal, grace: Duration) {
        if self.evidence.report.is_none() {
            self.evidence.asked.get_or_insert(Asked::Stop);
        }
        if self.paused {
            self.effects.push(Effect::Resume);
        }
        // Asked again, the earlier deadline holds.
        let until = self.stop.map_or(now + grace, |(_, until)| until.min(now + grace));
        self.stop = Some((signal, until));
        let was_there = self.status.boot_ms.agent.is_some();
        let wait = match (self.status.agent.ready, was_there) {
            (true, _) => {
                self.ask_to_stop(now, signal, until);
                grace + AFTER_GRACE
            }
            // It may be back in a moment, or not at all.
            (false, true) => {
                self.dial_at = Some(now);
                grace.min(COME_BACK)
            }
            // There is nobody to be polite to.
            (false, false) => Duration::ZERO,
        };
        let term_at = now + wait;
        let down = self.down.get_or_insert(Down { term_at, termed: false, kill_at: term_at + TERM_TO_KILL });
        if !down.termed && term_at < down.term_at {
            (down.term_at, down.kill_at) = (term_at, term_at + TERM_TO_KILL);
        }
        (self.boot_deadline, self.boot_left) = (None, None);
        self.tick(now);
    }

    /// Has the agent stop the daemon, or the guest, if there is no daemon.
    fn ask_to_stop(&mut self, now: Instant, signal: Signal, until: Instant) {
        let grace = until.saturating_duration_since(now);
        let runs = matches!(self.status.daemon.state, DaemonState::Running | DaemonState::Ready);
        self.effects.push(Effect::Ask(match runs {
            true => Ask::Stop(Stop { signal, grace_ms: ms(grace) }),
            false => Ask::PowerOff,
        }));
    }

    fn kill(&mut self) {
        if self.evidence.report.is_none() {
            self.evidence.asked = Some(Asked::Kill);
        }
        self.effects.push(Effect::KillVmm);
    }

    fn tick(&mut self, now: Instant) {
        if self.boot_deadline.is_some_and(|at| now >= at) {
            self.boot_deadline = None;
            self.evidence.boot_timeout = true;
            self.effects.push(Effect::KillVmm);
        }
        if self.dial_at.is_some_and(|at| now >= at) {
            self.dial_at = Some(now + UNASKED_DIAL);
            self.effects.push(Effect::Dial);
        }
        if self.backend_deadline.is_some_and(|at| now >= at) {
            self.backend_deadline = None;
            // On its way down, it goes down without.
            if self.evidence.report.is_none() && self.evidence.asked.is_none() {
                self.evidence.backend_died = true;
                self.effects.push(Effect::KillVmm);
            }
        }
        if let Some(down) = &mut self.down {
            if !down.termed && now >= down.term_at {
                down.termed = true;
                self.effects.push(Effect::TermVmm);
            }
            if down.termed && now >= down.kill_at {
                // Once more a second later, should it be needed.
                down.kill_at = now + Duration::from_secs(1);
                self.effects.push(Effect::KillVmm);
            }
        }
    }

    fn vmm_ended(&mut self, unix_ms: u64, end: VmmEnd) {
        self.evidence.vmm = end;
        let (verdict, evidence) = judge(&self.evidence);
        let exit = ExitRecord {
            name: self.status.name.clone(),
            incarnation: self.status.incarnation,
            daemon: if verdict.is_of_daemon() { None } else { self.evidence.report.clone() },
            exit: verdict,
            ended_at_ms: unix_ms,
            vmm: match end {
                VmmEnd::Seen(exit) => Some(exit),
                VmmEnd::Runs | VmmEnd::Unseen => None,
            },
            evidence,
            console: Vec::new(),
        };
        self.status.uptime_ms = unix_ms.saturating_sub(self.status.started_at);
        self.status.agent.ready = false;
        self.status.daemon.pid = None;
        (self.boot_deadline, self.dial_at, self.down, self.backend_deadline) = (None, None, None, None);
        self.status.exit = Some(exit.clone());
        self.effects.push(Effect::Finish(Box::new(exit)));
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
