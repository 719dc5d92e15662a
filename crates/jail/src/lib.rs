//! The jail of the processes that touch what a guest writes: QEMU, the vsock back-end, the servers of shares.
//!
//! A program is started through a helper, `pepita jail`, a process with one thread that builds the jail around itself and
//! then executes the program. [`Plan`] says what the jail is to be, [`Entry`] starts a program in it, [`Report`] says which
//! layers are in force.
//!
//! The program that starts is no part of the jail: it lists what the program needs, and gives it descriptors.

mod answer;
mod enter;
mod filter;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod helper;
mod identity;
mod layer;
mod ledger;
mod namespaces;
mod plan;
mod raw;
mod root;
mod rules;
mod start;

pub use answer::{Failure, What};
pub use layer::{Layer, Report, Standing};
pub use plan::{Access, Bind, Capability, HELPER, Level, Limits, Network, Plan, Seccomp, User};
pub use start::{ENTRY_DEADLINE, End, Entry, Jailed, end_of, probe};
