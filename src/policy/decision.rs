//! Decisions on ends, as data. `observe` turns them into JSON and into sentences.

use crate::policy::{Ending, WindowCount};
use crate::spec::{Restart, VmName};
use std::time::Duration;
use strum::IntoStaticStr;

/// The decision on the end of a VM, or on the failure of its actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The action for the VM or its group.
    pub action: Action,
    /// The rule that led to the action.
    pub reason: Reason,
    /// The delay before the restart; `None` when there is no restart, or when it does not wait.
    pub delay: Option<Duration>,
    /// Consecutive counted failures of the VM, this failure included if it counts.
    pub attempt: u32,
    /// The limit of those failures (`restart.max_retries`); 0 = no limit.
    pub max_attempts: u32,
    /// The group's restart window, including this decision if it counts.
    pub window: WindowCount,
    /// Whether the restart joins a group restart that was under way, and therefore is not counted itself.
    pub joined: bool,
}

/// The action that follows an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum Action {
    /// The VM is started again.
    Restart,
    /// A new actor takes over the running VM, without a reboot.
    Adopt,
    /// The VM stays down: it ended cleanly.
    Complete,
    /// The VM stays down: it has failed.
    GiveUp,
    /// The group is stopped, and the root decides about it.
    Escalate,
    /// The group is stopped and stays down.
    StopGroup,
    /// The VM is not restarted: it is to be down, or waits for its group.
    Leave,
}

/// The reason for an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum Reason {
    /// The restart policy demands it.
    Policy(Restart),
    /// The exit code is one of `never_restart_exit_codes`.
    NeverRestartExitCode,
    /// The exit code is one of `always_restart_exit_codes`.
    AlwaysRestartExitCode,
    /// The next launch would fail in the same way: the request is wrong, or a file is missing with which the VM has
    /// never run.
    Hopeless,
    /// The VM has used up `restart.max_retries`.
    RetriesExhausted,
    /// Another restart would exceed the group's intensity.
    IntensityExceeded,
    /// The VM failed during the start of its group, and its `start.on_failure` is `abort`.
    StartFailed,
    /// The operator wants the VM down.
    OperatorStop,
    /// The group is on its way down.
    GroupStopping,
    /// The group waits for other groups; the VM starts together with it.
    GroupWaiting,
    /// The actor of the VM failed.
    ActorFailed,
}

/// An end after which a VM, or its group, stays down, with its decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How the VM ended.
    pub ending: Ending,
    /// The decision on that end.
    pub decision: Decision,
}

/// The end of a group.
#[derive(Debug, Clone, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum GroupEnd {
    /// The group was told to stop.
    Stopped,
    /// Its significant VMs have ended by themselves.
    AutoShutdown,
    /// The group gave up and stays down.
    Failed {
        /// The VM whose end caused the end of the group.
        vm: VmName,
        /// The end of that VM, and the decision on it.
        failure: Failure,
    },
    /// The group gave up, and the root decides what follows.
    Escalated {
        /// The VM whose end caused the end of the group.
        vm: VmName,
        /// The end of that VM, and the decision on it.
        failure: Failure,
    },
}

impl GroupEnd {
    /// Returns whether the group ended because of a failure, and not by an order or because its work was done.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Failed { .. } | Self::Escalated { .. } => true,
            Self::Stopped | Self::AutoShutdown => false,
        }
    }

    /// Returns the failure that caused the end, and the VM that had it.
    pub fn failure(&self) -> Option<(&VmName, &Failure)> {
        match self {
            Self::Failed { vm, failure } | Self::Escalated { vm, failure } => Some((vm, failure)),
            Self::Stopped | Self::AutoShutdown => None,
        }
    }

    /// Returns the stable word for programs.
    pub fn word(&self) -> &'static str {
        self.into()
    }
}

impl Action {
    /// Returns the stable word for programs.
    pub fn word(self) -> &'static str {
        self.into()
    }
}

impl Reason {
    /// Returns the stable word for programs; for a restart policy the word of the configuration file.
    pub fn word(self) -> &'static str {
        if let Self::Policy(policy) = self { policy.into() } else { self.into() }
    }
}
