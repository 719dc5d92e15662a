//! The programs `pepitad` and `pepitactl`. They add to the library what belongs to a program: arguments, signals, the
//! environment, a terminal, the service manager.
//!
//! ARCHITECTURE.md has the rows in which the modules stand.

pub mod config;
pub mod ctl;
pub mod daemon;
pub mod demo;
pub mod exit;
mod format;
mod notify;
mod printer;
