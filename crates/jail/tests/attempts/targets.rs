//! What the host has for an intruder to go for, in every test: ports, a socket without a file, a process, shared memory.

use std::collections::BTreeMap;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicI32, Ordering};

/// The number of targets that this process has made.
static MADE: AtomicI32 = AtomicI32::new(0);

/// The targets, which exist as long as this value.
pub(crate) struct Targets {
    name: String,
    tcp: TcpListener,
    udp: UdpSocket,
    _abstract: UnixListener,
    victim: Child,
    key: i32,
    shm: i32,
}

impl Targets {
    /// Makes the targets. No other abstract socket of the host has this name.
    pub(crate) fn new(name: &str) -> Self {
        let address = SocketAddr::from_abstract_name(name).expect("a name");
        // No process has a number of more than 22 bits.
        let key = i32::try_from(std::process::id()).expect("a number")
            | (MADE.fetch_add(1, Ordering::Relaxed) & 0xff) << 22;
        // SAFETY: no memory is mapped.
        let shm = unsafe { libc::shmget(key, 16, libc::IPC_CREAT | 0o600) };
        assert!(shm >= 0, "shared memory");
        Self {
            name: name.to_owned(),
            tcp: TcpListener::bind("127.0.0.1:0").expect("a port"),
            udp: UdpSocket::bind("127.0.0.1:0").expect("a port"),
            _abstract: UnixListener::bind_addr(&address).expect("a socket"),
            victim: Command::new("/bin/sleep").arg("600").spawn().expect("a process"),
            key,
            shm,
        }
    }

    /// Returns what the intruder is told of them.
    pub(crate) fn aims(&self) -> BTreeMap<&'static str, String> {
        [
            ("abstract", self.name.clone()),
            ("tcp", self.tcp.local_addr().expect("an address").to_string()),
            ("udp", self.udp.local_addr().expect("an address").to_string()),
            ("victim", self.victim.id().to_string()),
            ("shm", self.key.to_string()),
        ]
        .into()
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        // It is a child of this process that was not reaped.
        let _ = self.victim.kill().and_then(|()| self.victim.wait());
        // SAFETY: the segment is this test's.
        unsafe { libc::shmctl(self.shm, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}
