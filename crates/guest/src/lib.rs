//! `daemonctl`, the guest agent: PID 1 of a microVM, or a plain process of the host for `pepita run --vmm process`.
//!
//! Synchronous, a few threads: one for each connection, so that no client can hold up another's ping.

pub mod boot;
pub mod console;
pub mod daemon;
pub mod exec;
pub mod init;
pub mod notify;
pub mod reaper;
pub mod serve;
pub mod state;
pub mod stream;
pub mod tail;
