//! Decides what the end of a VM means: does the VM come back, how soon, and is that too often?
//!
//! Knows no actors, no clock and no I/O: time and chance come in as arguments. `group` asks, `group` acts.

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
pub use ending::Ending;
pub use intensity::{Exceeded, Window, WindowCount};
pub use pepita_wire::{Exit, ExitRecord, ProcessExit};
pub use restart::Verdict;
