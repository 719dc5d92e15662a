#![doc = include_str!("../README.md")]
//!
//! # The crate
//!
//! Begin at [`Tree`]; [`config`] reads a specification from a TOML file; [`adapter`] runs single daemons; [`control`] lets
//! other programs see and steer a tree. [`book`] has the longer texts: embedding, policies, operating, writing an agent,
//! comparison.
// Tests and benches of this package use modules that are private otherwise.
#![cfg_attr(not(feature = "test-hooks"), allow(unreachable_pub))]

mod actor;
pub mod adapter;
pub mod book;
mod claim;
pub mod config;
pub mod control;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod lock;
pub mod platform;

#[cfg(not(feature = "test-hooks"))]
mod cid;
#[cfg(feature = "test-hooks")]
pub mod cid;
#[cfg(not(feature = "test-hooks"))]
mod executor;
#[cfg(feature = "test-hooks")]
pub mod executor;
#[cfg(not(feature = "test-hooks"))]
mod group;
#[cfg(feature = "test-hooks")]
pub mod group;
#[cfg(not(feature = "test-hooks"))]
mod journal;
#[cfg(feature = "test-hooks")]
pub mod journal;
#[cfg(not(feature = "test-hooks"))]
mod link;
#[cfg(feature = "test-hooks")]
pub mod link;
#[cfg(not(feature = "test-hooks"))]
mod monitor_client;
#[cfg(feature = "test-hooks")]
pub mod monitor_client;
#[cfg(not(feature = "test-hooks"))]
mod observe;
#[cfg(feature = "test-hooks")]
pub mod observe;
#[cfg(not(feature = "test-hooks"))]
mod policy;
#[cfg(feature = "test-hooks")]
pub mod policy;
mod ports;
#[cfg(not(feature = "test-hooks"))]
mod reply;
#[cfg(feature = "test-hooks")]
pub mod reply;
#[cfg(not(feature = "test-hooks"))]
mod spec;
#[cfg(feature = "test-hooks")]
pub mod spec;
#[cfg(not(feature = "test-hooks"))]
mod store;
#[cfg(feature = "test-hooks")]
pub mod store;
#[cfg(not(feature = "test-hooks"))]
mod tree;
#[cfg(feature = "test-hooks")]
pub mod tree;
#[cfg(not(feature = "test-hooks"))]
mod vm;
#[cfg(feature = "test-hooks")]
pub mod vm;

pub use claim::ClaimError;
pub use executor::{ExecutorError, NotFound};
pub use group::{AskError, Command, Refused};
pub use journal::JournalError;
pub use observe::{
    Action, Change, Decision, Event, EventKind, Events, Failure, GroupEnd, GroupStatus, ProbeStatus, Reason,
    Received, SpareStatus, TreeStatus, VmPhase, VmStatus, WindowCount, delay_in_words,
};
pub use pepita_wire as wire;
pub use policy::{Ending, Exit, ExitRecord, ProcessExit};
pub use ports::{GivenSockets, SocketStore};
pub use spec::{
    AutoShutdown, Backoff, Change as KeyChange, Cid, GroupName, GroupPlan, GroupSpec, HealthCheck,
    HealthSpec, HttpPlace, Incarnation, Intensity, InvalidCid, InvalidName, MachineSpec, OnExit, OnGiveUp,
    OnIntensityExceeded, OnStartFailure, OnUnhealthy, Orphans, Plan, Port, Publish, Readiness, Removals,
    Restart, RestartSpec, Signal, StartSpec, StopSpec, Strategy, TreeSpec, VmName, VmPlan, VmSpec, Vmm,
};
pub use tree::{ChangeError, NotReady, SpecError, StartError, Tree, TreeEnd, longest_end};
