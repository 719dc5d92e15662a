//! What a VM actor is told to do, and what it tells its group. The group imports these words; not the other way round.

use crate::policy::Ending;
use crate::spec::{Cid, VmName};

/// How a VM actor comes to its VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The actor boots the VM.
    Launch,
    /// The actor takes over a VM that runs already, or finds out how it ended.
    Adopt,
}

/// A change in a VM that lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// The daemon runs.
    Running,
    /// The VM is Ready (semantics 1.6).
    Ready,
    /// The health probes fail.
    Unhealthy,
    /// The health probes succeed again.
    Healthy,
    /// The virtual CPUs stand still.
    Paused,
    /// The virtual CPUs run again.
    Resumed,
}

/// What onlookers want to know of an incarnation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    /// The CID that the VM holds.
    pub cid: Option<Cid>,
    /// The process id of the VMM.
    pub vmm_pid: Option<u32>,
}

/// A report of a VM actor. The group drops reports of actors that no longer own the VM.
#[derive(Debug, Clone, PartialEq)]
pub struct VmReport {
    /// The name of the VM.
    pub vm: VmName,
    /// The number of the actor that reports.
    pub epoch: u64,
    /// What has happened.
    pub event: VmEvent,
}

/// What a report tells.
#[derive(Debug, Clone, PartialEq)]
pub enum VmEvent {
    /// The VM lives, and has changed.
    Transition(Transition),
    /// The facts have changed.
    Facts(Facts),
    /// The VM is confirmed gone. The last report of an actor.
    Ended(Ending),
    /// A sentence for people.
    Notice(String),
}
