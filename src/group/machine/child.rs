//! The facts that a group keeps about one VM. No decisions are made here.

use crate::journal::{Remembered, Wanted};
use crate::observe::VmPhase;
use crate::policy::{Ending, Failure};
use crate::spec::{Incarnation, VmName, VmSpec};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A VM in the roster: the facts that hold in every phase.
#[derive(Debug, Clone)]
pub(crate) struct Child {
    pub(crate) spec: Arc<VmSpec>,
    pub(crate) phase: Phase,
    pub(crate) wanted: Wanted,
    /// Consecutive counted failures.
    pub(crate) attempts: u32,
    /// The present incarnation of the VM, or the last one.
    pub(crate) incarnation: Incarnation,
    /// The newest incarnation that was numbered. The VM that runs is an older one when its successor was numbered and never
    /// launched.
    pub(crate) newest: Incarnation,
    /// Whether the VM may run although it was given up: its files could not be read (semantics 13.2). It keeps its CID,
    /// and is looked for before it is launched again.
    pub(crate) may_run_on: bool,
    /// Whether the daemon of any incarnation has run: files that are missing now were there, and may come back.
    pub(crate) has_run: bool,
    /// Whether the VM is being put to sleep, or slept when its former supervisor or its former actor ended.
    pub(crate) is_drowsy: bool,
    /// The state of the VM as it was last saved in the journal.
    pub(crate) saved: Option<Remembered>,
}

/// The phase of a child, with the data that exist only in that phase. Observers see [`Phase::view`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Phase {
    Stopped,
    /// The child starts when its group starts.
    AwaitingGroup,
    /// The child starts when no child before it is on its way to Ready any more.
    AwaitingTurn {
        /// Whether this start is part of the group's own start.
        first_start: bool,
    },
    /// The child is asleep: the next client of its ports starts it.
    Idle {
        /// The moment before which no client starts it, because it has just ended by itself.
        not_before: Option<Instant>,
        /// Whether a client waits for that moment.
        is_called: bool,
    },
    /// The child has an incarnation, and an actor that owns it.
    Live(Run),
    Backoff {
        until: Instant,
        attempt: u32,
        ending: Ending,
    },
    Completed,
    Failed(Failure),
}

/// An incarnation of a VM and its actor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Run {
    /// The number of the actor that owns the VM. Every actor of the group has a number of its own, also an actor that
    /// takes over a VM that runs already.
    pub(crate) epoch: u64,
    pub(crate) state: RunState,
    /// The longest time that this incarnation has been Ready without a break, up to the last break.
    pub(crate) ready_for: Option<Duration>,
    /// Whether its machine, command or environment has changed since it was started.
    pub(crate) outdated: bool,
}

/// The progress of an incarnation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RunState {
    Starting {
        origin: Origin,
        start: Start,
    },
    Running {
        start: Start,
    },
    Ready {
        since: Instant,
    },
    Unhealthy,
    Paused {
        before: BeforePause,
        /// Whether the next client ends the pause.
        is_asleep: bool,
    },
    Stopping {
        then: AfterStop,
        start: Start,
    },
    /// The VM may run, and cannot be reached. No other child waits for it.
    Unknown {
        start: Start,
    },
}

/// The way in which the actor of a starting VM came to own the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The actor boots the VM.
    Booted,
    /// The actor owned a spare, which takes the place of the VM.
    Promoted,
    /// The VM ran already, and the actor took it over.
    Adopted,
    /// The VM is to be started and may run already: the actor looks for it, and it is launched when it is gone.
    Sought,
}

/// The way in which an incarnation was started, until it has been Ready once. The other children that wait for it
/// depend on this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// The VM was started by the start of its group, in its turn: a failure may abort that start.
    WithGroup,
    /// The VM was started in its turn: children after it wait for it.
    InTurn,
    /// The VM was started by itself, after its own backoff or by an operator, or was Ready before. With one_for_one no
    /// child waits for it.
    Alone,
}

/// The state that a pause has interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BeforePause {
    Running { start: Start },
    Ready,
}

/// The action that follows a stop that the group has ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AfterStop {
    /// The VM stays down.
    StayDown,
    /// The VM is started again, at once if no child before it is in the way. The reason is the operator's restart or a
    /// changed configuration.
    Start,
    /// The VM waits for its turn in the group restart.
    AwaitTurn,
    /// The VM sleeps until a client comes.
    Sleep,
    /// The end is judged as a failure of the VM itself: its actors have failed too often.
    Fail { message: String },
    /// The VM is removed, because it is no longer in the configuration.
    Remove,
}

impl Start {
    /// Returns whether children after this one wait until it is Ready, whatever the strategy.
    pub(crate) fn is_in_turn(self) -> bool {
        match self {
            Self::WithGroup | Self::InTurn => true,
            Self::Alone => false,
        }
    }

    /// Returns whether a failure is one of the group's own start.
    pub(crate) fn is_first(self) -> bool {
        match self {
            Self::WithGroup => true,
            Self::InTurn | Self::Alone => false,
        }
    }

    /// Returns the same kind of start, but no longer as a part of the group's own start.
    fn not_first(self) -> Self {
        match self {
            Self::WithGroup | Self::InTurn => Self::InTurn,
            Self::Alone => Self::Alone,
        }
    }
}

impl RunState {
    /// Returns how the incarnation came to be started; `Alone` once it has been Ready.
    pub(crate) fn start(&self) -> Start {
        match self {
            Self::Starting { start, .. }
            | Self::Running { start }
            | Self::Paused { before: BeforePause::Running { start }, .. }
            | Self::Stopping { start, .. }
            | Self::Unknown { start } => *start,
            Self::Ready { .. } | Self::Unhealthy | Self::Paused { before: BeforePause::Ready, .. } => {
                Start::Alone
            }
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        match self {
            Self::Stopping { .. } => true,
            Self::Starting { .. }
            | Self::Running { .. }
            | Self::Ready { .. }
            | Self::Unhealthy
            | Self::Paused { .. }
            | Self::Unknown { .. } => false,
        }
    }
}

impl Run {
    /// Records how long the incarnation has been Ready, before its state changes. A pause is a break: a VM whose
    /// virtual CPUs are stopped does not show that it is well.
    pub(crate) fn note_ready(&mut self, now: Instant) {
        if let RunState::Ready { since } = self.state {
            self.ready_for = self.ready_for.max(Some(now - since));
        }
    }

    /// Takes the incarnation out of the group's start: from now on the operator, not the group, is concerned with its
    /// success.
    pub(crate) fn leave_first_start(&mut self) {
        match &mut self.state {
            RunState::Starting { start, .. }
            | RunState::Running { start }
            | RunState::Paused { before: BeforePause::Running { start }, .. }
            | RunState::Stopping { start, .. }
            | RunState::Unknown { start } => *start = start.not_first(),
            RunState::Ready { .. }
            | RunState::Unhealthy
            | RunState::Paused { before: BeforePause::Ready, .. } => {}
        }
    }
}

impl Phase {
    /// Returns the incarnation that the child has.
    pub(crate) fn run(&self) -> Option<&Run> {
        match self {
            Self::Live(run) => Some(run),
            Self::Stopped
            | Self::AwaitingGroup
            | Self::AwaitingTurn { .. }
            | Self::Idle { .. }
            | Self::Backoff { .. }
            | Self::Completed
            | Self::Failed(_) => None,
        }
    }

    /// Returns whether the child is asleep, and down.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self, Self::Idle { .. })
    }

    /// Returns whether the child sleeps, or is on its way to that.
    pub(crate) fn is_asleep(&self) -> bool {
        self.is_idle()
            || self.run().is_some_and(|run| {
                matches!(
                    run.state,
                    RunState::Paused { is_asleep: true, .. }
                        | RunState::Stopping { then: AfterStop::Sleep, .. }
                )
            })
    }

    pub(crate) fn is_live(&self) -> bool {
        self.run().is_some()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.run().is_some_and(|run| run.state.is_stopping())
    }

    /// Returns whether the child is being removed because it left the configuration.
    pub(crate) fn is_leaving(&self) -> bool {
        self.run().is_some_and(|run| matches!(run.state, RunState::Stopping { then: AfterStop::Remove, .. }))
    }

    /// Returns whether the child is still to become Ready, for the first time or again, and needs no timer for that.
    pub(crate) fn is_on_its_way(&self) -> bool {
        match self {
            Self::AwaitingTurn { .. } => true,
            Self::Live(run) => match &run.state {
                RunState::Starting { .. }
                | RunState::Running { .. }
                | RunState::Paused { before: BeforePause::Running { .. }, .. } => true,
                RunState::Stopping { then, .. } => match then {
                    AfterStop::Start | AfterStop::AwaitTurn | AfterStop::Fail { .. } => true,
                    AfterStop::StayDown | AfterStop::Sleep | AfterStop::Remove => false,
                },
                RunState::Ready { .. }
                | RunState::Unhealthy
                | RunState::Paused { before: BeforePause::Ready, .. }
                | RunState::Unknown { .. } => false,
            },
            Self::Stopped
            | Self::AwaitingGroup
            | Self::Idle { .. }
            | Self::Backoff { .. }
            | Self::Completed
            | Self::Failed(_) => false,
        }
    }

    /// Returns whether the child is down and stays down unless it is ordered up; such a child needs no CID.
    pub(crate) fn is_at_rest(&self) -> bool {
        match self {
            Self::Stopped | Self::Completed | Self::Failed(_) => true,
            Self::AwaitingGroup
            | Self::AwaitingTurn { .. }
            | Self::Idle { .. }
            | Self::Live(_)
            | Self::Backoff { .. } => false,
        }
    }

    /// Returns whether the child is down and is to be started.
    pub(crate) fn is_to_come(&self) -> bool {
        match self {
            Self::AwaitingGroup | Self::AwaitingTurn { .. } | Self::Backoff { .. } => true,
            // The ports of an idle child are open.
            Self::Stopped | Self::Idle { .. } | Self::Completed | Self::Failed(_) | Self::Live(_) => false,
        }
    }

    /// Returns the phase as observers see it.
    pub(crate) fn view(&self) -> VmPhase {
        match self {
            Self::Stopped => VmPhase::Stopped,
            Self::AwaitingGroup | Self::AwaitingTurn { .. } => VmPhase::Waiting,
            Self::Idle { .. } => VmPhase::Idle { is_paused: false },
            Self::Live(run) => match &run.state {
                RunState::Starting { .. } => VmPhase::Starting,
                RunState::Running { .. } => VmPhase::Running,
                RunState::Ready { .. } => VmPhase::Ready,
                RunState::Unhealthy => VmPhase::Unhealthy,
                RunState::Paused { is_asleep: true, .. } => VmPhase::Idle { is_paused: true },
                RunState::Paused { is_asleep: false, .. } => VmPhase::Paused,
                RunState::Stopping { .. } => VmPhase::Stopping,
                RunState::Unknown { .. } => VmPhase::Unknown,
            },
            Self::Backoff { until, attempt, ending } => {
                VmPhase::Backoff { until: *until, attempt: *attempt, ending: ending.clone() }
            }
            Self::Completed => VmPhase::Completed,
            Self::Failed(failure) => VmPhase::Failed(failure.clone()),
        }
    }
}

impl Child {
    /// Makes a child that is down, with the desired state of its configuration.
    pub(crate) fn new(spec: Arc<VmSpec>) -> Self {
        Self {
            wanted: if spec.autostart { Wanted::Up } else { Wanted::Down },
            spec,
            phase: Phase::Stopped,
            attempts: 0,
            incarnation: Incarnation::default(),
            newest: Incarnation::default(),
            may_run_on: false,
            has_run: false,
            is_drowsy: false,
            saved: None,
        }
    }

    /// Makes a child that is down, from the state that a previous run of the supervisor, or a former actor of the
    /// group, has left (semantics 9).
    pub(crate) fn remembered(spec: Arc<VmSpec>, remembered: &Remembered) -> Self {
        let mut child = Self::new(spec);
        let returns = child.spec.restart.policy.returns_after_supervisor_restart();
        child.number(remembered.incarnation);
        child.attempts = remembered.attempts;
        child.has_run = remembered.has_run;
        child.is_drowsy = remembered.idle;
        child.wanted = match remembered.wanted {
            Wanted::Up => Wanted::Up,
            Wanted::Down if returns => child.wanted,
            Wanted::Down => Wanted::Down,
        };
        child.saved = Some(remembered.clone());
        if remembered.completed && child.wanted == Wanted::Up && !returns {
            child.phase = Phase::Completed;
        }
        if let Some(failure) = remembered.failed.clone() {
            child.may_run_on = failure.ending.may_run_on();
            child.phase = Phase::Failed(failure);
        }
        child
    }

    /// Gives the child this incarnation; no later one has a lower number.
    pub(crate) fn number(&mut self, incarnation: Incarnation) {
        self.incarnation = incarnation;
        self.newest = self.newest.max(incarnation);
    }

    /// Lets the next incarnation have a higher number than this one, which was known of the VM before it was a child.
    pub(crate) fn go_on_after(&mut self, incarnation: Incarnation) {
        match self.newest == Incarnation::default() {
            true => self.number(incarnation),
            false => self.newest = self.newest.max(incarnation),
        }
    }

    pub(crate) fn name(&self) -> &VmName {
        &self.spec.name
    }

    /// Returns the state of the child that outlives the group.
    pub(crate) fn remember(&self) -> Remembered {
        Remembered {
            incarnation: self.newest,
            wanted: self.wanted,
            attempts: self.attempts,
            has_run: self.has_run,
            completed: self.phase == Phase::Completed,
            idle: self.is_drowsy || self.phase.is_asleep(),
            failed: match &self.phase {
                Phase::Failed(failure) => Some(failure.clone()),
                Phase::Stopped
                | Phase::AwaitingGroup
                | Phase::AwaitingTurn { .. }
                | Phase::Idle { .. }
                | Phase::Live(_)
                | Phase::Backoff { .. }
                | Phase::Completed => None,
            },
        }
    }
}
