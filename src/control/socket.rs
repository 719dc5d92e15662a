//! The file of the control socket: made for its owner alone, taken from a supervisor that is dead, left to a supervisor
//! that runs, and removed at the end.

use rustix::fs::{FlockOperation, flock};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The number of clients that may wait to be accepted.
const BACKLOG: i32 = 64;

/// A control socket that belongs to this process.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    listener: UnixListener,
    /// The device and the inode number of its file: another file may have come in its place.
    file: (u64, u64),
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
    /// Claims a path, whose folder is made if necessary. Clients that connect wait until the socket is served.
    ///
    /// # Errors
    /// Returns an error when a running supervisor has the path, or the socket cannot be made.
    pub fn claim(path: &Path) -> Result<Self, ControlError> {
        let fail = |source| ControlError::Io { path: path.to_owned(), source };
        let path = std::path::absolute(path).map_err(fail)?;
        let fail = |source| ControlError::Io { path: path.clone(), source };
        let folder = path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(fail)?;
        // While the folder is locked no other supervisor checks whether the former one is dead: otherwise two
        // supervisors would remove each other's sockets.
        let folder = File::open(folder).map_err(fail)?;
        flock(&folder, FlockOperation::LockExclusive).map_err(|e| fail(e.into()))?;
        make_way(&path)?;
        let listener = open(&path).map_err(fail)?;
        let file = path.symlink_metadata().map(|meta| (meta.dev(), meta.ino())).map_err(fail)?;
        Ok(Self { path, listener, file })
    }

    /// Returns the path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn listener(&self) -> Result<tokio::net::UnixListener, ControlError> {
        let listener = self.listener.try_clone().and_then(tokio::net::UnixListener::from_std);
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

    #[test]
    fn a_path_that_is_too_long_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let error = Socket::claim(&dir.path().join("x".repeat(120))).expect_err("too long").to_string();
        assert!(error.contains("xxx") && error.contains("name too long"), "{error}");
    }
}
