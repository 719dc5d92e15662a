//! Decides what the end of a VM means: does it come back, how soon, and is it too often.
//!
//! Knows no actors, no clock and no I/O: time and chance come in as arguments. `group` asks, `group` acts.

mod backoff;
mod ending;
mod intensity;
mod restart;
mod strategy;

pub use ending::Ending;
pub use intensity::{Exceeded, Window};
pub use pepita_wire::{Exit, ExitRecord, ProcessExit};
pub use restart::{Judgement, Rule, judge};
pub use strategy::first_affected;
