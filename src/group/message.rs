//! What a group can be told and what it tells the root. Words only.

use crate::group::{Command, Found, Refused};
use crate::policy::GroupEnd;
use crate::reply::Reply;
use crate::spec::{GroupName, GroupSpec, Signal, VmName};
use crate::vm::{self, VmMsg};
use pepita_wire::{Ask, ErrorKind, Outcome, StatusRecord, WireError};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Instant;

/// What a group's actor can be told.
#[derive(Debug)]
pub enum GroupMsg {
    /// Be up: the groups it comes after are Ready.
    Start,
    /// Be up after an escalation, with everything forgotten.
    StartAfresh,
    /// Go down, last started first.
    Stop,
    /// End everything at once.
    Kill,
    /// Remove what is kept of its VMs, and end: the group is down and no longer in the configuration.
    Remove,
    /// Do what an operator asks of a VM.
    Command {
        /// Which.
        vm: VmName,
        /// What.
        command: Command,
        /// Accepted, or why not.
        reply: Reply<Result<(), Refused>>,
    },
    /// Pass on to a VM that runs.
    Forward {
        /// Which.
        vm: VmName,
        /// What.
        request: VmRequest,
    },
    /// Its configuration has changed.
    Reload {
        /// All of it.
        spec: Box<GroupSpec>,
        /// Where it stands on the board from now on.
        slot: usize,
        /// Restart the VMs that differ.
        restart: bool,
    },
    /// A VM actor's report.
    Vm(vm::VmReport),
    /// A VM actor is gone. Sent by the group to itself, behind all that the actor had reported.
    VmActorGone {
        /// Its VM.
        vm: VmName,
        /// Which of its actors.
        epoch: u64,
        /// How it went.
        why: String,
    },
    /// What the launcher knows of a VM, for a group that takes over.
    Inspected {
        /// Which.
        vm: VmName,
        /// `None` = there is none; an error = nobody knows.
        record: Result<Option<Box<StatusRecord>>, String>,
    },
    /// From the timer of its own for this moment.
    Tick(Instant),
    /// Makes the actor panic, for tests of what a failed actor leads to.
    #[cfg(feature = "test-hooks")]
    Panic,
}

/// What needs a VM that runs.
#[derive(Debug)]
pub enum VmRequest {
    /// Send its daemon a signal.
    Signal {
        /// Which.
        signal: Signal,
        /// Done, or why not.
        reply: Reply<Result<(), Refused>>,
    },
    /// Stop or continue its virtual CPUs.
    SetPaused {
        /// Stop them.
        paused: bool,
        /// Done, or why not.
        reply: Reply<Result<(), Refused>>,
    },
    /// Ask its guest agent.
    Ask {
        /// What.
        ask: Ask,
        /// The answer.
        reply: Reply<Result<Value, AskError>>,
    },
}

impl VmRequest {
    /// Nobody will do it.
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
    /// It was not asked.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It, or the way to it, refused.
    #[error(transparent)]
    Guest(#[from] WireError),
}

/// What a group tells the root.
#[derive(Debug)]
pub struct GroupReport {
    /// Which group.
    pub group: GroupName,
    /// Which of its actors.
    pub epoch: u64,
    /// What.
    pub event: GroupEvent,
}

/// What a group's report says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupEvent {
    /// It was down, and is not any more: an operator has brought it back, if the root has not.
    Up,
    /// All of it that is to be up is Ready.
    Ready,
    /// Nothing of it runs any more.
    Ended(GroupEnd),
}

/// What a group's actor begins with.
#[derive(Debug)]
pub enum InitialState {
    /// Waits to be started; these VMs run already, or ended while nobody looked.
    Found(BTreeMap<VmName, Found>),
    /// A former actor of the group has failed: it looks what there is, and then does this.
    Unknown(Goal),
}

/// What follows the look of a group whose former actor has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// It takes over what runs and starts the rest.
    Up,
    /// It takes over what runs and waits to be started.
    Wait,
    /// It takes over what runs and stops it.
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
        match msg {
            GroupMsg::Vm(report) => Ok(report),
            _ => Err(()),
        }
    }
}
