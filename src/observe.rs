//! The state of a tree as its host sees it: numbered events and a snapshot of every VM.
//!
//! The group supervisors write both, each for its own VMs. Any thread reads them at any time, without asking an actor.

#![warn(clippy::wildcard_enum_match_arm)]

mod bus;
mod event;
mod json;
mod phase;
mod probe;
mod sentences;
mod status;

pub use crate::policy::{Action, Decision, Failure, GroupEnd, Reason, WindowCount};
pub use bus::{Bus, Events, Received};
pub use event::{Change, Event, EventKind};
pub use phase::VmPhase;
pub use probe::ProbeStatus;
pub use sentences::delay_in_words;
pub(crate) use sentences::last_words;
pub(crate) use status::Detail;
pub use status::{GroupStatus, SpareStatus, StatusTable, TreeStatus, VmStatus};
