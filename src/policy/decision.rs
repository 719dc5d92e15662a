//! What was decided on an end, as data. `observe` turns it into JSON and into sentences.

use crate::policy::{Ending, WindowCount};
use crate::spec::{Restart, VmName};
use std::time::Duration;
use strum::IntoStaticStr;

/// What was decided on the end of a VM, or on the failure of its actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What happens with the VM or its group.
    pub action: Action,
    /// The rule that led to the action.
    pub reason: Reason,
    /// How long the restart waits; `None` when there is none, or when it does not wait.
    pub delay: Option<Duration>,
    /// Consecutive counted failures of the VM, this one included if it counts.
    pub attempt: u32,
    /// How many of them the VM may have (`restart.max_retries`); 0 = no limit.
    pub max_attempts: u32,
    /// The group's restart window, with this decision in it if it counts.
    pub window: WindowCount,
    /// Whether the restart joins a group restart that was under way, and so is not counted itself.
    pub joined: bool,
}

/// What follows an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum Action {
    /// The VM is started again.
    Restart,
    /// A new actor takes the running VM over, without a reboot.
    Adopt,
    /// The VM stays down: it ended cleanly.
    Complete,
    /// The VM stays down: it has failed.
    GiveUp,
    /// The group is stopped, and the root decides about it.
    Escalate,
    /// The group is stopped and stays down.
    StopGroup,
    /// No restart: the VM is to be down, or waits for its group.
    Leave,
}

/// Why an action was decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum Reason {
    /// The restart policy says so.
    Policy(Restart),
    /// The exit code is one of `never_restart_exit_codes`.
    NeverRestartExitCode,
    /// The exit code is one of `always_restart_exit_codes`.
    AlwaysRestartExitCode,
    /// The next launch would fail in the same way.
    Hopeless,
    /// The VM has used up `restart.max_retries`.
    RetriesExhausted,
    /// One more restart would be more than the group's intensity allows.
    IntensityExceeded,
    /// The VM failed in the start of its group, and its `start.on_failure` is `abort`.
    StartFailed,
    /// The operator wants the VM down.
    OperatorStop,
    /// The group is on its way down.
    GroupStopping,
    /// The group waits for other groups; the VM starts with it.
    GroupWaiting,
    /// The VM's actor failed.
    ActorFailed,
}

/// An end after which a VM, or its group, stays down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How the VM ended.
    pub ending: Ending,
    /// What was decided.
    pub decision: Decision,
}

/// How a group ended.
#[derive(Debug, Clone, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum GroupEnd {
    /// The group was told to stop.
    Stopped,
    /// Its significant VMs have ended by themselves.
    AutoShutdown,
    /// The group gave up and stays down.
    Failed {
        /// The VM whose end led to it.
        vm: VmName,
        /// That end, and what was decided on it.
        failure: Failure,
    },
    /// The group gave up, and the root decides about it.
    Escalated {
        /// The VM whose end led to it.
        vm: VmName,
        /// That end, and what was decided on it.
        failure: Failure,
    },
}

impl GroupEnd {
    /// Returns whether the group ended because of a failure, not because it was told to or had done its work.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Failed { .. } | Self::Escalated { .. } => true,
            Self::Stopped | Self::AutoShutdown => false,
        }
    }

    /// Returns the failure that led to the end, and the VM that had it.
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
