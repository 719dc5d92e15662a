//! What the group remembers of one VM. Holds facts, decides nothing.

use crate::journal::{Remembered, Wanted};
use crate::observe::VmPhase;
use crate::policy::Ending;
use crate::spec::{Incarnation, VmName, VmSpec};
use std::time::{Duration, Instant};

/// Where a child is; [`VmPhase`] is the part of it that onlookers see.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Phase {
    Stopped,
    Waiting,
    Starting,
    Running,
    Ready { since: Instant },
    Unhealthy,
    Paused { was_ready: bool },
    Stopping { then: Then },
    Backoff { until: Instant, attempt: u32, ending: Ending },
    Completed,
    Failed { reason: String },
}

/// What follows a stop of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// It stays down.
    Stay,
    /// It is started again, at once if nothing before it is in the way: the operator's restart, a changed configuration.
    Start,
    /// It waits for its turn in the group restart.
    Wait,
    /// Its end is judged as a failure of its own: its actors have failed too often.
    Judge,
    /// It is forgotten: no longer in the configuration.
    Forget,
}

impl Phase {
    /// There is a VM actor for it.
    pub(crate) fn is_live(&self) -> bool {
        match self {
            Self::Starting
            | Self::Running
            | Self::Ready { .. }
            | Self::Unhealthy
            | Self::Paused { .. }
            | Self::Stopping { .. } => true,
            Self::Stopped | Self::Waiting | Self::Backoff { .. } | Self::Completed | Self::Failed { .. } => {
                false
            }
        }
    }

    /// It has not come to Ready yet, or is to come back to it, and needs no timer for that.
    pub(crate) fn is_on_its_way(&self) -> bool {
        match self {
            Self::Waiting | Self::Starting | Self::Running | Self::Paused { was_ready: false } => true,
            Self::Stopping { then } => match then {
                Then::Start | Then::Wait | Then::Judge => true,
                Then::Stay | Then::Forget => false,
            },
            Self::Stopped
            | Self::Ready { .. }
            | Self::Unhealthy
            | Self::Paused { was_ready: true }
            | Self::Backoff { .. }
            | Self::Completed
            | Self::Failed { .. } => false,
        }
    }

    /// It is down for good: unless somebody wants otherwise it stays so, and needs no CID.
    pub(crate) fn is_at_rest(&self) -> bool {
        match self {
            Self::Stopped | Self::Completed | Self::Failed { .. } => true,
            Self::Waiting
            | Self::Starting
            | Self::Running
            | Self::Ready { .. }
            | Self::Unhealthy
            | Self::Paused { .. }
            | Self::Stopping { .. }
            | Self::Backoff { .. } => false,
        }
    }

    pub(crate) fn shown(&self) -> VmPhase {
        match self {
            Self::Stopped => VmPhase::Stopped,
            Self::Waiting => VmPhase::Waiting,
            Self::Starting => VmPhase::Starting,
            Self::Running => VmPhase::Running,
            Self::Ready { .. } => VmPhase::Ready,
            Self::Unhealthy => VmPhase::Unhealthy,
            Self::Paused { .. } => VmPhase::Paused,
            Self::Stopping { .. } => VmPhase::Stopping,
            Self::Backoff { until, attempt, ending } => {
                VmPhase::Backoff { until: *until, attempt: *attempt, ending: ending.clone() }
            }
            Self::Completed => VmPhase::Completed,
            Self::Failed { reason } => VmPhase::Failed { reason: reason.clone() },
        }
    }
}

/// One VM in the roster.
#[derive(Debug, Clone)]
pub(crate) struct Child {
    /// It gave up before its group's turn: that is no reason to try again when the turn comes.
    pub(crate) gave_up_early: bool,
    /// Its actor boots it; another one would take over what runs already.
    pub(crate) boots: bool,
    pub(crate) spec: VmSpec,
    pub(crate) phase: Phase,
    pub(crate) wanted: Wanted,
    /// Consecutive counted failures.
    pub(crate) attempts: u32,
    /// The newest incarnation of the VM.
    pub(crate) incarnation: Incarnation,
    /// Which actor owns it: grows with every actor of the group, also when it takes over a VM that runs already.
    pub(crate) epoch: u64,
    /// Started in its turn, so that those after it wait until it is Ready.
    pub(crate) sequenced: bool,
    /// Takes part in the group restart that is under way.
    pub(crate) in_round: bool,
    /// Started by the start of its group, and has not come to Ready yet.
    pub(crate) first_start: bool,
    /// The longest that this incarnation has been Ready without a break, up to the last break.
    pub(crate) ready_for: Option<Duration>,
    /// Its machine, command or environment has changed since it was started.
    pub(crate) needs_restart: bool,
    /// What the journal has of it.
    pub(crate) saved: Option<Remembered>,
}

impl Child {
    pub(crate) fn new(spec: VmSpec) -> Self {
        Self {
            wanted: if spec.autostart { Wanted::Up } else { Wanted::Down },
            gave_up_early: false,
            boots: false,
            spec,
            phase: Phase::Stopped,
            attempts: 0,
            incarnation: Incarnation::default(),
            epoch: 0,
            sequenced: false,
            in_round: false,
            first_start: false,
            ready_for: None,
            needs_restart: false,
            saved: None,
        }
    }

    pub(crate) fn name(&self) -> &VmName {
        &self.spec.name
    }

    /// What onlookers see of it beside its phase.
    pub(crate) fn facts(&self) -> (Incarnation, u32, Wanted, bool) {
        (self.incarnation, self.attempts, self.wanted, self.needs_restart)
    }

    /// What outlives the group.
    pub(crate) fn remember(&self) -> Remembered {
        Remembered {
            incarnation: self.incarnation,
            wanted: self.wanted,
            attempts: self.attempts,
            completed: self.phase == Phase::Completed,
            failed: match &self.phase {
                Phase::Failed { reason } => Some(reason.clone()),
                _ => None,
            },
        }
    }

    /// Notes how long it has been Ready, before something happens to it. A pause is a break: a VM that stands still
    /// proves nothing.
    pub(crate) fn note_ready(&mut self, now: Instant) {
        if let Phase::Ready { since } = self.phase {
            self.ready_for = self.ready_for.max(Some(now - since));
        }
    }
}
