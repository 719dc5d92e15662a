//! Decides the consequence of a VM's end: whether the VM comes back, after which delay, and whether the restarts are
//! too many.
//!
//! Knows no actors, no clock and no I/O: time and random numbers come in as arguments. `group` asks for the decisions
//! and applies them.

#![warn(clippy::wildcard_enum_match_arm)]

mod backoff;
mod decide;
mod decision;
mod ending;
mod intensity;
mod restart;
mod strategy;

pub use decide::{At, GroupPolicy, History, Situation, UnderWay, VmPolicy, decide};
pub use decision::{Action, Decision, Failure, GroupEnd, Reason};
pub use ending::{Cure, Ending};
pub use intensity::{Exceeded, Window, WindowCount};
pub use pepita_wire::{Exit, ExitRecord, ProcessExit};
pub use restart::Verdict;
