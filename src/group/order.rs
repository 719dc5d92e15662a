//! What the roster is asked and what it orders: the vocabulary between the group's decisions and its actor.

use crate::observe::Change;
use crate::policy::Ending;
use crate::spec::{Incarnation, VmName};
use crate::vm::Mode;
use std::time::Instant;

/// The moment and the chance that come with every question, so that the roster needs no clock and no dice.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// The monotonic clock.
    pub now: Instant,
    /// Chance, in `[0, 1)`, for the jitter of a delay.
    pub draw: f64,
}

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

/// How a group ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It was told to.
    Stopped,
    /// Its significant VMs have ended.
    AutoShutdown,
    /// It gave up and stays down.
    Failed {
        /// Why, in words.
        reason: String,
    },
    /// It gave up and its parent decides.
    Escalated {
        /// Why, in words.
        reason: String,
    },
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
    Destroy {
        /// The VM.
        vm: VmName,
        /// Its actor.
        epoch: u64,
    },
    /// Tell its actor about its new configuration.
    Update(VmName),
    /// It is down for good: its CID is free.
    Release(VmName),
    /// It is no longer in the configuration and down: forget it.
    Forget(VmName),
    /// Tell the host.
    Tell(Change),
    /// All that is to be up is Ready.
    GroupReady,
    /// The group is down.
    End(End),
}
