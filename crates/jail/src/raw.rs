//! The system calls for which there is no safe wrapper. No other file of this crate has unsafe code.
#![expect(
    unsafe_code,
    reason = "close_range(2), mount_setattr(2), fork(2), clone(2), unshare(2), signal(2) and _exit(2) have no safe wrapper"
)]

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::os::fd::{AsRawFd, OwnedFd};

/// What is forbidden in a mount.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Forbidden {
    /// Whether files cannot be written, made, removed or given other modes and owners.
    pub(crate) write: bool,
    /// Whether programs cannot be executed.
    pub(crate) execute: bool,
    /// Whether device files cannot be opened.
    pub(crate) devices: bool,
}

fn answer(code: libc::c_long) -> rustix::io::Result<libc::c_long> {
    match code {
        -1 => Err(std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)),
        code => Ok(code),
    }
}

/// Closes all descriptors from `first` to `last`.
///
/// Only for a process that owns none of them: the helper has just begun, and what it opens later is not yet open.
pub(crate) fn close_range(first: u32, last: u32) -> rustix::io::Result<()> {
    // SAFETY: no value of this process owns one of these descriptors.
    answer(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Forbids more in a mount that is attached nowhere, and in all mounts below it. Setuid programs are forbidden always.
pub(crate) fn restrict_mount(mount: &OwnedFd, forbidden: Forbidden) -> rustix::io::Result<()> {
    let mut set = libc::MOUNT_ATTR_NOSUID;
    for (is_forbidden, flag) in [
        (forbidden.write, libc::MOUNT_ATTR_RDONLY),
        (forbidden.execute, libc::MOUNT_ATTR_NOEXEC),
        (forbidden.devices, libc::MOUNT_ATTR_NODEV),
    ] {
        if is_forbidden {
            set |= flag;
        }
    }
    set_attributes(mount, set, libc::AT_RECURSIVE)
}

/// Forbids to write to a mount, but not to those in it.
pub(crate) fn seal_mount(mount: &OwnedFd) -> rustix::io::Result<()> {
    set_attributes(mount, libc::MOUNT_ATTR_RDONLY, 0)
}

fn set_attributes(mount: &OwnedFd, set: u64, flags: i32) -> rustix::io::Result<()> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the structure and the empty path live as long as the call, which writes to neither.
    answer(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// Enters new namespaces.
pub(crate) fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: the flags of namespaces share nothing of this process's memory or descriptors with anybody.
    unsafe { unshare_unsafe(flags) }
}

/// Splits this process in two (fork(2)). Returns the new one's process id to this one, and `None` to the new one.
pub(crate) fn fork() -> rustix::io::Result<Option<Pid>> {
    // SAFETY: this process has one thread, so that no lock is held by another one.
    let pid = answer(unsafe { libc::fork() }.into())?;
    Ok(i32::try_from(pid).ok().and_then(Pid::from_raw))
}

/// Ends this process at once.
pub(crate) fn end(code: i32) -> ! {
    // SAFETY: the process ends.
    unsafe { libc::_exit(code) }
}

/// Splits this process in two, as fork(2) does, but the new one is a child of this one's parent. Returns the new one's
/// process id to this one, and `None` to the new one.
pub(crate) fn fork_sibling() -> rustix::io::Result<Option<Pid>> {
    // SAFETY: the memory is copied, as by fork(2). This process has one thread, so that no lock is held by another one.
    let pid = answer(unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_PARENT, 0, 0, 0, 0) })?;
    Ok(i32::try_from(pid).ok().and_then(Pid::from_raw))
}

/// Makes a write beyond the limit of a file's size an error (EFBIG), as a full disk is, instead of the end of the process.
/// The program inherits this.
pub(crate) fn survive_file_size() {
    // SAFETY: an ignored signal runs no code of this process.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}
