//! The versions and the bounds of the protocol.

/// The version of the conversation with a guest agent that this crate speaks. Both sides use the lower of the two
/// that they announce.
pub const PROTOCOL_VERSION: u32 = 1;

/// The version of the launcher's calls, exit codes and records; `pepita --version --json` names it.
pub const CLI_VERSION: u32 = 1;

/// The number of additions to that version: 1 = `pepita run --spec`. A caller that uses an addition checks this number;
/// an older caller ignores it and keeps working.
pub const CLI_ADDITIONS: u32 = 1;

/// The longest line that either side accepts, newline included, in bytes.
pub const LINE_CAP: usize = 256 * 1024;

/// The maximum content of an answer or an event of a guest, in bytes. Parsed values may take a hundred times as much
/// memory as their text, and a guest can send any text. The messages of a well-behaved agent are shorter than this.
pub const CONTENT_CAP: usize = 64 * 1024;

/// The number of bad lines after which a connection with a guest is closed.
pub const MAX_BAD_LINES: u32 = 3;

/// The maximum number of requests that wait for an answer on one connection with a guest.
pub const PENDING_CAP: usize = 64;

/// The default vsock port of a guest agent.
pub const DEFAULT_PORT: u32 = 5000;
