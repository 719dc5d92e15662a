//! Supervision trees for daemons in microVMs.
#![allow(missing_docs)]

pub mod group;
pub mod observe;
pub mod policy;
pub mod spec;
