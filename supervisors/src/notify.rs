//! Tells the service manager how things are: sd_notify(3), over the socket that it names in the environment.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to the service manager, if there is one.
#[derive(Debug)]
pub struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
}

impl Notify {
    /// To the socket of this address: a path, or an abstract name after `@`. Without one nobody is told anything.
    pub fn new(address: Option<&OsStr>) -> Self {
        let to = address.filter(|address| !address.is_empty()).and_then(|address| {
            let open = || -> io::Result<_> {
                let socket = UnixDatagram::unbound()?;
                // What it does not take at once it does not get: nothing here waits for it.
                socket.set_nonblocking(true)?;
                Ok((socket, resolve(address)?))
            };
            open().inspect_err(|e| tracing::warn!("NOTIFY_SOCKET={}: {e}", address.display())).ok()
        });
        Self { to }
    }

    /// Somebody listens.
    pub fn is_wanted(&self) -> bool {
        self.to.is_some()
    }

    /// Tells it this: assignments, one a line.
    pub fn tell(&self, text: &str) {
        if let Some((socket, address)) = &self.to
            && let Err(e) = socket.send_to_addr(text.as_bytes(), address)
        {
            tracing::debug!("the service manager was not told {text:?}: {e}");
        }
    }

    /// A reload begins; it ends with the next `READY=1`.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let usec = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={usec}"));
    }
}

fn resolve(address: &OsStr) -> io::Result<SocketAddr> {
    match address.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name),
        Some((b'/', _)) => SocketAddr::from_pathname(address),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract name")),
    }
}

/// How often the service manager wants to hear of us: half of what it allows, as it advises; `None` when it does not, or
/// means another process.
pub fn watchdog(usec: Option<&str>, pid: Option<&str>, own_pid: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own_pid)) {
        return None;
    }
    let usec: u64 = usec?.parse().ok().filter(|usec| *usec > 1)?;
    Some(Duration::from_micros(usec / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let n = socket.recv(&mut buffer).expect("a message");
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    }

    #[test]
    fn paths_and_abstract_names_are_reached() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("n");
        let socket = UnixDatagram::bind(&path).expect("bound");
        Notify::new(Some(path.as_os_str())).tell("READY=1");
        assert_eq!(received(&socket), "READY=1");
        let name = format!("pepita-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("bound");
        Notify::new(Some(format!("@{name}").as_ref())).reloading();
        assert!(received(&socket).starts_with("RELOADING=1\nMONOTONIC_USEC="));
    }

    #[test]
    fn nobody_is_told_when_nobody_listens() {
        for address in [None, Some(""), Some("vsock:2:1"), Some("/nowhere/at/all")] {
            Notify::new(address.map(OsStr::new)).tell("READY=1");
        }
        assert!(!Notify::new(Some("vsock:2:1".as_ref())).is_wanted());
    }

    #[test]
    fn the_watchdog_hears_twice_as_often_as_it_wants() {
        assert_eq!(watchdog(Some("3000000"), None, 7), Some(Duration::from_millis(1500)));
        assert_eq!(watchdog(Some("3000000"), Some("7"), 7), Some(Duration::from_millis(1500)));
        assert_eq!(watchdog(Some("3000000"), Some("8"), 7), None);
        assert_eq!(watchdog(Some("soon"), None, 7), None);
        assert_eq!(watchdog(None, None, 7), None);
    }
}
