//! What this program was given by the program that started it, and does not know: open files, and blocked signals.

#![expect(
    unsafe_code,
    reason = "descriptors are borrowed and taken by their numbers, and the action of a signal is set"
)]

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first descriptor beside standard input, output and error.
const FIRST: RawFd = 3;

/// The maximum number of sockets that are taken from the service manager.
const SOCKETS: RawFd = 65536;

/// Whether the sockets were taken.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

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

/// Takes the sockets that the service manager has given to this process, each with its name, as sd_listen_fds_with_names(3)
/// does. The first call takes them. Called before this program opens files.
pub fn take_sockets() -> Vec<(String, OwnedFd)> {
    if IS_TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let number = |name: &str| std::env::var(name).ok()?.parse::<RawFd>().ok();
    // They may be meant for the program that has started this one.
    if number("LISTEN_PID").and_then(|pid| u32::try_from(pid).ok()) != Some(std::process::id()) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").unwrap_or(0).clamp(0, SOCKETS);
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned);
    let sockets = (FIRST..FIRST + count).map(|number| (names.next().unwrap_or_default(), number));
    let is_open = |number: RawFd| {
        // SAFETY: only the flags of the entry of this number are read.
        fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) }).is_ok()
    };
    let open = sockets.filter(|(_, number)| is_open(*number));
    // SAFETY: the descriptor is open since the start of this process, which the variables are about, and no other call has
    // taken it.
    open.map(|(name, number)| (name, unsafe { OwnedFd::from_raw_fd(number) })).collect()
}

/// Unblocks all signals, and gives SIGCHLD its default action. A program keeps both over execve(2): SIGTERM would not
/// reach this program, and where SIGCHLD is ignored nobody can tell how a child has ended. Called before another thread
/// starts, because a thread inherits what is blocked.
pub fn reset_signals() {
    let _ = SigSet::empty().thread_set_mask();
    // SAFETY: the default action runs no code of this process.
    let _ = unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) };
}
