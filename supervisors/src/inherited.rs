//! What this program was given by the program that started it, and does not know: open files, and blocked signals.

#![expect(unsafe_code, reason = "a descriptor by its number is borrowed, and the action of a signal is set")]

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use rustix::io::{FdFlags, fcntl_setfd};
use std::os::fd::{BorrowedFd, RawFd};

/// The first descriptor beside standard input, output and error.
const FIRST: RawFd = 3;

/// Keeps all open files but standard input, output and error from the programs that this program starts, and so from the
/// VMs. Called before this program opens files.
pub fn keep() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    for number in numbers.filter(|number| *number >= FIRST).collect::<Vec<_>>() {
        // SAFETY: the call changes a flag of the entry of this number in the table of the process, whatever it is. A
        // number without an entry, such as that of the folder that was read above, is an error of the call.
        let file = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = fcntl_setfd(file, FdFlags::CLOEXEC);
    }
}

/// Unblocks all signals, and gives SIGCHLD its default action. A program keeps both over execve(2): SIGTERM would not
/// reach this program, and where SIGCHLD is ignored nobody can tell how a child has ended. Called before another thread
/// starts, because a thread inherits what is blocked.
pub fn reset_signals() {
    let _ = SigSet::empty().thread_set_mask();
    // SAFETY: the default action runs no code of this process.
    let _ = unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) };
}
