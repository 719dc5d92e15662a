//! The messages to a group's actor and its reports to the root. Types only.

use crate::group::{Command, Found, Refused};
use crate::policy::GroupEnd;
use crate::reply::Reply;
use crate::spec::{GroupName, GroupSpec, Signal, VmName};
use crate::vm::{self, VmMsg};
use pepita_wire::{Ask, ErrorKind, Outcome, StatusRecord, WireError};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Instant;

/// A message to a group's actor.
#[derive(Debug)]
pub enum GroupMsg {
    /// Start the group: the groups that it comes after are Ready.
    Start,
    /// Start the group after an escalation, with empty budgets.
    StartAfresh,
    /// Stop the group, last started VM first.
    Stop,
    /// End all VMs of the group at once.
    Kill,
    /// Remove what is kept of its VMs, and end: the group is down and no longer in the configuration.
    Remove,
    /// Do what an operator asks of a VM.
    Command {
        /// The name of the VM.
        vm: VmName,
        /// What the operator asks.
        command: Command,
        /// Told when the command is accepted and written down, or why it is refused.
        reply: Reply<Result<(), Refused>>,
    },
    /// Forward a request to the actor of a VM that runs.
    Forward {
        /// The name of the VM.
        vm: VmName,
        /// What the VM's actor is asked.
        request: VmRequest,
    },
    /// Take a new configuration.
    Reload {
        /// The whole specification of the group.
        spec: Box<GroupSpec>,
        /// The group's slot in the status table from now on.
        slot: usize,
        /// Whether VMs whose machine, command or environment differs are restarted.
        restart: bool,
    },
    /// A VM actor has reported.
    Vm(vm::VmReport),
    /// A VM actor is gone. The group sends this to itself, behind all that the actor had reported.
    VmActorGone {
        /// The name of the VM.
        vm: VmName,
        /// The number of the actor.
        epoch: u64,
        /// How the actor ended, for people.
        why: String,
    },
    /// The launcher has answered what it knows of a VM; for a group whose former actor has failed.
    Inspected {
        /// The name of the VM.
        vm: VmName,
        /// The launcher's record. `None`: there is no such VM. An error: the launcher could not tell.
        record: Result<Option<Box<StatusRecord>>, String>,
    },
    /// The moment has come for which the group had set its timer.
    Tick(Instant),
    /// Makes the actor panic, for tests of what a failed actor leads to.
    #[cfg(feature = "test-hooks")]
    Panic,
}

/// A request that needs a VM that runs.
#[derive(Debug)]
pub enum VmRequest {
    /// Send its daemon a signal.
    Signal {
        /// The signal for the daemon.
        signal: Signal,
        /// Told when the signal was sent, or why it was not.
        reply: Reply<Result<(), Refused>>,
    },
    /// Stop or continue its virtual CPUs.
    SetPaused {
        /// Whether they are to stop.
        paused: bool,
        /// Told when it is done, or why it is not.
        reply: Reply<Result<(), Refused>>,
    },
    /// Ask its guest agent.
    Ask {
        /// What the guest agent is asked.
        ask: Ask,
        /// Told the agent's answer, or why there is none.
        reply: Reply<Result<Value, AskError>>,
    },
}

impl VmRequest {
    /// Answers that the request is refused.
    pub fn refuse(self, refused: Refused) {
        match self {
            Self::Signal { reply, .. } | Self::SetPaused { reply, .. } => reply.send(Err(refused)),
            Self::Ask { reply, .. } => reply.send(Err(refused.into())),
        }
    }
}

impl From<VmRequest> for VmMsg {
    fn from(request: VmRequest) -> Self {
        match request {
            VmRequest::Signal { signal, reply } => Self::Signal { signal, reply: done(reply) },
            VmRequest::SetPaused { paused, reply } => Self::SetPaused { paused, reply: done(reply) },
            VmRequest::Ask { ask, reply } => {
                let lost = || WireError::new(ErrorKind::Other, "the VM's actor or its link failed meanwhile");
                let answer = move |outcome: Option<Outcome>| {
                    reply.send(outcome.unwrap_or_else(|| Err(lost())).map_err(AskError::from));
                };
                Self::Ask { ask, reply: Reply::new(answer) }
            }
        }
    }
}

fn done(reply: Reply<Result<(), Refused>>) -> Reply<Result<(), String>> {
    Reply::new(move |done: Option<Result<(), String>>| {
        let done = done.unwrap_or_else(|| Err("the VM's actor failed meanwhile".into()));
        reply.send(done.map_err(Refused::Failed));
    })
}

/// Why a guest gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The guest was not asked.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The agent refused, or the link to it failed.
    #[error(transparent)]
    Guest(#[from] WireError),
}

/// A report of a group's actor to the root.
#[derive(Debug)]
pub struct GroupReport {
    /// The name of the group that reports.
    pub group: GroupName,
    /// The number of the actor that reports. The root drops reports of former actors.
    pub epoch: u64,
    /// What has happened.
    pub event: GroupEvent,
}

/// What a report of a group tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupEvent {
    /// The group was down, and an operator has brought it back.
    Up,
    /// All VMs of the group that are to be up are Ready.
    Ready,
    /// Nothing of the group runs any more.
    Ended(GroupEnd),
}

/// What a group's actor begins with.
#[derive(Debug)]
pub enum InitialState {
    /// The group waits to be started; these VMs run already, or ended while no supervisor looked.
    Found(BTreeMap<VmName, Found>),
    /// A former actor of the group has failed. The new one takes an inventory first, and then pursues this goal.
    Unknown(Goal),
}

/// What a group does after the inventory that a failed actor of it made necessary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Take over what runs and start the rest.
    Up,
    /// Take over what runs and wait to be started.
    Wait,
    /// Take over what runs and stop it.
    Down,
}

impl From<vm::VmReport> for GroupMsg {
    fn from(report: vm::VmReport) -> Self {
        Self::Vm(report)
    }
}

impl TryFrom<GroupMsg> for vm::VmReport {
    type Error = ();
    fn try_from(msg: GroupMsg) -> Result<Self, ()> {
        if let GroupMsg::Vm(report) = msg { Ok(report) } else { Err(()) }
    }
}
