//! Ports of guests on the host: listening sockets, and the carrying of bytes between a socket and a guest.
//!
//! Three programs use this crate: the guest agent, the monitor of a VM and the supervisor. It knows no VM.

pub mod listen;
mod pair;
pub mod queue;
pub mod relay;

pub use listen::{Listening, NotListening};
pub use queue::waiting;
pub use relay::{Closes, Relay, Tally};
