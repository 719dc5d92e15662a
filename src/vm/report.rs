//! The orders to a VM actor, and its reports to its group. The group imports these types; this module imports none of
//! the group.

use crate::observe::ProbeStatus;
use crate::policy::Ending;
use crate::spec::{Cid, Incarnation, VmName, VmSpec};
use crate::store::Written;
use pepita_wire::record::Timings;
use std::sync::Arc;

/// The way in which a VM actor comes to own its VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The actor boots the VM.
    Launch,
    /// The actor takes over a VM that runs already, or finds out how it ended.
    Adopt,
}

/// The VM that a spare becomes.
#[derive(Debug)]
pub struct Promotion {
    /// The specification of the VM.
    pub spec: Arc<VmSpec>,
    /// The number of this start of the VM.
    pub incarnation: Incarnation,
    /// The moment at which the incarnation is on the disk: the daemon is not started before.
    pub written: Written,
}

/// A change in a VM that lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// The daemon of the VM runs.
    Running,
    /// The VM is Ready (semantics 1.6).
    Ready,
    /// The health probes fail.
    Unhealthy,
    /// The health probes succeed again.
    Healthy,
    /// The VM is idle for so long that it may be put to sleep.
    Idle,
    /// The VM stays awake: a client came before it was put to sleep.
    StayedAwake,
    /// The VM is being stopped, to sleep until a client comes.
    GoesToSleep,
    /// The virtual CPUs are stopped until a client comes.
    Asleep,
    /// The virtual CPUs are stopped.
    Paused,
    /// The virtual CPUs run again.
    Resumed,
    /// The VM may run, and cannot be reached.
    Unreachable,
    /// The VM, which could not be reached, was found again.
    Reached,
    /// The VM is a spare, and can take the place of its VM.
    SpareReady,
}

/// The facts about an incarnation that observers see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    /// The CID that the VM holds.
    pub cid: Option<Cid>,
    /// The process id of the VMM.
    pub vmm_pid: Option<u32>,
    /// Whether the launch waits for free descriptors of this process.
    pub awaits_descriptors: bool,
}

/// A report of a VM actor. The group drops reports of actors that no longer own the VM.
#[derive(Debug, Clone, PartialEq)]
pub struct VmReport {
    /// The name of the VM.
    pub vm: VmName,
    /// The number of the actor that reports.
    pub epoch: u64,
    /// The content of the report.
    pub event: VmEvent,
}

/// The content of a report.
#[derive(Debug, Clone, PartialEq)]
pub enum VmEvent {
    /// The VM lives, and has changed.
    Transition(Transition),
    /// The facts have changed.
    Facts(Facts),
    /// The VM is confirmed gone. This is the last report of an actor.
    Ended(Ending),
    /// The result of the probes has changed.
    Probed(ProbeStatus),
    /// The parts of the start of the VM, before the VM is told to be Ready.
    Timings(Box<Timings>),
    /// A sentence for people.
    Notice(String),
}
