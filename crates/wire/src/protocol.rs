//! The versions and the bounds of the protocol.

use std::time::Duration;

/// The version of the conversation with a guest agent that this crate speaks. Both sides use the lower of the two
/// that they announce.
pub const PROTOCOL_VERSION: u32 = 1;

/// The version of the launcher's calls, exit codes and records; `pepita --version --json` names it.
pub const CLI_VERSION: u32 = 1;

/// The number of additions to that version: 1 = `pepita run --spec`, 2 = disks (`disks` of
/// the specification, `pepita disk`), 3 = container images (`image`, `pull` and `entrypoint` of the specification,
/// `pepita image pull`). A caller that uses an addition checks this number; an older caller ignores it and keeps working.
pub const CLI_ADDITIONS: u32 = 4;

/// The longest line that either side accepts, newline included, in bytes.
pub const LINE_CAP: usize = 256 * 1024;

/// The maximum content of an answer or an event of a guest, in bytes. Parsed values may take a hundred times as much
/// memory as their text, and a guest can send any text. The messages of a well-behaved agent are shorter than this.
pub const CONTENT_CAP: usize = 64 * 1024;

/// The number of bad lines after which a connection with a guest is closed.
pub const MAX_BAD_LINES: u32 = 3;

/// The maximum number of requests that wait for an answer on one connection with a guest.
pub const PENDING_CAP: usize = 64;

/// The bytes that a host reads from an agent in each second. A flood of a guest beyond them waits in the guest.
pub const AGENT_RATE: u32 = 512 * 1024;

/// The bytes that a host reads from an agent at once, after a quiet time.
pub const AGENT_BURST: u32 = 1024 * 1024;

/// The shortest time between two reports of what a daemon says of itself (`health`), and between two publications of
/// it. Whatever comes in between is merged.
pub const HEALTH_INTERVAL: Duration = Duration::from_millis(100);

/// The same time for reports that contain `WATCHDOG=1`. It is shorter, because a watchdog counts the time in between.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(20);

/// A text in the program of every agent that can read its boot token from a port of the guest. A launcher looks for it in
/// an image, because an older agent knows only the kernel's command line.
pub const TOKEN_PORT_MARK: &str = "pepita-boot-token-port-1";

/// The length of a boot token in bytes.
pub const TOKEN_LENGTH: usize = 32;

/// The default vsock port of a guest agent.
pub const DEFAULT_PORT: u32 = 5000;
