//! The life of one incarnation, on one page: what each event means in each phase.
//! Knows no actors, no clock and no I/O; time comes in with each event, effects go out.
#![allow(missing_docs, reason = "each phase, event and effect is one sentence, its fields included")]

mod begin;
mod down;

use crate::executor::ExecutorError;
use crate::policy::{Ending, Exit};
use crate::spec::{Cid, OnUnhealthy, Readiness, Restart, Signal, VmSpec};
use crate::vm::health::{Finding, Health};
use crate::vm::report::{Facts, Mode, Transition};
use pepita_wire::record::DaemonState;
use pepita_wire::{GuestEvent, StatusRecord, VmState};
use std::time::{Duration, Instant};

/// CIDs of other programs that one launch may run into before it counts as failed.
const CID_TRIES: u32 = 64;

/// Before a call that failed is tried again, where there is no way around it.
const CALL_RETRY: Duration = Duration::from_secs(1);

/// How often a VM that will not go away is told about.
const STILL_THERE: Duration = Duration::from_secs(10);

/// A stop of the guest may take this much longer than its grace before we step in: the monitor has the same deadline.
const STOP_SLACK: Duration = Duration::from_millis(500);

/// Where an incarnation is.
#[derive(Debug, Clone)]
pub enum Phase {
    /// Not begun.
    Created,
    /// Waits for its CID; or will ask again, once there is somebody to ask.
    Leasing { retry: Option<Instant> },
    /// The launcher is at work. It cannot be called back, only undone when it is done. Or it will be called again, once
    /// there is somebody to call it.
    Launching { undo: bool, deadline: Instant, tries: u32, retry: Option<Instant> },
    /// The launcher looks for what is there; or will, once there is somebody to call it.
    Adopting { then: Then, retry: Option<Instant> },
    /// The VMM runs, the daemon does not yet.
    Booting { deadline: Instant },
    /// The daemon runs, and is not Ready.
    Running { deadline: Instant },
    /// The daemon is Ready.
    Ready { health: Health },
    /// The virtual CPUs stand still; what they were at.
    Paused { health: Option<Health>, left: Duration },
    /// The monitor takes it down politely.
    Stopping { deadline: Instant },
    /// The launcher removes it.
    Destroying { ending: Ending, since: Instant, retry: Option<Instant>, told: Instant },
    /// Confirmed gone.
    Gone,
}

/// What follows an adoption. It cannot be called back either; the later words are the stronger ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Then {
    /// The VM goes on.
    Watch,
    /// It is stopped politely.
    Stop,
    /// It is ended at once.
    Destroy,
}

/// What can happen.
#[derive(Debug)]
pub enum Event {
    /// Go.
    Begin(Mode),
    /// The allocator's answer; `None` = it failed before it gave one.
    Leased(Option<Result<Cid, String>>),
    /// The launcher's answer to a launch.
    Launched(Result<Box<StatusRecord>, ExecutorError>),
    /// The launcher's answer to an adoption.
    Adopted(Result<Box<StatusRecord>, ExecutorError>),
    /// The monitor's news.
    Status(Box<StatusRecord>),
    /// The monitor is gone.
    MonitorLost(String),
    /// The guest's news.
    Heard(GuestEvent),
    /// The result of a probe.
    Probed { id: u64, healthy: bool },
    /// Take it down.
    Stop,
    /// End it at once.
    Destroy,
    /// The launcher's answer to a destroy.
    Destroyed(Result<(), ExecutorError>),
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Ask the allocator for a CID.
    Lease,
    /// Ask it for another one: this one belongs to another program.
    Avoid,
    /// Tell it which one an adopted VM has.
    Reserve(Cid),
    /// Have the launcher boot it.
    Launch(Cid),
    /// The launch is not wanted any more, if the launcher was not called yet.
    CallOff,
    /// Have the launcher find it.
    Adopt,
    /// Follow its monitor, and know where its agent is.
    Watch(Box<StatusRecord>),
    /// Talk to its agent.
    Connect(Box<StatusRecord>),
    /// Have its monitor take it down.
    StopPolitely { signal: Signal, grace: Duration },
    /// Have the launcher remove it.
    Destroy,
    /// Ask the guest whether it is well.
    Probe(u64),
    /// Tell the group.
    Tell(Transition),
    /// Tell the group what onlookers want to know.
    Facts(Facts),
    /// Tell people.
    Notice(String),
    /// Tell the group that it is gone, and why. The last effect.
    End(Ending),
}

/// One incarnation of a VM.
#[derive(Debug)]
pub struct Life {
    spec: VmSpec,
    phase: Phase,
    connected: bool,
    link_up: bool,
    effects: Vec<Effect>,
}

impl Life {
    /// Not begun.
    pub fn new(spec: VmSpec) -> Self {
        Self { spec, phase: Phase::Created, connected: false, link_up: false, effects: Vec::new() }
    }

    /// Where it is.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// The specification in force.
    pub fn spec(&self) -> &VmSpec {
        &self.spec
    }

    /// Timeouts and probes change for a running VM, too.
    pub fn update(&mut self, spec: VmSpec) {
        self.spec = spec;
    }

    /// The link is there, or not.
    pub fn link(&mut self, up: bool) {
        self.link_up = up;
    }

    /// When to send a [`Event::Tick`].
    pub fn wake_at(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Booting { deadline } | Phase::Running { deadline } | Phase::Stopping { deadline } => {
                Some(*deadline)
            }
            Phase::Ready { health } => health.wake_at(&self.spec.health),
            Phase::Destroying { retry, told, .. } => {
                Some(retry.unwrap_or(*told + STILL_THERE).min(*told + STILL_THERE))
            }
            Phase::Leasing { retry } | Phase::Launching { retry, .. } | Phase::Adopting { retry, .. } => {
                *retry
            }
            Phase::Created | Phase::Paused { .. } | Phase::Gone => None,
        }
    }

    /// Takes in an event.
    pub fn on(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        match event {
            Event::Begin(mode) => self.begin(mode),
            Event::Leased(lease) => self.leased(now, lease),
            Event::Launched(result) => self.launched(now, result),
            Event::Adopted(result) => self.adopted(now, result),
            Event::Status(record) => self.status(now, &record),
            Event::MonitorLost(why) => self.monitor_lost(&why),
            Event::Heard(event) => self.heard(now, &event),
            Event::Probed { id, healthy } => self.probed(now, id, healthy),
            Event::Stop => self.stop(now),
            Event::Destroy => self.destroy_now(now),
            Event::Destroyed(result) => self.destroyed(now, result),
            Event::Tick => self.tick(now),
        }
        std::mem::take(&mut self.effects)
    }

    fn status(&mut self, now: Instant, record: &StatusRecord) {
        if record.state.is_terminal() {
            let ending = record.exit.clone().unwrap_or_default().into();
            return match &self.phase {
                Phase::Booting { .. }
                | Phase::Running { .. }
                | Phase::Ready { .. }
                | Phase::Paused { .. } => {
                    self.gone(ending);
                }
                // It went politely; now its traces go.
                Phase::Stopping { .. } => self.destroy(now, Exit::StopRequested.into()),
                Phase::Created
                | Phase::Leasing { .. }
                | Phase::Launching { .. }
                | Phase::Adopting { .. }
                | Phase::Destroying { .. }
                | Phase::Gone => {}
            };
        }
        if !matches!(
            self.phase,
            Phase::Booting { .. } | Phase::Running { .. } | Phase::Ready { .. } | Phase::Paused { .. }
        ) {
            return;
        }
        let cid = Cid::new(record.vsock.cid).ok();
        self.effects.push(Effect::Facts(Facts { cid, vmm_pid: record.vmm_pid }));
        if record.agent.ready && !self.connected {
            self.connected = true;
            self.effects.push(Effect::Connect(Box::new(record.clone())));
        }
        self.pause_or_resume(now, record.state);
        let runs = matches!(record.daemon.state, DaemonState::Running | DaemonState::Ready);
        if let Phase::Booting { deadline } = self.phase
            && runs
        {
            self.phase = Phase::Running { deadline };
            self.effects.push(Effect::Tell(Transition::Running));
        }
        let ready = match self.spec.start.ready {
            Readiness::Started => runs,
            Readiness::Notify => record.daemon.state == DaemonState::Ready,
        };
        if matches!(self.phase, Phase::Running { .. }) && ready {
            self.phase = Phase::Ready { health: Health::new(&self.spec.health, now) };
            self.effects.push(Effect::Tell(Transition::Ready));
        }
    }

    fn pause_or_resume(&mut self, now: Instant, state: VmState) {
        let paused = state == VmState::Paused;
        match std::mem::replace(&mut self.phase, Phase::Gone) {
            Phase::Ready { health } if paused => {
                self.phase = Phase::Paused { health: Some(health), left: Duration::ZERO };
                self.effects.push(Effect::Tell(Transition::Paused));
            }
            Phase::Running { deadline } if paused => {
                self.phase = Phase::Paused { health: None, left: deadline.saturating_duration_since(now) };
                self.effects.push(Effect::Tell(Transition::Paused));
            }
            Phase::Paused { health, left } if !paused => {
                self.phase = match health {
                    Some(mut health) => {
                        health.restart(&self.spec.health, now);
                        Phase::Ready { health }
                    }
                    None => Phase::Running { deadline: now + left },
                };
                self.effects.push(Effect::Tell(Transition::Resumed));
            }
            phase => self.phase = phase,
        }
    }

    fn monitor_lost(&mut self, why: &str) {
        match self.phase {
            Phase::Booting { .. } | Phase::Running { .. } | Phase::Ready { .. } | Phase::Paused { .. } => {
                self.effects.push(Effect::Notice(format!("its monitor is gone ({why}); looking for the VM")));
                self.phase = Phase::Adopting { then: Then::Watch, retry: None };
                self.effects.push(Effect::Adopt);
            }
            // Most often it had nothing more to do: it ended between its news and our next question.
            Phase::Stopping { .. } => {
                self.phase = Phase::Adopting { then: Then::Stop, retry: None };
                self.effects.push(Effect::Adopt);
            }
            // The destroy under way will see to it.
            Phase::Created
            | Phase::Leasing { .. }
            | Phase::Launching { .. }
            | Phase::Adopting { .. }
            | Phase::Destroying { .. }
            | Phase::Gone => {}
        }
    }

    fn heard(&mut self, now: Instant, event: &GuestEvent) {
        match (event, &mut self.phase) {
            (GuestEvent::Health(told), Phase::Ready { health }) if told.watchdog => health.fed(now),
            (GuestEvent::Health(told), Phase::Booting { deadline } | Phase::Running { deadline }) => {
                if let Some(us) = told.extend_timeout_us {
                    *deadline = (*deadline).max(now + Duration::from_micros(us));
                }
            }
            // The monitor hears of these too, and its record counts.
            (
                GuestEvent::Health(_)
                | GuestEvent::Started { .. }
                | GuestEvent::Ready
                | GuestEvent::Memory { .. }
                | GuestEvent::Exited(_)
                | GuestEvent::Unknown(_),
                _,
            ) => {}
        }
    }

    fn probed(&mut self, now: Instant, id: u64, healthy: bool) {
        if let Phase::Ready { health } = &mut self.phase {
            let finding = health.probed(&self.spec.health, now, id, healthy);
            self.found(now, finding.into_iter().collect());
        }
    }

    fn found(&mut self, now: Instant, findings: Vec<Finding>) {
        for finding in findings {
            match finding {
                Finding::Probe(id) => self.effects.push(Effect::Probe(id)),
                Finding::Healthy => self.effects.push(Effect::Tell(Transition::Healthy)),
                Finding::Unhealthy => {
                    self.effects.push(Effect::Tell(Transition::Unhealthy));
                    let fatal = self.spec.health.on_unhealthy == OnUnhealthy::Restart
                        && self.spec.restart.policy != Restart::Never;
                    if fatal {
                        return self.destroy(now, Health::ending(self.link_up));
                    }
                }
                Finding::WatchdogExpired => return self.destroy(now, Ending::WatchdogExpired),
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Booting { deadline } | Phase::Running { deadline } if now >= *deadline => {
                self.destroy(now, Ending::StartTimeout);
            }
            Phase::Stopping { deadline } if now >= *deadline => {
                self.effects.push(Effect::Notice("did not stop in time; it is destroyed".into()));
                self.destroy(now, Exit::StopRequested.into());
            }
            Phase::Ready { health } => {
                let findings = health.tick(&self.spec.health, now);
                self.found(now, findings);
            }
            Phase::Leasing { retry } | Phase::Launching { retry, .. } => {
                if retry.is_some_and(|at| now >= at) {
                    *retry = None;
                    // One that has its CID already is given the same.
                    self.effects.push(Effect::Lease);
                }
            }
            Phase::Adopting { retry, .. } => {
                if retry.is_some_and(|at| now >= at) {
                    *retry = None;
                    self.effects.push(Effect::Adopt);
                }
            }
            Phase::Destroying { since, retry, told, .. } => {
                if retry.is_some_and(|at| now >= at) {
                    *retry = None;
                    self.effects.push(Effect::Destroy);
                }
                if now - *told >= STILL_THERE {
                    *told = now;
                    let seconds = (now - *since).as_secs();
                    self.effects
                        .push(Effect::Notice(format!("still there {seconds} s after it was to be gone")));
                }
            }
            Phase::Booting { .. }
            | Phase::Running { .. }
            | Phase::Stopping { .. }
            | Phase::Created
            | Phase::Paused { .. }
            | Phase::Gone => {}
        }
    }
}
