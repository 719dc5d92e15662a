//! What a supervisor and its launch server say to each other.
//!
//! The server is `pepita monitor DIR --serve`, with a socket as standard input. It writes [`GREETING`]. For each launch the
//! supervisor sends one byte, with the end of a new socket. On that socket the supervisor writes a
//! [`LaunchSpec`](crate::LaunchSpec) as one line, the monitor answers with one line ([`LaunchAnswer`]), and the supervisor takes the VM
//! with [`TAKEN`]. A socket that closes without it ends the VM.

use crate::record::CallError;
use crate::record::StatusRecord;
use serde::{Deserialize, Serialize};

/// The option of `pepita monitor` that starts the server.
pub const SERVE: &str = "--serve";

/// The first line of a server.
pub const GREETING: &[u8] = b"launch server 1\n";

/// The answer of a monitor to the program that has started it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LaunchAnswer {
    /// The VM was started or adopted; the value is its status.
    Up(Box<StatusRecord>),
    /// There is no VM, for this reason.
    Failed(CallError),
}

/// The line by which a starter takes the VM that it was answered to have. A starter that ends before, or whose call is
/// given up, closes its pipe without it: its launch counts as failed, and no VM may be left of it.
pub const TAKEN: &[u8] = b"taken\n";
