//! The versions and the bounds of the protocol.

/// The version of the conversation with a guest agent that this crate speaks. Both sides use the lower of the two
/// that they announce.
pub const PROTOCOL_VERSION: u32 = 1;

/// The version of the launcher's calls, exit codes and records; `pepita --version --json` names it.
pub const CLI_VERSION: u32 = 1;

/// What was added to that version, counted: 1 = `pepita run --spec`. A caller that uses an addition asks for its number;
/// a caller that does not know the number goes on working.
pub const CLI_ADDITIONS: u32 = 1;

/// The longest line that either side accepts, newline included, in bytes.
pub const LINE_CAP: usize = 256 * 1024;

/// The most that an answer or an event of a guest may hold, in bytes. As values in memory that may be a hundred times
/// as much, and a guest chooses what it sends; everything that an agent has to say is shorter.
pub const CONTENT_CAP: usize = 64 * 1024;

/// The bad lines after which a connection with a guest ends.
pub const MAX_BAD_LINES: u32 = 3;

/// The requests that may wait for their answer on one connection with a guest.
pub const PENDING_CAP: usize = 64;

/// The vsock port on which a guest agent listens unless told otherwise.
pub const DEFAULT_PORT: u32 = 5000;
