//! The questions to the roster and its orders: the types between the group's decisions and its actor.

use crate::journal::Wanted;
use crate::observe::{Change, VmPhase};
use crate::policy::{Ending, GroupEnd};
use crate::spec::{Incarnation, VmName, Vmm};
use crate::vm::Mode;

/// A command of an operator for a VM (semantics 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Start the VM. Clears its failures and cuts a backoff short.
    Start,
    /// Stop the VM until an operator starts it again. Cancels a backoff.
    Stop,
    /// Stop the VM, if it runs, and start it. Clears its failures.
    Restart,
    /// Clear the failures of the VM, and start it if it had given up.
    Reset,
}

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such VM in the tree.
    #[error("no VM {0:?} in this tree")]
    NoSuchVm(String),
    /// There is no such group in the tree.
    #[error("no group {0:?} in this tree")]
    NoSuchGroup(String),
    /// The command needs a running daemon, and the VM has none.
    #[error("VM {vm:?} is {phase}, not running")]
    NotRunning {
        /// The name of the VM.
        vm: String,
        /// The phase of the VM at that moment.
        phase: &'static str,
    },
    /// The group or the tree is on its way down.
    #[error("the supervisor is stopping")]
    Stopping,
    /// A VM or group of this name exists already.
    #[error("{0:?} exists already")]
    Taken(String),
    /// The launcher or the guest refused.
    #[error("{0}")]
    Failed(String),
}

/// A VM that a new supervisor, or a group's new actor, has found on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The incarnation that was found.
    pub incarnation: Incarnation,
    /// Whether the VM was started with the configuration that is in force now.
    pub unchanged: bool,
    /// Whether the VM answers, as far as it runs. A VM that does not is left as it is, and holds up no other VM.
    pub reachable: bool,
    /// How the VM ended while no supervisor watched; `None`: the VM runs.
    pub ended: Option<Ending>,
}

/// A warm spare that a new supervisor, or a group's new actor, has found on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSpare {
    /// The name of the spare.
    pub name: VmName,
    /// The VM whose place it can take.
    pub of: VmName,
    /// The fingerprint of the configuration that it was launched with.
    pub config: String,
}

/// A warm spare as observers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpareView<'a> {
    /// The name of the spare.
    pub name: &'a VmName,
    /// The VM whose place it can take.
    pub of: &'a VmName,
    /// Whether it can take that place at once; else it boots, or is being ended.
    pub is_ready: bool,
}

/// A VM as observers see it.
#[derive(Debug, Clone, PartialEq)]
pub struct VmView<'a> {
    /// The VM's name.
    pub name: &'a VmName,
    /// The phase that the VM is in.
    pub phase: VmPhase,
    /// The newest incarnation; 0 = never started.
    pub incarnation: Incarnation,
    /// Consecutive counted failures.
    pub attempts: u32,
    /// Whether the VM is to be up.
    pub wanted: Wanted,
    /// Whether the VM runs with a configuration that has changed since.
    pub needs_restart: bool,
    /// The program that runs the VM.
    pub vmm: Vmm,
}

/// An order of the roster.
#[derive(Debug, Clone, PartialEq)]
// A list of orders is short and lives briefly: boxing the changes would cost more than it saves.
#[allow(clippy::large_enum_variant)]
pub enum Order {
    /// Save the state of this VM in the journal.
    Save(VmName),
    /// Spawn an actor for a VM.
    Spawn {
        /// The VM that the actor owns.
        vm: VmName,
        /// The incarnation of the VM.
        incarnation: Incarnation,
        /// The number of the actor, which its reports carry.
        epoch: u64,
        /// Whether the actor boots the VM or takes it over.
        mode: Mode,
    },
    /// Spawn an actor for a warm spare.
    SpawnSpare {
        /// The name of the spare.
        spare: VmName,
        /// The VM whose place it can take.
        of: VmName,
        /// The number of the actor, which its reports carry.
        epoch: u64,
        /// Whether the actor boots the spare or takes it over.
        mode: Mode,
    },
    /// Tell a spare's actor to end the spare.
    EndSpare {
        /// The name of the spare.
        spare: VmName,
        /// The number of the actor.
        epoch: u64,
    },
    /// Tell a spare's actor to make the spare the VM whose place it takes. The actor owns that VM from now on.
    Promote {
        /// The name of the spare.
        spare: VmName,
        /// The VM that it becomes.
        vm: VmName,
        /// The incarnation of the VM.
        incarnation: Incarnation,
        /// The number of the actor.
        epoch: u64,
    },
    /// Release what a spare held, which is gone.
    ForgetSpare(VmName),
    /// Tell the VM's actor to stop the VM: signal, grace, kill, confirm that it is gone.
    Stop {
        /// The name of the VM.
        vm: VmName,
        /// The number of the actor.
        epoch: u64,
    },
    /// Tell the VM's actor to kill the VM at once.
    Kill {
        /// The name of the VM.
        vm: VmName,
        /// The number of the actor.
        epoch: u64,
    },
    /// Tell the VM's actor to put the VM to sleep, unless a client has come.
    Sleep {
        /// The name of the VM.
        vm: VmName,
        /// The number of the actor.
        epoch: u64,
    },
    /// Tell the VM's actor to wake the VM, which is asleep and not down.
    Wake {
        /// The name of the VM.
        vm: VmName,
        /// The number of the actor.
        epoch: u64,
    },
    /// Tell the VM's actor the new configuration.
    Update(VmName),
    /// Listen at the ports of the VM, which is asleep, until a client comes.
    AwaitClient(VmName),
    /// Release the CID of the VM, which is down for good.
    Release(VmName),
    /// Remove the stored state of the VM, which is down and no longer in the configuration.
    Remove(VmName),
    /// Tell the host that a VM has changed.
    Tell(Change),
    /// Tell the host and the root that all VMs that are to be up are Ready.
    GroupReady,
    /// Tell the root that an operator has brought back the group, which was down.
    BroughtBack,
    /// Tell the host and the root that the group is down.
    End(GroupEnd),
}
