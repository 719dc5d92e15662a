//! Lock files: made so that no other user can hold them, and, when another process does, naming that process.

use rustix::fs::{Mode, OFlags, fchmod, fstat, open};
use rustix::io::Errno;
use std::fmt;
use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

/// The process that holds a lock, as far as the system tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The id of the process.
    pub pid: u32,
    /// The name of the program that it runs; empty when unknown.
    pub program: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.program.as_str() {
            "" => write!(f, "pid {}", self.pid),
            program => write!(f, "{program}, pid {}", self.pid),
        }
    }
}

/// Opens a lock file, which is made if necessary. From then on only its owner can open it, and so hold it. A link is not
/// followed, and a file of another user is refused.
///
/// # Errors
/// Returns the error of the system.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let owner_only = Mode::RUSR | Mode::WUSR;
    // First without O_CREAT: with it, the open would wait for a file system that is frozen, even if the file exists.
    let file = match open(path, flags, Mode::empty()) {
        Err(Errno::NOENT) => open(path, flags | OFlags::CREATE, owner_only)?,
        file => file?,
    };
    let stat = fstat(&file)?;
    let us = rustix::process::geteuid().as_raw();
    if stat.st_uid != us {
        let text = format!("the lock file belongs to user {}, not to user {us}; remove it", stat.st_uid);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    if stat.st_mode & 0o077 != 0 {
        // An older program has made it so that everybody could hold it.
        fchmod(&file, owner_only)?;
    }
    Ok(file.into())
}

/// Takes the lock of a file, without waiting; `false` when another process holds it.
///
/// # Errors
/// Returns the error of the system.
pub(crate) fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// Returns the process that holds the lock of a file, by the list of the kernel.
pub(crate) fn holder(file: &File) -> Option<Holder> {
    let stat = fstat(file).ok()?;
    let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    let place = format!("{major:02x}:{minor:02x}:{}", stat.st_ino);
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let pid = holder_in(&locks, &place)?;
    let program = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
    Some(Holder { pid, program })
}

/// Finds the holder in lines like `3: FLOCK  ADVISORY  WRITE 4711 00:2f:123 0 EOF`. Lines with `->` are of processes
/// that wait.
fn holder_in(locks: &str, place: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [_, "FLOCK", _, _, pid, at, ..] if at == place => pid.parse().ok(),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_the_owner_can_open_a_lock_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lock");
        std::fs::write(&path, "4711").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("set");
        let file = open_lock(&path).expect("opened");
        assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o600);
        assert!(try_lock(&file).expect("locked"));
        let second = open_lock(&path).expect("opened");
        assert!(!try_lock(&second).expect("asked"));
        assert_eq!(holder(&second).expect("known").pid, std::process::id());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("linked");
        assert!(open_lock(&link).is_err(), "a link is not followed");
    }

    #[test]
    fn who_waits_for_a_lock_does_not_hold_it() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 00:2f:9 0 EOF\n2: -> FLOCK  ADVISORY  WRITE 8 00:2f:9 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 6 00:2f:9 0 EOF\n";
        assert_eq!(holder_in(locks, "00:2f:9"), Some(6));
        assert_eq!(holder_in(locks, "00:2f:8"), None);
    }
}
