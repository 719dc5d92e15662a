//! What of a VM outlives the actor, the group and the supervisor that knew it. Types only.

use crate::policy::Failure;
use crate::spec::Incarnation;

/// Whether a VM is to be up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Yes.
    Up,
    /// No, the operator said so (or it is not started with its group).
    Down,
}

/// What a previous run of the supervisor, or of the group's actor, knew of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// The newest incarnation.
    pub incarnation: Incarnation,
    /// Whether the operator wants it up.
    pub wanted: Wanted,
    /// Consecutive failures.
    pub attempts: u32,
    /// It had ended cleanly and was not to be restarted.
    pub completed: bool,
    /// How the VM had failed, if it had given up.
    pub failed: Option<Failure>,
}
