//! A process that makes copies of itself (fork(2)), each of which goes on in its place.
#![expect(unsafe_code, reason = "what a copy of a process does is the caller's promise")]

use nix::libc;
use nix::unistd::ForkResult;
use std::io;

/// The side on which a fork returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The copy.
    Copy,
    /// The process that was copied.
    Original,
}

/// Copies this process. The caller has no other thread: the copy would lack it, and what it holds would stay held.
///
/// # Errors
/// When the host lacks memory or process ids.
pub fn fork() -> io::Result<Side> {
    // SAFETY: the process has one thread, so that the copy may do all that the process may do.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => Ok(Side::Copy),
        ForkResult::Parent { .. } => Ok(Side::Original),
    }
}

/// Lets the kernel forget the children of this process when they end. A copy that wants to hear of its own children undoes
/// this by [`super::inherited::give_up`].
pub fn forget_children() {
    // SAFETY: an ignored signal runs no code of this process.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}
