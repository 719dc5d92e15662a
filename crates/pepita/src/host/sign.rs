//! A sign in the kernel that a VM runs: the abstract address of a Unix socket, which no file in the run directory can
//! take away. The monitor holds it, and its VMM inherits it, so that it lasts as long as one of them lives.
//!
//! The sign only hints at a VM: any program may hold an address. Who holds it is decided by
//! [`strays`](crate::host::strays).

use crate::host::strays::resolved;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::OwnedFd;
use std::path::Path;

/// The answer to a request for a sign.
#[derive(Debug)]
pub enum Sign {
    /// The sign is held by this process, as long as the descriptor or a copy of it is open.
    Ours(OwnedFd),
    /// Another process holds it.
    Taken,
    /// The host gives no such addresses.
    Unavailable,
}

impl Sign {
    /// Returns the sign, if this process holds it.
    pub fn ours(self) -> Option<OwnedFd> {
        match self {
            Self::Ours(held) => Some(held),
            Self::Taken | Self::Unavailable => None,
        }
    }
}

/// Takes the sign of the VM with this run directory.
pub fn take(dir: &Path) -> Sign {
    let made = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let (Ok(socket), Ok(address)) = (made, SocketAddrUnix::new_abstract_name(address(dir).as_bytes())) else {
        return Sign::Unavailable;
    };
    // The socket never listens, so nobody can connect to it.
    match bind(&socket, &address) {
        Ok(()) => Sign::Ours(socket),
        Err(Errno::ADDRINUSE) => Sign::Taken,
        Err(_) => Sign::Unavailable,
    }
}

/// Returns the address for a run directory. Two users, and two directories, have different addresses.
fn address(dir: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    resolved(dir).hash(&mut hasher);
    format!("pepita-vm-{}-{:016x}", rustix::process::geteuid().as_raw(), hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_is_taken_once_and_outlives_the_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir(&a).expect("made");
        let Sign::Ours(held) = take(&a) else { panic!("no sign") };
        std::fs::remove_dir(&a).expect("removed");
        assert!(matches!(take(&a), Sign::Taken));
        assert!(matches!(take(&b), Sign::Ours(_)));
        drop(held);
        assert!(matches!(take(&a), Sign::Ours(_)));
    }
}
