//! What a host sees of its tree: numbered events and a snapshot of every VM.
//!
//! Written by the group supervisors alone, each for its own VMs; read by anybody at any time, without asking an actor.

mod bus;
mod event;
mod json;
mod phase;
mod sentences;
mod status;

pub use bus::{Bus, Events, Received};
pub use event::{Action, Change, Decision, Event, EventKind};
pub use phase::VmPhase;
pub use status::{GroupStatus, StatusTable, TreeStatus, VmStatus};
