//! Processes in a session of their own (setsid(2)).
#![expect(unsafe_code, reason = "what is done between fork and exec is the caller's promise")]

use nix::libc;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes the process of `command` begin a session of its own. A process group alone is not enough: when a monitor dies,
/// the kernel sends SIGHUP to the process groups of its session that have a stopped member, and a paused VM is such a
/// member. A signal that the monitor ignores for itself, SIGXFSZ, has its default action in the process.
pub fn in_own_session(command: &mut Command) {
    let begin = || {
        // SAFETY: the default action runs no code of this process.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_DFL) };
        rustix::process::setsid().map(drop).map_err(Into::into)
    };
    // SAFETY: setsid(2) and signal(2) are async-signal-safe, and nothing else is done.
    unsafe { command.pre_exec(begin) };
}
