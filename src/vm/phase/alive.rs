//! The events of a VM that lives: its progress, its health, its pauses.

use super::end::STOP_SLACK;
use super::{Effect, Life, Link, Phase, Role, Stage, Suspended, asks_first};
use crate::observe::last_words;
use crate::policy::Ending;
use crate::spec::{Cid, HealthSpec, OnUnhealthy, Readiness, StopSpec};
use crate::vm::health::{Finding, FirstProbes, Health};
use crate::vm::probe::Answer;
use crate::vm::report::{Facts, Transition};
use pepita_wire::record::DaemonState;
use pepita_wire::{Exit, GuestEvent, StatusRecord, VmState};
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Life {
    pub(super) fn status(&mut self, now: Instant, record: &StatusRecord) {
        match &mut self.phase {
            Phase::Removing { ending, .. } if record.state.is_terminal() => {
                // The supervisor has decided on this end. What the guest said last is known only now.
                let console = record.exit.as_ref().map(|exit| exit.console.as_slice()).unwrap_or_default();
                match ending {
                    Ending::Exit(known) if known.console.is_empty() => {
                        Arc::make_mut(known).console = console.to_vec();
                    }
                    Ending::Exit(_) => {}
                    Ending::NotLaunched { .. }
                    | Ending::Unreadable { .. }
                    | Ending::StartTimeout
                    | Ending::Unhealthy
                    | Ending::WatchdogExpired
                    | Ending::ActorFailed { .. } => {
                        self.effects.extend(last_words(console).map(Effect::Notice));
                    }
                }
            }
            Phase::Alive { .. } if record.state.is_terminal() => {
                let exit = record.exit.clone().unwrap_or_default();
                // What the daemon's own end alone would not tell, such as that it went to the background.
                self.effects.extend(exit.advice.clone().map(Effect::Notice));
                self.gone(exit.into());
            }
            Phase::Alive { .. } => self.alive(now, record),
            // The daemon has stopped; now the traces of the VM are removed.
            Phase::Stopping { ending, .. } if record.state.is_terminal() => {
                let ending = ending.clone();
                self.remove(now, ending);
            }
            Phase::Adopting(_) => self.answered(now, record),
            Phase::Stopping { .. }
            | Phase::Created
            | Phase::Leasing { .. }
            | Phase::Launching(_)
            | Phase::Undoing
            | Phase::Removing { .. }
            | Phase::Gone => {}
        }
    }

    fn alive(&mut self, now: Instant, record: &StatusRecord) {
        self.learn_image(record);
        let cid = Cid::new(record.vsock.cid).ok();
        self.know(Facts { cid, vmm_pid: record.vmm_pid, ..Facts::default() });
        if let Some(error) = &record.disk_error
            && self.disk_error.as_ref() != Some(error)
        {
            let text = format!("the host's disk failed, and the guest got an error of its disk: {error}");
            self.effects.push(Effect::Notice(text));
            self.disk_error = Some(error.clone());
        }
        let shortfall =
            record.jail.as_ref().filter(|_| !self.is_shortfall_told).and_then(|jail| jail.shortfall());
        if let Some(shortfall) = shortfall {
            let text = format!("the jail of the VMM (best-effort) lacks layers: {shortfall}");
            self.effects.push(Effect::Notice(text));
            self.is_shortfall_told = true;
        }
        let Phase::Alive { link, .. } = &mut self.phase else { return };
        if record.agent.ready && *link == Link::NotDialled {
            *link = Link::Down;
            self.effects.push(Effect::Connect(Box::new(record.clone())));
        }
        let is_linked = *link == Link::Up;
        if self.role == Role::Spare {
            return self.spare_status(now, record.agent.ready);
        }
        self.drowsiness.heard(now, record);
        // Of a VM that was found, the start is long over.
        let timings = || record.timings.clone().filter(|_| !self.is_adopted).map(Effect::Timings);
        let Self { spec, health: health_spec, phase: Phase::Alive { stage, .. }, effects, .. } = self else {
            return;
        };
        if let Some(transition) = stage.follow(now, record, health_spec) {
            effects.push(Effect::Tell(transition));
        }
        let (runs, said_ready) = match record.daemon.state {
            DaemonState::Running => (true, false),
            DaemonState::Ready => (true, true),
            DaemonState::Pending | DaemonState::Held | DaemonState::Exited | DaemonState::Unknown => {
                (false, false)
            }
        };
        let is_ready = match spec.start.ready {
            Readiness::Started => runs,
            Readiness::Notify => said_ready,
            // Its probes decide.
            Readiness::Health => false,
        };
        // It was Ready before it fell asleep.
        let is_ready = is_ready || runs && record.asleep;
        if let Stage::Booting { deadline } = *stage
            && runs
        {
            *stage = Stage::Running { deadline, probes: FirstProbes::new(now) };
            effects.push(Effect::Tell(Transition::Running));
            if !is_ready && spec.start.ready == Readiness::Health {
                effects.extend(timings());
            }
        }
        if matches!(stage, Stage::Running { .. }) && is_ready {
            effects.extend(timings());
            let mut health = Health::new(health_spec, now, is_linked);
            if self.is_adopted {
                health = health.spread(health_spec, now, spec.name.as_str());
            }
            *stage = Stage::Ready { health };
            effects.push(Effect::Tell(Transition::Ready));
        }
        // The first record of a VM that is adopted while it is paused brings it here: nothing may run against it (2.6).
        if let Some(transition) = stage.follow(now, record, health_spec) {
            effects.push(Effect::Tell(transition));
        }
    }

    pub(super) fn link_is_up(&mut self, up: bool) {
        let Phase::Alive { stage, link } = &mut self.phase else { return };
        match link {
            Link::Down | Link::Up if up => {
                *link = Link::Up;
                if let Stage::Ready { health } | Stage::Paused(Suspended::Ready { health, .. }) = stage {
                    health.linked();
                }
            }
            Link::Down | Link::Up => *link = Link::Down,
            Link::NotDialled => {}
        }
    }

    pub(super) fn guest_event(&mut self, now: Instant, event: &GuestEvent) {
        match event {
            GuestEvent::Health(said) => self.said(now, said),
            // The monitor receives these, too, and its record counts.
            GuestEvent::Started { .. }
            | GuestEvent::Ready
            | GuestEvent::Memory { .. }
            | GuestEvent::Exited(_)
            | GuestEvent::Unknown(_) => {}
        }
    }

    /// Takes in what the daemon has said through sd_notify(3).
    fn said(&mut self, now: Instant, said: &pepita_wire::agent::Health) {
        let extended = said.extend_timeout_us.and_then(|us| now.checked_add(Duration::from_micros(us)));
        match &mut self.phase {
            Phase::Alive { stage: Stage::Booting { deadline } | Stage::Running { deadline, .. }, .. } => {
                // The daemon moves the deadline to later, never to earlier (semantics 1.7).
                *deadline = extended.map_or(*deadline, |extended| extended.max(*deadline));
            }
            Phase::Alive { stage: Stage::Ready { health }, .. } => {
                if said.watchdog {
                    health.watchdog_fed(now);
                }
                if said.stopping {
                    let StopSpec { timeout, .. } = self.spec.stop;
                    let usual = StopSpec::default().timeout;
                    health.suspend(now + if timeout.is_zero() { usual } else { timeout });
                }
                if let Some(until) = extended {
                    health.extend(until);
                }
            }
            Phase::Stopping { deadline, .. } => {
                // The monitor gives the daemon the same time (semantics 7.14).
                let extended = extended.and_then(|extended| extended.checked_add(STOP_SLACK));
                *deadline = extended.map_or(*deadline, |extended| extended.max(*deadline));
            }
            Phase::Alive { stage: Stage::Spare | Stage::Paused(_), .. }
            | Phase::Created
            | Phase::Leasing { .. }
            | Phase::Launching(_)
            | Phase::Undoing
            | Phase::Adopting(_)
            | Phase::Removing { .. }
            | Phase::Gone => {}
        }
    }

    pub(super) fn probed(&mut self, now: Instant, id: u64, answer: Answer) {
        let Self {
            health: health_spec, phase: Phase::Alive { stage, .. }, effects, is_old_agent_told, ..
        } = self
        else {
            return;
        };
        if answer == Answer::TooOld && !std::mem::replace(is_old_agent_told, true) {
            let key = health_spec.check().key();
            let text = format!(
                "its guest agent is too old for {key}, so only the agent itself is probed; build its image anew"
            );
            effects.push(Effect::Notice(text));
        }
        match stage {
            Stage::Ready { health } => {
                let finding = health.probed(health_spec, now, id, answer);
                self.tell_probe();
                self.act_on(now, finding);
            }
            Stage::Running { probes, .. } => {
                let is_ready = probes.probed(health_spec, now, id, answer);
                self.tell_probe();
                if is_ready {
                    self.ready_after_probes(now);
                }
            }
            Stage::Booting { .. } | Stage::Spare | Stage::Paused(_) => {}
        }
    }

    /// Tells the result of the newest probe, if it is another one than before.
    fn tell_probe(&mut self) {
        let Phase::Alive { stage, .. } = &self.phase else { return };
        let last = match stage {
            Stage::Running { probes, .. } => probes.last(),
            Stage::Ready { health } => health.last(),
            Stage::Booting { .. } | Stage::Spare | Stage::Paused(_) => None,
        };
        if let Some(last) = last.filter(|last| self.probe.as_ref() != Some(last)).cloned() {
            self.probe = Some(last.clone());
            self.effects.push(Effect::Probed(last));
        }
    }

    /// Makes a VM Ready whose probes decide on that, if they still do.
    fn ready_after_probes(&mut self, now: Instant) {
        let Self { spec, health, phase: Phase::Alive { stage, .. }, effects, .. } = self else { return };
        if let Stage::Running { probes, .. } = stage
            && spec.start.ready == Readiness::Health
        {
            *stage = Stage::Ready { health: Health::after(probes.clone(), health, now) };
            effects.push(Effect::Tell(Transition::Ready));
        }
    }

    pub(super) fn tick_alive(&mut self, now: Instant) {
        let Self { spec, health: health_spec, phase: Phase::Alive { stage, link }, effects, .. } = self
        else {
            return;
        };
        match stage {
            Stage::Booting { deadline } => {
                if now >= *deadline {
                    self.remove(now, Ending::StartTimeout);
                }
            }
            Stage::Running { deadline, probes } => {
                let is_late = now >= *deadline;
                if asks_first(spec, *link) {
                    let due = probes.tick(health_spec, now).filter(|_| !is_late);
                    effects.extend(due.map(Effect::Probe));
                    self.tell_probe();
                }
                match self.spec.start.ready {
                    // The VM has probably been Ready before, and its probes fail at the moment: from now on they count.
                    Readiness::Health if is_late && self.is_adopted => self.ready_after_probes(now),
                    Readiness::Health | Readiness::Started | Readiness::Notify if is_late => {
                        self.remove(now, Ending::StartTimeout);
                    }
                    Readiness::Health | Readiness::Started | Readiness::Notify => {}
                }
            }
            Stage::Ready { health } => {
                let findings = health.tick(health_spec, now);
                self.tell_probe();
                self.act_on(now, findings);
                self.tick_drowsiness(now);
            }
            Stage::Spare | Stage::Paused(_) => {}
        }
    }

    /// Acts on the findings of the health check, up to the finding that ends the VM.
    fn act_on(&mut self, now: Instant, findings: impl IntoIterator<Item = Finding>) {
        for finding in findings {
            match finding {
                Finding::Probe(id) => self.effects.push(Effect::Probe(id)),
                Finding::Healthy => self.effects.push(Effect::Tell(Transition::Healthy)),
                Finding::Unhealthy => {
                    self.effects.push(Effect::Tell(Transition::Unhealthy));
                    if self.unhealthy_is_fatal() {
                        let grace = self.spec.health.stop_timeout;
                        return self.begin_stop(now, grace, self.unhealthy_ending());
                    }
                }
                Finding::WatchdogExpired => {
                    let grace = self.spec.health.stop_timeout;
                    return self.begin_stop(now, grace, Ending::WatchdogExpired);
                }
            }
        }
    }

    fn unhealthy_is_fatal(&self) -> bool {
        match self.spec.health.on_unhealthy {
            OnUnhealthy::Restart => self.spec.restart.policy.ever_restarts(),
            OnUnhealthy::Report => false,
        }
    }

    /// Returns the end of a VM whose probes fail (semantics 1.12).
    fn unhealthy_ending(&self) -> Ending {
        let link_is_up = matches!(self.phase, Phase::Alive { link: Link::Up, .. });
        if link_is_up { Ending::Unhealthy } else { Exit::AgentLost { message: String::new() }.into() }
    }
}

impl Stage {
    /// Follows the virtual CPUs as a record tells of them. A pause that no client ends may follow on one that a client
    /// ends, and the reverse.
    fn follow(
        &mut self,
        now: Instant,
        record: &StatusRecord,
        health_spec: &HealthSpec,
    ) -> Option<Transition> {
        let is_paused = record.state == VmState::Paused;
        let was_asleep = matches!(self, Self::Paused(Suspended::Ready { is_asleep: true, .. }));
        let transition = self.pause_or_resume(now, is_paused, health_spec);
        let Self::Paused(Suspended::Ready { is_asleep, .. }) = self else { return transition };
        *is_asleep = record.asleep;
        match (was_asleep, record.asleep) {
            (false, true) => Some(Transition::Asleep),
            (true, false) => Some(Transition::Paused),
            (true, true) | (false, false) => transition,
        }
    }

    /// Follows the virtual CPUs (semantics 2.6). A pause of a VM that boots interrupts only its deadline, and is not
    /// reported.
    fn pause_or_resume(
        &mut self,
        now: Instant,
        is_paused: bool,
        health_spec: &HealthSpec,
    ) -> Option<Transition> {
        let (stage, transition) = match (&*self, is_paused) {
            (Self::Running { deadline, probes }, true) => {
                let time_left = deadline.saturating_duration_since(now);
                let probes = probes.clone();
                (Self::Paused(Suspended::Running { time_left, probes }), Transition::Paused)
            }
            (Self::Ready { health }, true) => (
                Self::Paused(Suspended::Ready { health: health.clone(), is_asleep: false }),
                Transition::Paused,
            ),
            (Self::Paused(Suspended::Running { time_left, probes }), false) => {
                let probes = probes.clone().restarted(now);
                (Self::Running { deadline: now + *time_left, probes }, Transition::Resumed)
            }
            (Self::Paused(Suspended::Ready { health, .. }), false) => {
                let health = health.clone().restarted(health_spec, now);
                (Self::Ready { health }, Transition::Resumed)
            }
            (Self::Booting { .. } | Self::Spare | Self::Paused(_), true)
            | (Self::Booting { .. } | Self::Spare | Self::Running { .. } | Self::Ready { .. }, false) => {
                return None;
            }
        };
        *self = stage;
        Some(transition)
    }
}
