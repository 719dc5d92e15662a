//! The messages of the guest agent: its hello, and its reports about the daemon.

use super::phase::{AgentLine, Phase, Stopping};
use super::stop::AFTER_GRACE;
use super::{Effect, Life};
use crate::monitor::evidence::Way;
use crate::monitor::timeline::Timeline;
use crate::vm_config::VmmKind;
use pepita_wire::agent::{Health, Start};
use pepita_wire::launch::SPARE_LABEL;
use pepita_wire::record::{BootTimes, DaemonState, Part, VcpuState};
use pepita_wire::{Ask, ErrorKind, GuestEvent, VmId, WireError};
use std::time::{Duration, Instant};

impl Life {
    pub(super) fn on_agent_up(&mut self, now: Instant, unix_ms: u64, protocol_version: u32) {
        self.last_heard_at = Some(now);
        self.agent = AgentLine::Up;
        self.status.agent.protocol_version = protocol_version;
        let since_start_ms = self.since_start_ms(now);
        self.status.boot_ms.agent.get_or_insert(since_start_ms);
        self.hello_is_said(now);
        match self.kind {
            VmmKind::Qemu => self.set_time(unix_ms),
            // A plain process uses the host's clock.
            VmmKind::Process => {}
        }
        match self.phase {
            Phase::Created(_) | Phase::Booting(_) | Phase::Running => {
                // A hello from the guest proves that its VMM runs.
                self.evidence.vmm_ran = true;
                let was_booting = !matches!(self.phase, Phase::Running);
                self.phase = Phase::Running;
                if self.hold && was_booting {
                    self.effects.push(Effect::RestorePriority);
                }
                self.start_the_daemon();
                self.send_pending_signals();
            }
            // The agent may not have received the stop, so the stop is sent again. The daemon gets its grace, within
            // the deadline of the first request.
            Phase::Stopping(stopping) => {
                self.ask_to_stop(now, stopping.signal, stopping.grace_until);
                let term_at = stopping.grace_until + AFTER_GRACE;
                self.phase = Phase::Stopping(Stopping { term_at, ..stopping });
            }
            Phase::Severed { .. }
            | Phase::Leaving { .. }
            | Phase::Terminating { .. }
            | Phase::Killing { .. }
            | Phase::Ended(_) => {}
        }
    }

    /// Ends the part of the start in which the agent is dialled. Without its note, the guest's boot has ended only now.
    fn hello_is_said(&mut self, now: Instant) {
        let is_noted = self.timeline.as_ref().is_some_and(|timeline| timeline.has_passed(Part::Kernel));
        match self.kind {
            VmmKind::Qemu if !is_noted => self.guest_is_up(now),
            VmmKind::Qemu | VmmKind::Process => self.passed(Part::Hello, now),
        }
    }

    pub(super) fn start_the_daemon(&mut self) {
        if !self.mounts.are_made() {
            return self.order_mounts();
        }
        match self.status.daemon.state {
            // If the daemon runs already, the agent refuses this order, which is harmless.
            DaemonState::Pending if !self.hold => {
                self.effects.push(Effect::StartDaemon(self.start.clone()));
            }
            DaemonState::Held if !self.hold => self.effects.push(Effect::StartDaemon(self.start.clone())),
            // A start of this VM under its own name would be another one than that of the VM whose spare it is.
            DaemonState::Held => {
                if let Some(of) = self.status.labels.get(SPARE_LABEL).cloned() {
                    self.effects.push(Effect::Prepare { of, start: self.start.clone() });
                }
            }
            DaemonState::Pending
            | DaemonState::Running
            | DaemonState::Ready
            | DaemonState::Exited
            | DaemonState::Unknown => {}
        }
    }

    /// Returns whether the agent has never said hello: until then no client's dial may disturb the start of the guest's
    /// vsock driver.
    pub(crate) fn expects_the_agent(&self) -> bool {
        matches!(self.agent, AgentLine::Expected { .. })
    }

    /// Returns whether the daemon of a VM that was launched with `--hold` can be started only after the boot.
    pub(crate) fn must_wait_to_start(&self) -> bool {
        let can_start = self.agent.is_up() && self.mounts.are_made();
        self.hold && !can_start && self.status.daemon.state == DaemonState::Held
    }

    /// Starts a held daemon as a client has asked: when the agent is up.
    pub(super) fn on_start(&mut self, start: Start) {
        (self.start, self.hold) = (start, false);
        if self.agent.is_up() {
            self.start_the_daemon();
        }
    }

    /// Returns whether the daemon was held back so far and can be started at once.
    pub(crate) fn is_ready_to_start(&self) -> bool {
        self.hold
            && matches!(self.phase, Phase::Running)
            && self.vcpus == VcpuState::Running
            && self.agent.is_up()
            && self.mounts.are_made()
            && self.status.daemon.state == DaemonState::Held
    }

    /// Makes the VM the one that it was promoted to: its record and its times begin anew, and its daemon is started.
    pub(super) fn on_promoted(
        &mut self,
        now: Instant,
        unix_ms: u64,
        since: Instant,
        name: &VmId,
        incarnation: u64,
    ) {
        let mut timeline = Timeline::begin(since);
        timeline.passed(Part::Promotion, now);
        self.timeline = Some(timeline);
        self.status.agent.incarnation.get_or_insert(self.status.incarnation);
        (self.status.name, self.status.incarnation) = (name.to_string(), incarnation);
        self.status.labels.remove(SPARE_LABEL);
        (self.status.started_at, self.status.uptime_ms, self.watched_since) = (unix_ms, 0, now);
        // The guest was booted before.
        self.status.boot_ms = BootTimes { kernel: Some(0), agent: Some(0), daemon: None };
        self.on_start(self.start.clone());
    }

    /// Dials the agent when the time of the next dial has come.
    pub(super) fn dial_when_due(&mut self, now: Instant) {
        let is_due = self.agent.dial_at().is_some_and(|dial_at| now >= dial_at);
        if is_due && self.phase.wants_the_agent() {
            self.agent = self.agent.dialled(now);
            self.effects.push(Effect::Dial);
        }
    }

    pub(super) fn on_agent_down(&mut self, now: Instant) {
        match self.agent {
            // The line redials by itself. This deadline is for the case that its attempts fail.
            AgentLine::Up => {
                self.agent = AgentLine::Lost { dial_at: now }.dialled(now);
                self.mounts.ask_again();
            }
            AgentLine::Expected { .. } | AgentLine::Lost { .. } => {}
        }
    }

    pub(super) fn on_agent_said(&mut self, now: Instant, seq: u64, event: GuestEvent) {
        self.last_heard_at = Some(now);
        match event {
            GuestEvent::Started { pid } => self.on_daemon_started(now, pid),
            GuestEvent::Ready => self.on_daemon_ready(now),
            GuestEvent::Health(said) => self.on_daemon_said(now, said),
            GuestEvent::Exited(exit) => {
                self.effects.push(Effect::Tell(Ask::Ack { seq }));
                self.on_daemon_reported(now, exit, Way::Vsock);
            }
            GuestEvent::Memory { .. } | GuestEvent::Unknown(_) => {}
        }
    }

    /// Handles what the daemon has said through sd_notify(3), and what its agent has noticed.
    fn on_daemon_said(&mut self, now: Instant, said: Health) {
        let Health { watchdog: _, stopping: _, status, extend_timeout_us, main_pid, awake: _, advice } = said;
        if let Some(status) = status {
            self.status.daemon.status = status;
        }
        match self.status.daemon.state {
            DaemonState::Running | DaemonState::Ready => {
                self.status.daemon.pid = main_pid.or(self.status.daemon.pid);
            }
            DaemonState::Pending | DaemonState::Held | DaemonState::Exited | DaemonState::Unknown => {}
        }
        if let Some(us) = extend_timeout_us {
            self.extend_grace(now + Duration::from_micros(us));
        }
        if advice.is_some() {
            self.evidence.advice = advice;
        }
    }

    fn on_daemon_started(&mut self, now: Instant, pid: u32) {
        match self.status.daemon.state {
            DaemonState::Pending
            | DaemonState::Held
            | DaemonState::Running
            | DaemonState::Ready
            | DaemonState::Unknown => {
                (self.status.daemon.pid, self.status.daemon.state) = (Some(pid), DaemonState::Running);
                let since_start_ms = self.since_start_ms(now);
                self.status.boot_ms.daemon.get_or_insert(since_start_ms);
                // A client has started the daemon of a VM that still holds it.
                self.passed(if self.hold { Part::Held } else { Part::Daemon }, now);
                self.send_pending_signals();
            }
            // A guest starts its daemon only once, and the daemon has ended.
            DaemonState::Exited => {}
        }
    }

    fn on_daemon_ready(&mut self, now: Instant) {
        match self.status.daemon.state {
            DaemonState::Running => {
                self.status.daemon.state = DaemonState::Ready;
                self.passed(Part::Ready, now);
            }
            DaemonState::Pending
            | DaemonState::Held
            | DaemonState::Ready
            | DaemonState::Exited
            | DaemonState::Unknown => {}
        }
    }

    /// Handles the agent's answer to the monitor's own order to start the daemon.
    pub(super) fn on_start_answered(&mut self, now: Instant, result: Result<(), WireError>) {
        let refusal = match result {
            // The event `started` reports the pid.
            Ok(()) => return,
            Err(e) => e,
        };
        match refusal.kind {
            // `conflict`: the daemon was started before. `os`: the daemon could not be executed, which the agent also
            // reports as the daemon's end; or the agent hung up before it answered, and gets the order again after the
            // next hello.
            ErrorKind::Conflict | ErrorKind::Os => return,
            ErrorKind::Unsupported
            | ErrorKind::BadRequest
            | ErrorKind::Unauthorized
            | ErrorKind::NotFound
            | ErrorKind::Busy
            | ErrorKind::Timeout
            | ErrorKind::Other => {}
        }
        // An older agent does not know the order to start a daemon in a world of its own.
        let is_too_old = refusal.kind == ErrorKind::Unsupported;
        let advice =
            if is_too_old { " (the agent in the image is too old for it: build the image anew)" } else { "" };
        let why = format!("it could not start the daemon: {refusal}{advice}");
        match self.phase {
            Phase::Created(_) | Phase::Booting(_) | Phase::Running | Phase::Stopping(_) => {
                self.evidence.agent_failed = Some(why);
                self.kill_vmm(now);
            }
            // The VM ends for another reason already.
            Phase::Severed { .. }
            | Phase::Leaving { .. }
            | Phase::Terminating { .. }
            | Phase::Killing { .. }
            | Phase::Ended(_) => {}
        }
    }
}
