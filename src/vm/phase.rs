//! The life of one incarnation of a VM: the meaning of each event in each phase. Knows no actors, no clock and no I/O:
//! the time comes in with each event, and effects go out.
//!
//! ```text
//!            Start(Launch)           Leased                Launched
//!   Created ──────────────▶ Leasing ────────▶ Launching ─────────────▶ Alive ◀────────┐
//!      │                       ▲                 │ │                    │ │           │
//!      │                       └─────────────────┘ │ Stop, Kill         │ │ monitor   │ Adopted
//!      │                   not called, CID taken   ▼                    │ │ lost      │ the monitor answers
//!      │                                        Undoing                 │ ▼           │
//!      │  Start(Adopt)                             │             ┌──▶ Adopting ───────┘
//!      └───────────────────────────────────────────┼─────────────┘      │ ▲
//!                                                  │                    │ │ monitor lost
//!                                                  │ Stop of a daemon,  │ │
//!                                                  │ unhealthy   ┌──────┼─┴───┐
//!                                                  │     Alive ─▶│  Stopping  │
//!                                                  │             └──────┬─────┘
//!                                                  ▼                    ▼
//!          Alive ── Kill, late ────────────▶ Removing ◀─────────────────┘
//!                                                  │ Removed
//!          Alive ── ended by itself ──▶ Gone ◀─────┘
//!
//!   Alive:   Booting ── daemon runs ──▶ Running ── Ready (semantics 1.6) ──▶ Ready
//!                                         ▲ │                                ▲ │
//!                                         │ ▼ pause (semantics 2.6)          │ ▼
//!                                        Paused                             Paused
//! ```
//!
//! A VM that ends by itself leaves its traces to the group, which has the launcher remove them before the next launch.

mod adopt;
mod alive;
mod end;
mod sleep;
mod spare;
mod start;
#[cfg(test)]
mod tests;

use crate::executor::{ExecutorError, LaunchStep};
use crate::observe::ProbeStatus;
use crate::policy::Ending;
use crate::spec::{Cid, HealthSpec, Readiness, Signal, VmName, VmSpec};
use crate::vm::drowsiness::Drowsiness;
use crate::vm::health::{FirstProbes, Health, in_force};
use crate::vm::probe::Answer;
use crate::vm::report::{Facts, Mode, Transition};
use pepita_wire::image::UsedImage;
use pepita_wire::record::Timings;
use pepita_wire::{GuestEvent, MonitorRequest, StatusRecord};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The delay before a call that failed is made again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The longest delay before an adoption that fails again and again is tried once more.
const ADOPTION_DELAY_MAX: Duration = Duration::from_secs(30);

/// The time limit for the first answer of a monitor: one that is silent for longer counts as hung.
const MONITOR_PATIENCE: Duration = Duration::from_secs(3);

/// The interval of notices about a VM that cannot be removed (semantics 7.2).
const STILL_THERE_PERIOD: Duration = Duration::from_secs(10);

/// The phase of an incarnation.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// The incarnation was not started yet.
    Created,
    /// The allocator is asked for a CID.
    Leasing {
        /// The launch that the CID is for, if a launch was tried already.
        attempt: Option<Attempt>,
        /// The moment to ask the allocator again: it failed before it answered.
        retry_at: Option<Instant>,
    },
    /// The launcher is at work, or its call waits for its turn.
    Launching(Attempt),
    /// The launcher is at work as in `Launching`, but the VM is not wanted any more. A launch cannot be cancelled, only
    /// undone when it is done.
    Undoing,
    /// The launcher looks for the VM and makes sure that it has a monitor, and the monitor is asked for the VM's state.
    Adopting(Adoption),
    /// The VMM runs and the monitor watches it.
    Alive {
        /// The progress of the VM.
        stage: Stage,
        /// The connection to the guest agent.
        link: Link,
    },
    /// The monitor stops the daemon.
    Stopping {
        /// The moment at which the VM is killed.
        deadline: Instant,
        /// How the incarnation ended: by a stop that was asked for, or because of its health (semantics 1.12).
        ending: Ending,
    },
    /// The launcher kills what is left of the VM and removes its traces.
    Removing {
        /// How the incarnation ended.
        ending: Ending,
        /// The moment at which the removal began.
        since: Instant,
        /// The moment to call the launcher again.
        retry_at: Option<Instant>,
        /// The moment to report that the VM still exists.
        notice_at: Instant,
        /// The error that was reported last.
        said: String,
    },
    /// The VM is confirmed gone.
    Gone,
}

/// A launch under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Attempt {
    /// The moment at which the VM must be Ready. Counted from the first call of the launcher (semantics 1.7), and unknown
    /// before.
    deadline: Option<Instant>,
    /// The number of CIDs that turned out to belong to other programs.
    taken_cids: u32,
    /// Whether people were told that the launcher cannot be run.
    is_told: bool,
}

/// An adoption under way. It goes on until the VM is found or confirmed gone: a VM that cannot be reached is left as it
/// is (semantics 9.14).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Adoption {
    /// The treatment of the VM after the adoption.
    intent: Intent,
    /// The step that is under way.
    search: Search,
    /// The number of steps in a row that failed.
    failures: u32,
    /// The error that was reported last.
    said: String,
    /// Whether the group was told that the VM cannot be reached.
    is_unreachable: bool,
}

/// The treatment of a VM after its adoption. A later intent replaces a weaker one; a kill does not wait for the adoption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intent {
    /// The VM goes on.
    Watch,
    /// The VM is stopped.
    Stop {
        /// The moment at which the VM is killed.
        deadline: Instant,
    },
}

/// A step of an adoption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Search {
    /// The launcher is asked.
    Calling,
    /// The last step failed, and the launcher is asked again later.
    Pausing {
        /// The moment to ask.
        until: Instant,
    },
    /// The launcher has found the VM, and its monitor is asked. What the launcher says may come from a file: only a
    /// monitor that answers shows that it works.
    Asking {
        /// The moment at which the monitor counts as silent; `None` when that moment has come.
        silent_at: Option<Instant>,
    },
}

/// The progress of a VM that lives.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    /// The daemon does not run yet.
    Booting {
        /// The moment at which the VM must be Ready.
        deadline: Instant,
    },
    /// The VM is a spare whose guest agent is up, and whose daemon waits to be started.
    Spare,
    /// The daemon runs and is not Ready.
    Running {
        /// The moment at which the VM must be Ready.
        deadline: Instant,
        /// The probes, of which the first good one makes the VM Ready if `start.ready` says so.
        probes: FirstProbes,
    },
    /// The daemon is Ready.
    Ready {
        /// The health of this incarnation.
        health: Health,
    },
    /// The virtual CPUs are stopped.
    Paused(Suspended),
}

/// The stage that a pause has interrupted.
#[derive(Debug, Clone)]
pub(super) enum Suspended {
    /// The pause interrupted `Running`.
    Running {
        /// The time that was left to become Ready.
        time_left: Duration,
        /// The probes before the pause.
        probes: FirstProbes,
    },
    /// The pause interrupted `Ready`.
    Ready {
        /// The health before the pause.
        health: Health,
        /// Whether the next client ends the pause.
        is_asleep: bool,
    },
}

/// The connection to the guest agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// The agent has not answered its monitor yet: a connection cannot be made.
    NotDialled,
    /// The link dials.
    Down,
    /// The agent has said hello.
    Up,
}

/// An event in the life of an incarnation.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// The actor was started.
    Start(Mode),
    /// The allocator answered; `None` = it failed before the answer.
    Leased(Option<Result<Cid, String>>),
    /// The launch goes on, and is not answered yet.
    LaunchGoesOn(LaunchStep),
    /// The launcher answered to a launch.
    Launched(Result<Box<StatusRecord>, ExecutorError>),
    /// The launcher answered to an adoption.
    Adopted(Result<Box<StatusRecord>, ExecutorError>),
    /// The monitor reported the state of the VM.
    Status(Box<StatusRecord>),
    /// The monitor is gone, for this reason.
    MonitorLost(String),
    /// The link came up or went down.
    LinkIsUp(bool),
    /// The guest agent reported an event.
    Guest(GuestEvent),
    /// A probe was answered, or could not be made.
    Probed { id: u64, answer: Answer },
    /// The VM is to be stopped.
    Stop,
    /// The VM is to be put to sleep.
    Sleep,
    /// The monitor answered to a request to put the VM to sleep.
    SleepAnswered(Result<(), String>),
    /// The VM is to be killed.
    Kill,
    /// The launcher answered to a removal.
    Removed(Result<(), ExecutorError>),
    /// The VM is a spare, and takes the place of the VM with this specification.
    Promote(Arc<VmSpec>),
    /// The monitor answered to a promotion.
    Promoted(Result<(), String>),
    /// Time has passed.
    Tick,
}

/// An effect of an event.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Effect {
    /// Ask the allocator for a CID. A VM that holds a CID gets the same again.
    Lease,
    /// Ask the allocator for another CID: this one belongs to another program.
    LeaseAnother,
    /// Tell the allocator which CID an adopted VM has.
    Reserve(Cid),
    /// Have the launcher boot the VM.
    Launch(Cid),
    /// Cancel the launch, if it still waits for its turn.
    CancelLaunch,
    /// Have the launcher find the VM.
    Adopt,
    /// Watch the VM through its monitor.
    Watch(Box<StatusRecord>),
    /// Talk to the guest agent.
    Connect(Box<StatusRecord>),
    /// Ask the monitor to put the VM to sleep, unless a client has come.
    Sleep(MonitorRequest),
    /// Have the monitor stop the daemon.
    StopDaemon { signal: Signal, grace: Duration },
    /// Have the launcher kill what is left of the VM and remove its traces.
    Remove,
    /// Have the launcher do that under the name that the VM had as a spare, and then under its own: the promotion may have come
    /// to any point.
    RemoveBoth { spare: VmName },
    /// Have the monitor make the spare the VM that it is from now on, and publish the ports of that.
    Promote,
    /// Probe the guest.
    Probe(u64),
    /// Tell the group what the probes have found.
    Probed(ProbeStatus),
    /// Tell the group that the VM has changed.
    Tell(Transition),
    /// Tell the group the facts that observers see.
    Facts(Facts),
    /// Tell the group the parts of the start.
    Timings(Box<Timings>),
    /// Tell people a notice.
    Notice(String),
    /// Tell the group that the VM is gone. This is the last effect.
    End(Ending),
}

/// The part that a VM plays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    /// The VM of the configuration.
    Vm,
    /// A spare for it.
    Spare,
    /// A spare that is being promoted; the monitor has not answered yet.
    Promoting {
        /// The name of the spare.
        spare: VmName,
    },
}

/// One incarnation of a VM.
#[derive(Debug)]
pub(super) struct Life {
    spec: Arc<VmSpec>,
    /// The container image that the VM boots, as its record tells of it.
    image: Option<Box<UsedImage>>,
    /// The probes in force: those of the specification, completed by those of the image.
    health: HealthSpec,
    phase: Phase,
    facts: Facts,
    /// The error of the host's disk that was told last.
    disk_error: Option<String>,
    /// Whether it was told which layers the jail lacks.
    is_shortfall_told: bool,
    /// Whether the VM was found, so that it may have been Ready before.
    is_adopted: bool,
    /// Whether the VM is a spare, or being made one no longer.
    role: Role,
    /// Whether it was told that the guest agent is too old for the probes.
    is_old_agent_told: bool,
    /// The result of the probes that was told last.
    probe: Option<ProbeStatus>,
    /// What is known of the time for which the VM is idle.
    drowsiness: Drowsiness,
    effects: Vec<Effect>,
}

impl Life {
    /// Makes an incarnation that waits for its [`Event::Start`].
    pub(super) fn new(spec: Arc<VmSpec>, is_spare: bool) -> Self {
        let health = spec.health.clone();
        Self {
            spec,
            image: None,
            health,
            phase: Phase::Created,
            facts: Facts::default(),
            disk_error: None,
            is_shortfall_told: false,
            is_adopted: false,
            role: if is_spare { Role::Spare } else { Role::Vm },
            is_old_agent_told: false,
            probe: None,
            drowsiness: Drowsiness::default(),
            effects: Vec::new(),
        }
    }

    /// Returns the specification in force.
    pub(super) fn spec(&self) -> &Arc<VmSpec> {
        &self.spec
    }

    /// Returns whether a tick at `now` judges the VM by time: a deadline of the boot, a probe or the watchdog has passed. The
    /// beginning of a probe judges nothing.
    pub(super) fn judges(&self, now: Instant) -> bool {
        let Phase::Alive { stage, .. } = &self.phase else { return false };
        match stage {
            Stage::Booting { deadline } => now >= *deadline,
            Stage::Running { deadline, probes } => now >= *deadline || probes.is_late(now),
            Stage::Ready { health } => health.is_late(&self.health, now),
            Stage::Spare | Stage::Paused(_) => false,
        }
    }

    /// Returns whether what is due at `at` may be done a moment later: only a probe begins then, and those of other VMs do.
    pub(super) fn may_wait(&self, at: Instant) -> bool {
        let Phase::Alive { stage: Stage::Ready { health }, .. } = &self.phase else { return false };
        health.only_begins_probe(&self.health, at)
    }

    /// Changes timeouts and probes, which apply to a running VM, too.
    pub(super) fn update(&mut self, spec: Arc<VmSpec>) {
        if self.spec.idle != spec.idle {
            self.drowsiness.begin_anew();
        }
        self.spec = spec;
        self.complete_health();
    }

    /// Returns the probes in force.
    pub(super) fn health(&self) -> &HealthSpec {
        &self.health
    }

    /// Takes in what a record tells of the VM's image. A record that tells nothing of it changes nothing.
    fn learn_image(&mut self, record: &StatusRecord) {
        if record.image.is_some() && record.image != self.image {
            self.image = record.image.clone();
            self.complete_health();
        }
    }

    fn complete_health(&mut self) {
        let of_image = self.image.as_ref().and_then(|image| image.health.as_ref());
        self.health = in_force(&self.spec.health, of_image);
    }

    /// Returns the signal that asks the daemon to end.
    fn stop_signal(&self) -> Signal {
        let of_image = || self.image.as_ref().and_then(|image| image.stop_signal);
        self.spec.stop.signal.or_else(of_image).unwrap_or(Signal::TERM)
    }

    /// Returns the moment at which [`Event::Tick`] is due.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Leasing { retry_at, .. } => *retry_at,
            Phase::Adopting(adoption) => adoption.wake_at(),
            Phase::Alive { stage, link } => match stage {
                Stage::Booting { deadline } => Some(*deadline),
                Stage::Running { deadline, probes } => {
                    let probe_at = asks_first(&self.spec, *link).then(|| probes.wake_at());
                    Some(probe_at.map_or(*deadline, |at| at.min(*deadline)))
                }
                Stage::Ready { health } => {
                    let sleep_at = self.drowsiness.wake_at(&self.spec.idle).filter(|_| health.is_well());
                    health.wake_at(&self.health).into_iter().chain(sleep_at).min()
                }
                Stage::Spare | Stage::Paused(_) => None,
            },
            Phase::Stopping { deadline, .. } => Some(*deadline),
            Phase::Removing { retry_at, notice_at, .. } => {
                Some(retry_at.map_or(*notice_at, |at| at.min(*notice_at)))
            }
            Phase::Created | Phase::Launching(_) | Phase::Undoing | Phase::Gone => None,
        }
    }

    /// Takes in an event and returns its effects, in this order.
    pub(super) fn on(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        match event {
            Event::Start(mode) => self.start(mode),
            Event::Leased(lease) => self.leased(now, lease),
            Event::LaunchGoesOn(step) => self.launch_goes_on(now, step),
            Event::Launched(result) => self.launched(now, result),
            Event::Adopted(result) => self.adopted(now, result),
            Event::Status(record) => self.status(now, &record),
            Event::MonitorLost(why) => self.monitor_lost(now, &why),
            Event::LinkIsUp(up) => self.link_is_up(up),
            Event::Guest(event) => self.guest_event(now, &event),
            Event::Probed { id, answer } => self.probed(now, id, answer),
            Event::Stop => self.stop(now),
            Event::Sleep => self.sleep(),
            Event::SleepAnswered(result) => self.sleep_answered(now, result),
            Event::Kill => self.kill(now),
            Event::Removed(result) => self.removed(now, result),
            Event::Promote(spec) => self.promote(now, spec),
            Event::Promoted(result) => self.promoted(now, result),
            Event::Tick => self.tick(now),
        }
        std::mem::take(&mut self.effects)
    }

    fn tick(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Leasing { retry_at, .. } => {
                if is_due(retry_at, now) {
                    self.effects.push(Effect::Lease);
                }
            }
            Phase::Adopting(_) => self.tick_adopting(now),
            Phase::Alive { .. } => self.tick_alive(now),
            Phase::Stopping { deadline, ending } => {
                if now >= *deadline {
                    let ending = ending.clone();
                    self.late_stop(now, ending);
                }
            }
            Phase::Removing { since, retry_at, notice_at, said, .. } => {
                let is_due = is_due(retry_at, now);
                if now >= *notice_at {
                    *notice_at = now + STILL_THERE_PERIOD;
                    let seconds = (now - *since).as_secs();
                    let why = if said.is_empty() { String::new() } else { format!(": {said}") };
                    let text = format!("still exists {seconds} s after its removal began{why}");
                    self.effects.push(Effect::Notice(text));
                }
                if is_due {
                    self.effects.push(self.removal());
                }
            }
            Phase::Created | Phase::Launching(_) | Phase::Undoing | Phase::Gone => {}
        }
    }

    fn know(&mut self, facts: Facts) {
        if self.facts != facts {
            self.facts = facts;
            self.effects.push(Effect::Facts(facts));
        }
    }
}

/// Returns whether a VM that is not Ready yet is to be probed: its probes make it Ready, and its agent can be asked.
fn asks_first(spec: &VmSpec, link: Link) -> bool {
    spec.start.ready == Readiness::Health && link == Link::Up
}

/// Takes a moment that has come, and returns whether there was one.
fn is_due(at: &mut Option<Instant>, now: Instant) -> bool {
    at.take_if(|at| now >= *at).is_some()
}
