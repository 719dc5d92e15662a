//! Puts in order what this process has inherited from the program that started it, so that the daemon inherits nothing
//! by chance: ignored and blocked signals, open descriptors, the file mode mask and the limit of open files.
#![expect(unsafe_code, reason = "signal dispositions and inherited descriptors have no safe wrapper")]

use nix::libc;
use nix::sys::signal::SigSet;
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

/// The file mode mask of the daemon: files that others may read and only their owner may write.
const UMASK: Mode = Mode::WGRP.union(Mode::WOTH);

/// The soft limit of open files of the daemon. Programs that use select(2) work with no more descriptors; others raise
/// the limit themselves, up to the hard one.
const OPEN_FILES: u64 = 1024;

/// Puts everything in order. Must be called before another thread starts.
///
/// `hard_open_files` is the hard limit of open files; `None` leaves the inherited one.
pub(crate) fn put_in_order(hard_open_files: Option<u64>) {
    reset_signals();
    close_on_exec();
    umask(UMASK);
    let hard = hard_open_files.or(getrlimit(Resource::Nofile).maximum);
    let soft = hard.map_or(OPEN_FILES, |hard| hard.min(OPEN_FILES));
    // A process without privileges cannot raise the hard limit; then the inherited limits stay.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum: hard });
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

/// Keeps every inherited descriptor except standard input, output and error from the processes that this process will
/// spawn. The descriptors stay open here: one of them is the claim of the VM's CID.
fn close_on_exec() {
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    for fd in open.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).filter(|fd| *fd > 2) {
        // SAFETY: the flag is set on whatever is open at this number; nothing is closed.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}
