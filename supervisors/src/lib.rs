//! The programs `pepitad` and `pepitactl`. The programs add to the library: arguments, signals, the environment, the
//! terminal, and the service manager.
//!
//! ARCHITECTURE.md has the rows in which the modules stand.

pub mod config;
pub mod ctl;
pub mod daemon;
pub mod demo;
pub mod exit;
mod format;
pub mod inherited;
pub mod memory;
mod notify;
pub mod output;
mod printer;
pub mod when;
