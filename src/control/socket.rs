//! The file of the control socket: made for its owner alone, taken from a supervisor that is dead, left to a supervisor
//! that runs, and removed at the end.
//!
//! A lock file beside the socket (`control.sock.lock`) is held for as long as the socket is. Only its owner can open it:
//! the folder of the socket may be open to other users, who must not be able to keep a supervisor from its start.

use crate::lock::{self, Holder};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use std::ffi::OsString;
use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The time to wait for a lock that another process holds: a supervisor that is about to end.
const LOCK_LIMIT: Duration = Duration::from_secs(3);

/// The interval at which the lock is tried: the system could only wait for it without a limit.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

/// The number of clients that may wait to be accepted.
const BACKLOG: i32 = 64;

/// A control socket that belongs to this process.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    /// The listening socket; `None` while it is served.
    listener: Option<UnixListener>,
    /// The device and the inode number of its file: another file may have come in its place.
    file: (u64, u64),
    _lock: Lock,
}

/// The lock of a path, held in a file beside the socket. Dropping it removes the file.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While the lock is held: a process that has opened the file meanwhile sees that it is gone.
        if is_file_at(&self.file, &self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The reason why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another supervisor answers at this path.
    #[error("{}: another supervisor answers here; stop it first, or choose another control_socket", .0.display())]
    Taken(PathBuf),
    /// The path names a file that is no socket.
    #[error("{}: exists already and is no socket", .0.display())]
    NotASocket(PathBuf),
    /// Another process holds the lock of the path.
    #[error("{} is locked by another process{}; end it, or choose another control_socket", .path.display(), .holder.as_ref().map(|holder| format!(" ({holder})")).unwrap_or_default())]
    Locked {
        /// The path of the lock file.
        path: PathBuf,
        /// The process that holds the lock, if it is known.
        holder: Option<Holder>,
    },
    /// The socket cannot be made.
    #[error("control socket {}: {source}", .path.display())]
    Io {
        /// The path of the socket.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

impl Socket {
    /// Claims a path, whose folder is made if necessary. Clients that connect wait until the socket is served. Blocks, for
    /// a few seconds at most.
    ///
    /// # Errors
    /// Returns an error when a running supervisor has the path, another process holds its lock, or the socket cannot be
    /// made.
    pub fn claim(path: &Path) -> Result<Self, ControlError> {
        let fail = |source| ControlError::Io { path: path.to_owned(), source };
        let path = std::path::absolute(path).map_err(fail)?;
        let fail = |source| ControlError::Io { path: path.clone(), source };
        let folder = path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(fail)?;
        // With the lock no other supervisor checks whether the former one is dead: otherwise two supervisors would remove
        // each other's sockets.
        let lock = take_lock(&path)?;
        make_way(&path)?;
        let listener = open(&path).map_err(fail)?;
        let file = path.symlink_metadata().map(|meta| (meta.dev(), meta.ino())).map_err(fail)?;
        Ok(Self { path, listener: Some(listener), file, _lock: lock })
    }

    /// Returns the path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the listening socket, for the runtime. No descriptor is made for it: the tree runs already, and may use all
    /// that there are.
    pub(super) fn take_listener(&mut self) -> Result<tokio::net::UnixListener, ControlError> {
        let listener = self.listener.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        let listener = listener.and_then(tokio::net::UnixListener::from_std);
        listener.map_err(|source| ControlError::Io { path: self.path.clone(), source })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = |meta: std::fs::Metadata| (meta.dev(), meta.ino()) == self.file;
        if self.path.symlink_metadata().is_ok_and(ours) {
            // Another process may be removing it, too.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Takes the lock of a control socket.
fn take_lock(socket: &Path) -> Result<Lock, ControlError> {
    let mut name = OsString::from(socket);
    name.push(".lock");
    let path = PathBuf::from(name);
    let fail = |source| ControlError::Io { path: path.clone(), source };
    let deadline = Instant::now() + LOCK_LIMIT;
    loop {
        let file = lock::open_lock(&path).map_err(fail)?;
        if lock::try_lock(&file).map_err(fail)? {
            // The former holder may have removed the file between the two steps.
            if is_file_at(&file, &path) {
                return Ok(Lock { path, file });
            }
        } else if answers(socket) {
            return Err(ControlError::Taken(socket.to_owned()));
        } else if Instant::now() >= deadline {
            return Err(ControlError::Locked { holder: lock::holder(&file), path });
        } else {
            std::thread::sleep(LOCK_INTERVAL);
        }
    }
}

/// Returns whether a path leads to this open file.
fn is_file_at(file: &File, path: &Path) -> bool {
    let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    let (open, named) = (file.metadata().map(identity), path.symlink_metadata().map(identity));
    matches!((open, named), (Ok(open), Ok(named)) if open == named)
}

/// Returns whether a process listens at the socket.
fn answers(socket: &Path) -> bool {
    match UnixStream::connect(socket) {
        Ok(_) => true,
        // The queue of the process is full.
        Err(e) => e.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Removes the socket of a supervisor that is dead.
fn make_way(path: &Path) -> Result<(), ControlError> {
    let fail = |source| ControlError::Io { path: path.to_owned(), source };
    match path.symlink_metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(fail(e)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(ControlError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        // A process listens, even if its queue is full.
        Ok(_) => Err(ControlError::Taken(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(ControlError::Taken(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(fail),
        Err(e) => Err(fail(e)),
    }
}

/// Makes the socket, and restricts it to its owner before a client can connect: until `listen` connections are refused.
fn open(path: &Path) -> io::Result<UnixListener> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd: OwnedFd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&fd, &address)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    listen(&fd, BACKLOG)?;
    Ok(fd.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_dead_ones_socket_is_replaced_and_a_living_ones_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("sub/control.sock");
        let first = Socket::claim(&path).expect("free");
        assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(
            path.parent().expect("sub").metadata().expect("there").permissions().mode() & 0o777,
            0o700
        );
        assert!(matches!(Socket::claim(&path), Err(ControlError::Taken(_))));
        // The owner of the socket is gone and has not removed it.
        let kept = dir.path().join("kept");
        std::fs::hard_link(&path, &kept).expect("linked");
        drop(first);
        assert!(!path.exists());
        std::fs::rename(&kept, &path).expect("back");
        let second = Socket::claim(&path).expect("no supervisor listens");
        // The file of another supervisor in its place is not removed.
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "").expect("written");
        drop(second);
        assert!(path.exists());
        assert!(matches!(Socket::claim(&path), Err(ControlError::NotASocket(_))));
    }

    #[tokio::test]
    async fn a_socket_is_served_without_a_further_descriptor() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut socket = Socket::claim(&dir.path().join("c.sock")).expect("free");
        let claimed = socket.listener.as_ref().map(AsRawFd::as_raw_fd);
        let served = socket.take_listener().expect("served");
        assert_eq!(claimed, Some(served.as_raw_fd()));
    }

    #[test]
    fn the_lock_is_the_owners_alone_and_goes_with_the_socket() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, lock) = (dir.path().join("c.sock"), dir.path().join("c.sock.lock"));
        // What another user can hold: the folder, and nothing else.
        let folder = File::open(dir.path()).expect("opened");
        folder.lock().expect("locked");
        let socket = Socket::claim(&path).expect("free");
        assert_eq!(lock.metadata().expect("there").permissions().mode() & 0o777, 0o600);
        drop(socket);
        assert!(!lock.exists() && !path.exists());
        let held = lock::open_lock(&lock).expect("made");
        held.lock().expect("locked");
        let error = Socket::claim(&path).expect_err("held");
        assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
    }

    #[test]
    fn a_path_that_is_too_long_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let error = Socket::claim(&dir.path().join("x".repeat(120))).expect_err("too long").to_string();
        assert!(error.contains("xxx") && error.contains("name too long"), "{error}");
    }
}
