//! Enters namespaces, and maps the one user that exists in a user namespace.

use crate::raw::unshare;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{Errno, write};
use rustix::thread::UnshareFlags;
use std::os::fd::{AsFd, OwnedFd};

/// Opens `/proc` of the host, by which a user namespace is set up; it stays usable in another root.
pub(crate) fn open_proc() -> Result<OwnedFd, String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, "/proc", flags, Mode::empty()).map_err(|e| format!("/proc: {e}"))
}

/// Enters a new namespace of one kind.
pub(crate) fn enter(flag: UnshareFlags) -> Result<(), String> {
    unshare(flag).map_err(|e| match e {
        Errno::PERM => {
            "the system lets nobody but root make one, and this user has no user namespace".to_owned()
        }
        Errno::INVAL => "this kernel has none".to_owned(),
        Errno::NOSPC => "the limit of the system is reached (sysctl user.max_*_namespaces)".to_owned(),
        e => e.to_string(),
    })
}

/// Enters a new user namespace, in which no user exists but the present one.
pub(crate) fn enter_user(proc: &OwnedFd, uid: u32, gid: u32) -> Result<(), String> {
    unshare(UnshareFlags::NEWUSER).map_err(|e| match e {
        Errno::PERM => {
            "the system forbids user namespaces; allow them: sysctl -w kernel.unprivileged_userns_clone=1 \
                        (or, in a container, its seccomp profile)"
                .to_owned()
        }
        Errno::NOSPC => {
            "the system allows no (more) user namespaces; raise the sysctl user.max_user_namespaces"
                .to_owned()
        }
        Errno::INVAL => "this kernel has no user namespaces (CONFIG_USER_NS)".to_owned(),
        e => e.to_string(),
    })?;
    let lines = [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{uid} {uid} 1")),
        ("gid_map", format!("{gid} {gid} 1")),
    ];
    for (name, line) in lines {
        put(proc, &format!("self/{name}"), &line).map_err(|e| {
            format!(
                "{name}: {e} (Ubuntu: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or a profile)"
            )
        })?;
    }
    Ok(())
}

/// Lets no further user namespace be made from this one: a new one would come with capabilities, and with all of the
/// kernel that they open to attacks.
pub(crate) fn forbid_more(proc: &OwnedFd) -> Result<(), String> {
    let name = "sys/user/max_user_namespaces";
    put(proc, name, "0").map_err(|e| format!("{name}: {e}"))
}

fn put(proc: &OwnedFd, path: &str, line: &str) -> rustix::io::Result<()> {
    let file = openat(proc.as_fd(), path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    write(&file, line.as_bytes()).map(drop)
}
