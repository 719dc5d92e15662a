//! Puts in order what this process has inherited from the program that started it, so that the daemon inherits nothing
//! by chance: ignored and blocked signals, open descriptors and the file mode mask.
#![expect(unsafe_code, reason = "signal dispositions and inherited descriptors have no safe wrapper")]

use nix::libc;
use nix::sys::signal::SigSet;
use rustix::fs::Mode;
use rustix::process::umask;

/// The file mode mask of the daemon: files that others may read and only their owner may write.
const UMASK: Mode = Mode::WGRP.union(Mode::WOTH);

/// Puts everything in order. Must be called before another thread starts.
pub(crate) fn put_in_order() {
    reset_signals();
    close_on_exec();
    umask(UMASK);
}

/// Gives every signal that is ignored its default action again, and unblocks all signals. A process keeps both over
/// execve(2): a supervisor that was started by nohup(1) would make daemons that ignore SIGHUP.
fn reset_signals() {
    for number in 1..=libc::SIGRTMAX() {
        // Rust's runtime ignores SIGPIPE in this process, and resets it in each process that it spawns.
        if number == libc::SIGPIPE {
            continue;
        }
        // SAFETY: a zeroed action is a valid value to be overwritten, and reading an action changes nothing. (For its own
        // two signals the C library refuses.)
        let ignored = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(number, std::ptr::null(), &raw mut action) == 0
                && action.sa_sigaction == libc::SIG_IGN
        };
        if ignored {
            // SAFETY: the default action runs no code of this process.
            unsafe { libc::signal(number, libc::SIG_DFL) };
        }
    }
    let _ = SigSet::empty().thread_set_mask();
}

/// Copies this process, as long as it has one thread. Returns the id of the copy, and `None` in the copy.
///
/// # Errors
/// When the system lacks memory or process ids.
pub(crate) fn fork() -> nix::Result<Option<u32>> {
    // SAFETY: the process has one thread, so that the copy may do all that the process may do.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => Ok(None),
        nix::unistd::ForkResult::Parent { child } => Ok(Some(child.as_raw().unsigned_abs())),
    }
}

/// Closes every descriptor except standard input, output and error, for a copy of this process that uses no other.
pub(crate) fn close_all() {
    for fd in open_descriptors() {
        // SAFETY: what owns the descriptor is never dropped: the copy ends, or becomes another program.
        unsafe { libc::close(fd) };
    }
}

/// Returns every open descriptor except standard input, output and error.
fn open_descriptors() -> Vec<i32> {
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|fd| *fd > 2).collect()
}

/// Keeps every inherited descriptor except standard input, output and error from the processes that this process will
/// spawn. The descriptors stay open here: one of them is the claim of the VM's CID.
fn close_on_exec() {
    for fd in open_descriptors() {
        // SAFETY: the flag is set on whatever is open at this number; nothing is closed.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}
