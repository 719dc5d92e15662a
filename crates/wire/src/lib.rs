//! The protocol between a microVM's host and its guest agent, and the records that the `pepita` launcher keeps.
//!
//! Four programs share these types: the launcher, its monitor, the guest agent and the supervisor. No I/O, no async
//! runtime, no clock. The conversation is NDJSON: one JSON object per line, at most [`LINE_CAP`] bytes.
//! `README.md` of this crate describes it for writers of agents in other languages.

pub mod agent;
pub mod allowance;
pub mod chunk;
pub mod console;
pub mod conversation;
pub mod data;
pub mod environment;
pub mod error;
pub mod exit;
pub mod frame;
pub mod image;
pub mod launch;
pub mod line;
pub mod monitor;
pub mod name;
pub mod network;
pub mod port;
pub mod probe;
pub mod protocol;
pub mod reach;
pub mod record;
pub mod rundir;
pub mod serve;
pub mod signal;
pub mod storage;
pub mod stored;
pub mod streams;
pub mod text;
pub mod usage;
pub mod world;

pub use agent::{Ask, ExecResult, GuestEvent};
pub use error::{ErrorKind, WireError};
pub use exit::{Exit, ExitRecord, ProcessExit};
pub use frame::{FrameError, Hello, Outcome, Request, ToGuest, ToHost, TooLong};
pub use launch::LaunchSpec;
pub use line::{LineError, Lines};
pub use monitor::MonitorRequest;
pub use name::{NameError, VmId};
pub use port::{GuestPlace, Publish};
pub use protocol::{
    CLI_ADDITIONS, CLI_VERSION, CONTENT_CAP, DEFAULT_PORT, LINE_CAP, MAX_BAD_LINES, PROTOCOL_VERSION,
};
pub use record::{StatusRecord, VersionRecord, VmState};
pub use signal::Signal;
pub use stored::Stored;
