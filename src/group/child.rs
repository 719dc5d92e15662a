//! What the group remembers of one VM. Holds facts, decides nothing.

use crate::journal::Wanted;
use crate::observe::VmPhase;
use crate::policy::Cause;
use crate::spec::{Incarnation, VmName, VmSpec};
use std::time::Instant;

/// Where a child is; [`VmPhase`] is the part of it that onlookers see.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Phase {
    Stopped,
    Waiting,
    Starting,
    Running,
    Ready { since: Instant },
    Unhealthy,
    Paused { ready_since: Option<Instant> },
    Stopping { then: Then },
    Backoff { until: Instant, attempt: u32, cause: Cause },
    Completed,
    Failed { reason: String },
}

/// What follows a stop of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// It stays down.
    Stay,
    /// It is started at once: the operator's restart, a changed configuration.
    Start,
    /// It waits for its turn in the group restart.
    Wait,
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
            Self::Backoff { until, attempt, cause } => {
                VmPhase::Backoff { until: *until, attempt: *attempt, cause: cause.clone() }
            }
            Self::Completed => VmPhase::Completed,
            Self::Failed { reason } => VmPhase::Failed { reason: reason.clone() },
        }
    }
}

/// One VM in the roster.
#[derive(Debug, Clone)]
pub(crate) struct Child {
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
    /// Its first start in this life of the group has not come to Ready yet.
    pub(crate) first_start: bool,
    /// Its machine, command or environment has changed since it was started.
    pub(crate) needs_restart: bool,
}

impl Child {
    pub(crate) fn new(spec: VmSpec) -> Self {
        Self {
            wanted: if spec.autostart { Wanted::Up } else { Wanted::Down },
            spec,
            phase: Phase::Stopped,
            attempts: 0,
            incarnation: Incarnation::default(),
            epoch: 0,
            sequenced: false,
            first_start: true,
            needs_restart: false,
        }
    }

    pub(crate) fn name(&self) -> &VmName {
        &self.spec.name
    }

    /// It is down, and not for good.
    pub(crate) fn may_start(&self) -> bool {
        !self.phase.is_live() && !matches!(self.phase, Phase::Completed | Phase::Failed { .. })
    }

    /// Since when it has been Ready without a break, if it is (or was, when it was paused).
    pub(crate) fn ready_since(&self) -> Option<Instant> {
        match self.phase {
            Phase::Ready { since } => Some(since),
            Phase::Paused { ready_since } => ready_since,
            _ => None,
        }
    }
}
