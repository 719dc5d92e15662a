//! Supervision trees for daemons in microVMs.
#![allow(missing_docs)]

pub mod policy;
pub mod spec;
