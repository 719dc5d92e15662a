//! The state of a VM that outlives its actor, its group and its supervisor. Types only.

use crate::policy::Failure;
use crate::spec::Incarnation;

/// Whether a VM is to be up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The VM is to be up.
    Up,
    /// The VM is to be down: the operator stopped it, or it is not started with its group.
    Down,
}

/// The state of a VM that a former run of the supervisor, or a former actor of the group, has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// The newest incarnation.
    pub incarnation: Incarnation,
    /// Whether the VM is to be up.
    pub wanted: Wanted,
    /// The number of consecutive failures.
    pub attempts: u32,
    /// Whether the daemon of any incarnation has run.
    pub has_run: bool,
    /// Whether the VM had ended cleanly and was not to be restarted.
    pub completed: bool,
    /// Whether the VM was asleep, or being put to sleep.
    pub idle: bool,
    /// How the VM had failed, if it had given up.
    pub failed: Option<Failure>,
}
