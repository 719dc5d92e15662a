//! The state machine of one VM, as its monitor sees the VM: decides the meaning of each event in each phase, the
//! effects, and the contents of the status record. Knows no process, no socket and no clock: the time comes in with
//! each event, and effects go out as values.
//!
//! ```text
//!            VmmUp             AgentUp
//!  Created ─────────► Booting ─────────► Running
//!     │                  │                  │
//!     ├──────────────────┴──────────────────┘
//!     │
//!     ├─ back-end ended, or guest stopped by the VMM ► Severed ──── 500 ms ─────────────────────────┐
//!     ├─ the daemon has ended ───────────────────────► Leaving ──── 5 s ───┐                        │
//!     ├─ Stop ───────────────────────────────────────► Stopping ── grace ──┴► Terminating ─ 400 ms ─┤
//!     └─ Kill, boot deadline, back-end or share lost, start refused ────────────────────────────────┴► Killing ↺ 1 s
//!
//!  Severed  ── the daemon has ended ──► Leaving        Leaving, Severed ── Stop ──► Stopping
//!  Severed, Leaving, Stopping, Terminating ── Kill ──► Killing
//!  every phase ── VmmEnded ──► Ended
//! ```
//!
//! Two states change independently of the phase: the line to the guest agent ([`AgentLine`]), and whether the virtual
//! CPUs run. Each file of this folder has one job: [`phase`] defines the data of the phases, `boot` handles the start,
//! `mounting` the disks and shares, `run` the agent's messages, `signal` the signals of clients, `stop` a stop or kill, `end` the end of the daemon, the back-end and the VMM.

mod boot;
mod end;
mod event;
mod mounting;
mod mounts;
mod phase;
mod run;
mod signal;
mod stop;

pub(crate) use event::{Effect, Event};
pub(crate) use signal::Route;

use super::evidence::{Evidence, Way};
use super::ports::Serving;
use super::timeline::Timeline;
use crate::vm_config::{VmRequest, VmmKind};
use mounts::Mounts;
use pepita_wire::agent::Start;
use pepita_wire::console::Note;
use pepita_wire::record::{DaemonState, Part, VcpuState, VcpuStatus};
use pepita_wire::{Signal, StatusRecord, VmState};
use phase::{AgentLine, BootClock, Phase};
use std::time::{Duration, Instant};

/// The part of the status whose changes other programs act on. The guest can change it only a few times in all, or only
/// as often as a new connection is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Milestone {
    state: VmState,
    daemon: DaemonState,
    vcpus: VcpuState,
    agent_is_up: bool,
    is_asleep: bool,
    is_idle: bool,
}

/// The life of one VM.
#[derive(Debug)]
pub(crate) struct Life {
    start: Start,
    mounts: Mounts,
    /// The time limit for the guest to power off after the end of its daemon.
    linger: Duration,
    hold: bool,
    kind: VmmKind,
    /// The part of the status record that does not follow from the other fields; [`Life::status`] adds the rest.
    status: StatusRecord,
    evidence: Evidence,
    /// The time at which this monitor began to watch the VM.
    watched_since: Instant,
    phase: Phase,
    agent: AgentLine,
    vcpus: VcpuState,
    last_heard_at: Option<Instant>,
    /// Since when the VM is idle, as it is told.
    idle_since: Option<Instant>,
    /// The signals of clients that the daemon gets when it runs.
    pending_signals: Vec<Signal>,
    /// The measurement of the start; `None` for an adopted VM, whose record has what the former monitor measured.
    timeline: Option<Timeline>,
    effects: Vec<Effect>,
}

impl Life {
    /// Returns the state of a VM whose VMM is started at `now`.
    pub(crate) fn new(request: &VmRequest, mut status: StatusRecord, now: Instant) -> Self {
        status.state = VmState::Created;
        if request.hold {
            status.daemon.state = DaemonState::Held;
        }
        Self {
            // The world is added by the monitor, which reads the secrets.
            start: Start { command: request.command.clone(), env: request.env.clone(), ..Start::default() },
            mounts: Mounts::of(request.mounts()),
            linger: phase::linger(request),
            hold: request.hold,
            kind: request.vmm,
            status,
            evidence: Evidence { is_process: request.vmm == VmmKind::Process, ..Evidence::default() },
            watched_since: now,
            phase: Phase::Created(BootClock::new(now, Duration::from_millis(request.ready_timeout_ms))),
            agent: AgentLine::Expected { dial_at: None },
            vcpus: VcpuState::Running,
            last_heard_at: None,
            idle_since: None,
            pending_signals: Vec::new(),
            timeline: None,
            effects: Vec::new(),
        }
    }

    /// Returns the state with the measurement of the start, which goes on.
    pub(crate) fn measured_by(self, timeline: Timeline) -> Self {
        Self { timeline: Some(timeline), ..self }
    }

    /// Returns the state of a VM that outlived its former monitor. `status` is the last status that the former monitor
    /// stored, except that its state is [`VmState::Paused`] if the virtual CPUs are paused now. The caller has to find
    /// that out: a pause is made with SIGSTOP, so QEMU does not report it.
    pub(crate) fn adopt(request: &VmRequest, status: StatusRecord, now: Instant) -> Self {
        let (daemon, spent) = (status.daemon.clone(), Duration::from_millis(status.uptime_ms));
        let is_asleep = status.asleep && status.state == VmState::Paused;
        let vcpus = if status.state == VmState::Paused { VcpuState::Paused } else { VcpuState::Running };
        let mut life = Self::new(request, status, now);
        (life.status.daemon, life.status.asleep, life.status.idle_ms) = (daemon, is_asleep, None);
        // The revision grows, so that clients that watched the former monitor get the new status.
        life.status.revision += 1;
        life.evidence.vmm_ran = true;
        // The agent may listen already, and the former monitor may have read its note. So it is dialled at once, or after a
        // while when the guest may be starting its drivers.
        let was_up = life.status.boot_ms.agent.is_some();
        life.mounts.know(life.status.daemon.state);
        life.agent = match (was_up, life.status.boot_ms.kernel) {
            (true, _) => AgentLine::Lost { dial_at: now },
            (false, Some(_)) => AgentLine::Expected { dial_at: Some(now) },
            (false, None) => AgentLine::Expected { dial_at: None }.console_spoke(now),
        };
        life.vcpus = vcpus;
        let left = Duration::from_millis(request.ready_timeout_ms).saturating_sub(spent);
        life.phase = match (life.status.daemon.state, was_up) {
            (DaemonState::Exited, _) => Phase::leaving(now, life.linger),
            (_, true) => Phase::Running,
            (_, false) => Phase::Booting(match vcpus {
                VcpuState::Running => BootClock::new(now, left),
                VcpuState::Paused => BootClock::Stands { left },
            }),
        };
        life.status.state = life.state();
        life
    }

    /// Returns the status record at `now`.
    pub(crate) fn status(&self, now: Instant) -> StatusRecord {
        let mut status = self.status.clone();
        match &self.phase {
            Phase::Ended(exit) => {
                status.exit = Some((**exit).clone());
                status.agent.ready = false;
            }
            Phase::Created(_)
            | Phase::Booting(_)
            | Phase::Running
            | Phase::Severed { .. }
            | Phase::Leaving { .. }
            | Phase::Stopping(_)
            | Phase::Terminating { .. }
            | Phase::Killing { .. } => {
                status.uptime_ms = self.since_start_ms(now);
                status.vcpus = self.evidence.vmm_ran.then_some(VcpuStatus { state: self.vcpus });
                status.agent.ready = self.agent.is_up();
                status.idle_ms = self.idle_since.map(|since| ms(now.saturating_duration_since(since)));
            }
        }
        if let Phase::Stopping(stopping) = &self.phase {
            status.grace_left_ms = Some(ms(stopping.term_at.saturating_duration_since(now)));
        }
        if let Some(timeline) = &self.timeline {
            status.timings = Some(Box::new(timeline.timings()));
        }
        status.agent.last_heard_ms = self.last_heard_at.map(|at| ms(now.saturating_duration_since(at)));
        status
    }

    /// Returns whether the VMM has ever accepted its arguments and images.
    pub(crate) fn vmm_ran(&self) -> bool {
        self.evidence.vmm_ran
    }

    /// Returns whether the virtual CPUs are paused.
    pub(crate) fn is_paused(&self) -> bool {
        self.vcpus == VcpuState::Paused
    }

    /// Returns whether the virtual CPUs are paused until a client comes.
    pub(crate) fn is_asleep(&self) -> bool {
        self.status.asleep
    }

    /// Returns whether the daemon runs and has no reason to end, so that the VM may be put to sleep.
    pub(crate) fn may_sleep(&self) -> bool {
        matches!(self.serving(), Serving::Starting | Serving::Ready)
    }

    /// Returns whether the daemon can serve clients. Clients that come while it is being stopped wait for the next
    /// incarnation.
    pub(crate) fn serving(&self) -> Serving {
        match (&self.phase, self.vcpus, self.status.daemon.state) {
            (Phase::Running, VcpuState::Running, DaemonState::Ready) if self.agent.is_up() => Serving::Ready,
            (Phase::Running, VcpuState::Running, DaemonState::Running) if self.agent.is_up() => {
                Serving::Starting
            }
            (Phase::Running, VcpuState::Paused, DaemonState::Ready | DaemonState::Running)
                if self.agent.is_up() =>
            {
                Serving::Paused
            }
            (
                Phase::Created(_)
                | Phase::Booting(_)
                | Phase::Running
                | Phase::Severed { .. }
                | Phase::Leaving { .. }
                | Phase::Stopping(_)
                | Phase::Terminating { .. }
                | Phase::Killing { .. }
                | Phase::Ended(_),
                VcpuState::Running | VcpuState::Paused,
                _,
            ) => Serving::No,
        }
    }

    /// Returns whether the daemon runs in a guest that can be dialled, so that it may dial out itself: also while it is
    /// being stopped.
    pub(crate) fn dials_out(&self) -> bool {
        let runs = matches!(self.status.daemon.state, DaemonState::Running | DaemonState::Ready);
        match (&self.phase, self.vcpus) {
            (Phase::Running | Phase::Stopping(_), VcpuState::Running) => runs && self.agent.is_up(),
            (
                Phase::Created(_)
                | Phase::Booting(_)
                | Phase::Running
                | Phase::Severed { .. }
                | Phase::Leaving { .. }
                | Phase::Stopping(_)
                | Phase::Terminating { .. }
                | Phase::Killing { .. }
                | Phase::Ended(_),
                VcpuState::Running | VcpuState::Paused,
            ) => false,
        }
    }

    /// Returns the current revision of the status. The revision grows with each change that watchers are informed of.
    pub(crate) fn revision(&self) -> u64 {
        self.status.revision
    }

    /// Returns the part of the status that is told at once.
    pub(crate) fn milestone(&self) -> Milestone {
        Milestone {
            state: self.status.state,
            daemon: self.status.daemon.state,
            vcpus: self.vcpus,
            agent_is_up: self.agent.is_up(),
            is_asleep: self.status.asleep,
            is_idle: self.idle_since.is_some(),
        }
    }

    /// Returns the time of the next [`Event::Tick`].
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let dial_at = self.agent.dial_at().filter(|_| self.phase.wants_the_agent() && !self.is_paused());
        self.phase.wake_at().into_iter().chain(dial_at).min()
    }

    /// Handles an event and returns the effects, which the caller carries out in this order. After the end there are no
    /// effects.
    pub(crate) fn on(&mut self, now: Instant, unix_ms: u64, event: Event) -> Vec<Effect> {
        if matches!(self.phase, Phase::Ended(_)) {
            return Vec::new();
        }
        let before = (self.status.clone(), self.agent.is_up());
        match event {
            Event::VmmUp => self.on_vmm_up(now),
            Event::VmmEnded(last_words) => self.on_vmm_ended(unix_ms, last_words),
            Event::BackendEnded { vmm_is_exiting } => self.on_backend_ended(now, vmm_is_exiting),
            Event::ShareEnded { vmm_is_exiting, how } => self.on_share_ended(now, vmm_is_exiting, how),
            Event::HostOom => self.evidence.host_oom = true,
            Event::ConsoleSpoke => self.on_console_spoke(now),
            Event::Noted(Note::Up) => self.on_agent_noted(now),
            Event::Noted(Note::Exited(exit)) => self.on_daemon_reported(now, exit, Way::Console),
            Event::Noted(Note::Failed(why)) => self.evidence.agent_failed = Some(why),
            Event::Shutdown(reason) => self.evidence.shutdown = Some(reason),
            Event::VmmStopped => self.on_vmm_stopped(now),
            Event::DiskError(reason) => self.on_disk_error(reason),
            Event::ClockRang => self.on_clock_rang(unix_ms),
            Event::Vcpus(vcpus) => self.on_vcpus(now, unix_ms, vcpus),
            Event::FellAsleep => self.status.asleep = self.is_paused(),
            Event::Idle(since) => {
                self.idle_since = since;
                self.status.revision += 1;
            }
            Event::AgentUp { protocol_version } => self.on_agent_up(now, unix_ms, protocol_version),
            Event::AgentDown => self.on_agent_down(now),
            Event::AgentSaid { seq, event } => self.on_agent_said(now, seq, event),
            Event::MountAnswered(result) => self.on_mount_answered(now, result),
            Event::StartAnswered(result) => self.on_start_answered(now, result),
            Event::Start(start) => self.on_start(start),
            Event::Promoted { name, incarnation, since } => {
                self.on_promoted(now, unix_ms, since, &name, incarnation);
            }
            Event::Signal(signal) => self.on_signal(signal),
            Event::Stop { signal, grace } => self.on_stop(now, signal, grace),
            Event::Kill => self.on_kill(now),
            Event::Tick => self.on_tick(now),
        }
        self.status.state = self.state();
        if before != (self.status.clone(), self.agent.is_up()) {
            self.status.revision += 1;
        }
        std::mem::take(&mut self.effects)
    }

    /// Ends a part of the start that is being measured.
    fn passed(&mut self, part: Part, now: Instant) {
        if let Some(timeline) = &mut self.timeline {
            timeline.passed(part, now);
        }
    }

    /// Returns the milliseconds since the VM was started. [`StatusRecord::uptime_ms`] contains the time before this
    /// monitor.
    fn since_start_ms(&self, now: Instant) -> u64 {
        self.status.uptime_ms + ms(now.saturating_duration_since(self.watched_since))
    }

    /// Returns the state for the status record.
    fn state(&self) -> VmState {
        match (&self.phase, self.vcpus) {
            (Phase::Ended(record), _) => VmState::after(&record.exit),
            (
                Phase::Leaving { .. }
                | Phase::Stopping(_)
                | Phase::Terminating { .. }
                | Phase::Killing { .. },
                _,
            ) => VmState::Stopping,
            (
                Phase::Created(_) | Phase::Booting(_) | Phase::Running | Phase::Severed { .. },
                VcpuState::Paused,
            ) => VmState::Paused,
            (Phase::Created(_), VcpuState::Running) => VmState::Created,
            (Phase::Booting(_), VcpuState::Running) => VmState::Starting,
            (Phase::Running | Phase::Severed { .. }, VcpuState::Running) => match self.status.daemon.state {
                DaemonState::Running | DaemonState::Ready => VmState::Running,
                DaemonState::Exited => VmState::Stopping,
                DaemonState::Pending | DaemonState::Held | DaemonState::Unknown => VmState::Starting,
            },
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
