//! The messages to a group's actor and its reports to the root. Types only.

use crate::group::{Command, Found, FoundSpare, Refused};
use crate::policy::GroupEnd;
use crate::ports::PortNews;
use crate::reply::Reply;
use crate::spec::{GroupName, GroupSpec, Signal, VmName};
use crate::vm::{self, VmMsg};
use pepita_wire::{Ask, ErrorKind, Outcome, StatusRecord, WireError};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A message to a group's actor.
#[derive(Debug)]
pub enum GroupMsg {
    /// Start the group: the groups before it are Ready.
    Start,
    /// Start the group after an escalation, with empty budgets.
    StartAfresh,
    /// Stop the group, last started VM first.
    Stop,
    /// Kill all VMs of the group at once.
    Kill,
    /// Remove the stored state of its VMs, and end: the group is down and no longer in the configuration.
    Remove,
    /// Carry out a command of an operator for a VM.
    Command {
        /// The name of the VM.
        vm: VmName,
        /// The command of the operator.
        command: Command,
        /// Gets the answer when the command is accepted and saved, or the refusal.
        reply: Reply<Result<(), Refused>>,
    },
    /// Forward a request to the actor of a VM that runs.
    Forward {
        /// The name of the VM.
        vm: VmName,
        /// The request to the VM's actor.
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
    /// A VM actor is gone. The group sends this to itself, behind all reports of that actor.
    VmActorGone {
        /// The name of the VM.
        vm: VmName,
        /// The number of the actor.
        epoch: u64,
        /// How the actor ended, for people.
        why: String,
    },
    /// The launcher has answered a question about a VM; for a group whose former actor has failed.
    Inspected {
        /// The name of the VM.
        vm: VmName,
        /// The launcher's record. `None`: there is no such VM. An error: the launcher could not tell.
        record: Result<Option<Box<StatusRecord>>, String>,
    },
    /// There is news of the ports of a VM that is asleep.
    Port {
        /// The name of the VM.
        vm: VmName,
        /// The news.
        news: PortNews,
    },
    /// The moment has come for which the group had set its timer.
    Tick(Instant),
    /// Drop this value: it shows that the actor handles its messages.
    Respond(AllRespond),
    /// Makes the actor panic, for tests of what a failed actor leads to.
    #[cfg(feature = "test-hooks")]
    Panic,
}

/// A question to many actors whether they handle their messages. It is answered when the last clone is dropped, so that
/// an actor that has just failed, and drops its messages, does not hold the answer up.
#[derive(Debug, Clone)]
pub struct AllRespond {
    _reply: Arc<AnswerOnDrop>,
}

impl AllRespond {
    /// Makes a question that answers with `reply`.
    pub fn new(reply: Reply<()>) -> Self {
        Self { _reply: Arc::new(AnswerOnDrop(Mutex::new(Some(reply)))) }
    }
}

#[derive(Debug)]
struct AnswerOnDrop(Mutex<Option<Reply<()>>>);

impl Drop for AnswerOnDrop {
    fn drop(&mut self) {
        if let Some(reply) = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            reply.send(());
        }
    }
}

/// A request that needs a VM that runs.
#[derive(Debug)]
pub enum VmRequest {
    /// Send the daemon of the VM a signal.
    Signal {
        /// The signal for the daemon.
        signal: Signal,
        /// Gets the answer when the signal was sent, or the refusal.
        reply: Reply<Result<(), Refused>>,
    },
    /// Stop or continue the virtual CPUs of the VM.
    SetPaused {
        /// Whether the virtual CPUs are to stop.
        paused: bool,
        /// Gets the answer when the change is made, or the refusal.
        reply: Reply<Result<(), Refused>>,
    },
    /// Ask the guest agent of the VM a question.
    Ask {
        /// The question to the guest agent.
        ask: Ask,
        /// Gets the agent's answer, or the reason why there is none.
        reply: Reply<Result<Value, AskError>>,
    },
}

impl VmRequest {
    /// Answers the request with a refusal.
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
    /// The guest agent was not asked.
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
    /// The content of the report.
    pub event: GroupEvent,
}

/// The content of a report of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupEvent {
    /// The group was down, and an operator has brought it back.
    Up,
    /// All VMs of the group that are to be up are Ready.
    Ready,
    /// No VM of the group runs any more.
    Ended(GroupEnd),
}

/// The state in which a group's actor begins.
#[derive(Debug)]
pub enum InitialState {
    /// The group waits to be started.
    Found {
        /// The VMs that run already, or ended while no supervisor watched.
        vms: BTreeMap<VmName, Found>,
        /// The warm spares that run already.
        spares: Vec<FoundSpare>,
    },
    /// A former actor of the group has failed. The new one takes an inventory first, and then pursues this goal.
    Unknown(Goal),
}

/// The goal of a group after the inventory that the failure of its actor made necessary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Take over the VMs that run and start the rest.
    Up,
    /// Take over the VMs that run and wait to be started.
    Wait,
    /// Take over the VMs that run and stop them.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_respond_when_the_last_actor_has_come_to_the_question() {
        let (reply, mut answer) = Reply::channel();
        let all = AllRespond::new(reply);
        let (one, other) = (GroupMsg::Respond(all.clone()), GroupMsg::Respond(all));
        drop(one);
        assert!(answer.try_recv().is_err(), "a group that hangs keeps its message");
        drop(other);
        assert_eq!(answer.await, Ok(Some(())));
    }
}
