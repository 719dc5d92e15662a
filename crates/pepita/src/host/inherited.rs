//! Keeps what the caller of the launcher has set up by chance from the processes of a VM: its environment, its open
//! descriptors, the signals that it ignores or blocks, its file mode mask.
#![expect(unsafe_code, reason = "signal dispositions and inherited descriptors have no safe wrapper")]

use nix::libc;
use nix::sys::signal::SigSet;
use pepita_wire::environment::PASSED;
use rustix::fs::Mode;
use rustix::process::umask;
use std::process::Command;

/// The file mode mask of the processes of a VM: files that others may read and only their owner may write. The run
/// directory itself is closed to others.
const UMASK: Mode = Mode::WGRP.union(Mode::WOTH);

/// Lets the process of `command` have only the variables of [`PASSED`], and those that are set after this call.
pub fn clean_environment(command: &mut Command) {
    let passed = PASSED.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    command.env_clear().envs(passed);
}

/// Gives up everything that this process has inherited except standard input, output and error, and the environment.
/// For a process that has just begun: no other thread runs, and no descriptor is in use.
pub fn give_up() {
    close_descriptors();
    reset_signals();
    survive_file_limit();
    umask(UMASK);
}

/// Gives SIGCHLD its default action: where the caller ignores it, nobody can tell how a child has ended.
pub fn expect_children() {
    // SAFETY: the default action runs no code of this process.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Makes a write beyond the limit of a file's size (RLIMIT_FSIZE) an error, like a full disk, instead of a signal that ends
/// this process. [`super::setsid::in_own_session`] resets this for the processes of the VM.
fn survive_file_limit() {
    // SAFETY: an ignored signal runs no code of this process.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Closes every descriptor but the first three. A pipe or a lock of the caller would otherwise stay open as long as the
/// VM runs.
fn close_descriptors() {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    // The list is complete before the first is closed, because one of them reads the list.
    let open: Vec<i32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // SAFETY: nothing of this process owns a descriptor yet. (The one that has read the list is closed already.)
        unsafe { libc::close(fd) };
    }
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
