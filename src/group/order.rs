//! What the roster is asked and what it orders: the vocabulary between the group's decisions and its actor.

use crate::journal::Wanted;
use crate::observe::{Change, VmPhase};
use crate::policy::{Ending, GroupEnd};
use crate::spec::{Incarnation, VmName};
use crate::vm::Mode;

/// What an operator can ask of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Be up. Forgets its failures; cuts a backoff short.
    Start,
    /// Be down until started again. Cancels a backoff.
    Stop,
    /// Stop, if need be, and start. Forgets its failures.
    Restart,
    /// Forget its failures; if it had given up, start again.
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
    /// The command needs a running daemon, and there is none.
    #[error("VM {vm:?} is {phase}, not running")]
    NotRunning {
        /// The VM.
        vm: String,
        /// Where it is instead.
        phase: &'static str,
    },
    /// The group or the tree is on its way down.
    #[error("the supervisor is stopping")]
    Stopping,
    /// The name is in use.
    #[error("{0:?} is there already")]
    Taken(String),
    /// The launcher or the guest refused.
    #[error("{0}")]
    Failed(String),
}

/// A VM that was running when the group started.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Which of its incarnations it is.
    pub incarnation: Incarnation,
    /// It was started with the configuration that is in force now.
    pub unchanged: bool,
    /// How it ended meanwhile; `None` = it runs.
    pub ended: Option<Ending>,
}

/// What onlookers see of a VM.
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
}

/// What the roster wants done.
#[derive(Debug, Clone, PartialEq)]
// A list of orders is short and lives briefly: boxing the news would cost more than it saves.
#[allow(clippy::large_enum_variant)]
pub enum Order {
    /// Write down what the journal keeps of this VM.
    Save(VmName),
    /// Spawn a VM actor.
    Spawn {
        /// For this VM,
        vm: VmName,
        /// this incarnation of it,
        incarnation: Incarnation,
        /// under this number, which its reports carry,
        epoch: u64,
        /// to do this.
        mode: Mode,
    },
    /// Tell its actor to stop it: signal, grace, destroy, confirm gone.
    Stop {
        /// The VM.
        vm: VmName,
        /// Its actor.
        epoch: u64,
    },
    /// Tell its actor to end it at once.
    Kill {
        /// The VM.
        vm: VmName,
        /// Its actor.
        epoch: u64,
    },
    /// Tell its actor about its new configuration.
    Update(VmName),
    /// It is down for good: its CID is free.
    Release(VmName),
    /// It is no longer in the configuration and down: remove what is kept of it.
    Remove(VmName),
    /// Tell the host.
    Tell(Change),
    /// All that is to be up is Ready.
    GroupReady,
    /// The group was down, and an operator has brought it back.
    BroughtBack,
    /// The group is down.
    End(GroupEnd),
}
