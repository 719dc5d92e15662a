//! `pepita`: boots microVMs on QEMU's microvm machine, with one small monitor process for each.
//!
//! There is no daemon: the run directory is the database. The modules stand in layers, and each uses only those before it
//! in this list: [`error`] and [`vm_config`]; [`host`]; [`rundir`]; [`image`]; `qemu` and [`vmm`]; [`client`];
//! [`monitor`], which stays with a VM; `reconcile`; [`boot`], which brings a monitor to its VM; [`cli`]; `ops`;
//! [`commands`].

pub mod boot;
pub mod cli;
pub mod client;
pub mod commands;
pub mod error;
pub mod host;
pub mod image;
pub mod monitor;
mod ops;
mod qemu;
mod reconcile;
pub mod rundir;
pub mod vm_config;
pub mod vmm;
