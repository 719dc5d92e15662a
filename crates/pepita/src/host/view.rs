//! Shows a process one directory of the host in a mount namespace of its own, perhaps without the right to write.
#![expect(unsafe_code, reason = "what is done between fork and exec is the caller's promise")]

use rustix::fs::{Mode, OFlags, StatVfsMountFlags, open, statvfs};
use rustix::io::{Errno, write};
use rustix::mount::{MountFlags, MountPropagationFlags, mount_bind, mount_change, mount_remount};
use rustix::process::{getegid, geteuid};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// The numbers of an ordinary user in a user namespace of its own, as uid_map and gid_map want them.
struct Numbers {
    uid: Vec<u8>,
    gid: Vec<u8>,
}

/// Gives the process of `command` a mount namespace of its own, in which `dir` is a mount of itself: without device files
/// and setuid programs, and with `read_only` so that nobody can write to it through this mount, whatever the file modes
/// say. What is mounted below `dir` is not shown. The mounts of the host stay as they are.
///
/// An ordinary user gets a user namespace, too, in which it is root and no other user exists (user_namespaces(7)).
///
/// # Errors
/// When `dir` is no path of the system. A step that fails makes the start of the process fail with its error.
pub fn in_own_view(command: &mut Command, dir: &Path, read_only: bool) -> io::Result<()> {
    let dir = CString::new(dir.as_os_str().as_bytes())?;
    let (uid, gid) = (geteuid(), getegid());
    let numbers = (!uid.is_root()).then(|| Numbers {
        uid: format!("0 {} 1", uid.as_raw()).into_bytes(),
        gid: format!("0 {} 1", gid.as_raw()).into_bytes(),
    });
    let begin = move || {
        enter(numbers.as_ref())?;
        bind(&dir, read_only).map_err(io::Error::from)
    };
    // SAFETY: between fork and exec, only system calls are made, with values that were made before; no memory is allocated
    // and no lock is taken.
    unsafe { command.pre_exec(begin) };
    Ok(())
}

/// Enters the namespaces.
fn enter(numbers: Option<&Numbers>) -> io::Result<()> {
    let namespaces = match numbers {
        Some(_) => UnshareFlags::NEWNS | UnshareFlags::NEWUSER,
        None => UnshareFlags::NEWNS,
    };
    // SAFETY: the process has one thread, and shares no descriptors or memory that the flags name.
    unsafe { unshare_unsafe(namespaces) }?;
    if let Some(numbers) = numbers {
        put(c"/proc/self/setgroups", b"deny")?;
        put(c"/proc/self/uid_map", &numbers.uid)?;
        put(c"/proc/self/gid_map", &numbers.gid)?;
    }
    Ok(())
}

fn put(path: &CStr, bytes: &[u8]) -> io::Result<()> {
    let file = open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    write(&file, bytes)?;
    Ok(())
}

/// Makes `dir` a mount of itself.
fn bind(dir: &CStr, read_only: bool) -> rustix::io::Result<()> {
    mount_change(c"/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    mount_bind(dir, dir)?;
    // In a user namespace, a flag of the host's mount may not be taken away.
    let host = statvfs(dir)?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::NODEV | MountFlags::NOSUID;
    for (is_set, flag) in [
        (read_only || host.contains(StatVfsMountFlags::RDONLY), MountFlags::RDONLY),
        (host.contains(StatVfsMountFlags::NOEXEC), MountFlags::NOEXEC),
        (host.contains(StatVfsMountFlags::NOATIME), MountFlags::NOATIME),
        (host.contains(StatVfsMountFlags::NODIRATIME), MountFlags::NODIRATIME),
        (host.contains(StatVfsMountFlags::RELATIME), MountFlags::RELATIME),
    ] {
        flags.set(flag, is_set);
    }
    mount_remount(dir, flags, c"")?;
    match read_only && !statvfs(dir)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        true => Err(Errno::NOTSUP),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns whether a process that is shown a directory can write into it.
    fn can_write(dir: &Path, read_only: bool) -> bool {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo x > \"$0/written\""]).arg(dir).stderr(std::process::Stdio::null());
        in_own_view(&mut command, dir, read_only).expect("a path");
        command.status().expect("it starts").success()
    }

    #[test]
    fn a_process_that_is_shown_a_directory_read_only_cannot_write_to_it_and_the_host_can() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(!can_write(dir.path(), true));
        assert!(!dir.path().join("written").exists());
        assert!(can_write(dir.path(), false));
        std::fs::write(dir.path().join("written"), "by the host").expect("the host's mount is as it was");
    }
}
