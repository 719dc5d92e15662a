//! `pepita`: boots microVMs on QEMU's microvm machine, with one small monitor process for each VM.
//!
//! There is no central daemon: the run directory is the only database. The modules form layers, and each module uses
//! only modules that come before it in this list: [`error`] and [`vm_config`]; [`host`]; [`rundir`]; [`image`]; `qemu`
//! and [`vmm`]; [`client`]; `disk`, what outlives a VM; [`monitor`], which stays with a VM; `reconcile`; [`boot`], which connects a monitor with
//! its VM; [`cli`]; `ops`; [`commands`].

pub mod boot;
pub mod cli;
pub mod client;
pub mod commands;
mod disk;
pub mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod host;
pub mod image;
pub mod monitor;
mod ops;
mod qemu;
mod reconcile;
pub mod rundir;
pub mod vm_config;
pub mod vmm;
