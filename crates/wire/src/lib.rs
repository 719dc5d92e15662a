//! What a microVM's host and its guest agent say to each other, and the records that the `pepita` launcher keeps.
//!
//! One vocabulary for four programs: the launcher, its monitor, the guest agent and the supervisor. No I/O, no async
//! runtime, no clock. The conversation is NDJSON: one JSON object a line, at most [`LINE_CAP`] bytes.
//! `README.md` of this crate describes it for writers of agents in other languages.

pub mod agent;
pub mod console;
pub mod conversation;
pub mod error;
pub mod exit;
pub mod frame;
pub mod launch;
pub mod line;
pub mod name;
pub mod record;
pub mod rundir;
pub mod signal;
pub mod stored;

pub use agent::{Ask, ExecResult, GuestEvent};
pub use error::{ErrorKind, WireError};
pub use exit::{Exit, ExitRecord, ProcessExit};
pub use frame::{FrameError, Hello, Outcome, Request, ToGuest, ToHost};
pub use launch::LaunchSpec;
pub use line::{LineError, Lines};
pub use name::{NameError, VmId};
pub use record::{StatusRecord, VersionRecord, VmState};
pub use signal::Signal;
pub use stored::Stored;

/// The generation of the conversation this crate speaks. Both sides use the lower of the two they announce.
pub const GENERATION: u32 = 1;

/// The generation of the launcher's calls, exit codes and records; `pepita --version --json` names it.
pub const CONTRACT: u32 = 1;

/// The longest line either side accepts, newline included, in bytes.
pub const LINE_CAP: usize = 256 * 1024;

/// The most that an answer or an event may hold, in bytes. As values in memory that may be a hundred times as much, and
/// a guest chooses what it sends; all that an agent has to say is shorter.
pub const CONTENT_CAP: usize = 64 * 1024;

/// The vsock port a guest agent listens on unless told otherwise.
pub const DEFAULT_PORT: u32 = 5000;

/// Bad lines after which a connection ends.
pub const MAX_BAD_LINES: u32 = 3;
