//! `pepita`: boots microVMs on QEMU's microvm machine, with one small monitor process for each.
//!
//! There is no daemon: the run directory is the database. [`cli`] is what is typed, [`call`] carries it out, [`monitor`]
//! is what stays behind with a VM.

pub mod agent_program;
pub mod call;
pub mod cid;
pub mod cli;
pub mod client;
pub mod doctor;
pub mod failure;
pub mod identity;
pub mod image;
pub mod kernel;
pub mod limits;
pub mod monitor;
pub mod names;
pub mod plan;
pub mod qemu;
pub mod record;
pub mod rundir;
pub mod session;
pub mod settle;
pub mod tsc;
pub mod vhost;
pub mod vmm;
