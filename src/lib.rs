//! Supervision trees for daemons in microVMs.
#![allow(missing_docs)]

pub mod cid;
pub mod config;
pub mod executor;
pub mod group;
pub mod journal;
pub mod link;
pub mod observe;
pub mod policy;
pub mod reply;
pub mod spec;
pub mod tree;
pub mod vm;
