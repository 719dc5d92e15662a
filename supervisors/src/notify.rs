//! Reports to the service manager over the socket that `NOTIFY_SOCKET` names: sd_notify(3).
//!
//! The crate `sd-notify` provides the words, the monotonic time of a reload and the variables of the watchdog. The
//! socket is opened here, because that crate (0.5.0) does not support abstract addresses (`@name`), and would block
//! this program when the service manager does not read.

mod store;

pub(crate) use store::ServiceStore;

use rustix::net::SocketAddrUnix;
use sd_notify::NotifyState;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The connection to the service manager, if there is one.
#[derive(Debug)]
pub(crate) struct Notify {
    socket: Option<Socket>,
}

#[derive(Debug)]
struct Socket {
    socket: UnixDatagram,
    address: SocketAddr,
    /// The same address, for messages with descriptors.
    to: SocketAddrUnix,
}

impl Notify {
    /// Returns a connection to the socket with this address: a path, or an abstract name after `@`. Without an address,
    /// or with an address of another form, all reports are dropped.
    pub(crate) fn new(address: Option<&OsStr>) -> Self {
        let socket = address.filter(|address| !address.is_empty()).and_then(|address| {
            let opened = Socket::open(address);
            opened.inspect_err(|e| tracing::warn!("NOTIFY_SOCKET={}: {e}", address.display())).ok()
        });
        Self { socket }
    }

    /// Returns whether a service manager listens.
    pub(crate) fn is_wanted(&self) -> bool {
        self.socket.is_some()
    }

    /// Reports these states, as one message.
    pub(crate) fn report(&self, states: &[NotifyState<'_>]) {
        let text = states.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        if let Some(Socket { socket, address, .. }) = &self.socket
            && let Err(e) = socket.send_to_addr(text.as_bytes(), address)
        {
            tracing::debug!("the service manager did not get {text:?}: {e}");
        }
    }

    /// Reports that a reload begins. It ends with the next [`NotifyState::Ready`].
    pub(crate) fn reloading(&self) {
        // systemd demands the time since version 253. When the time cannot be read, the message is sent without
        // it, which older service managers accept.
        let time = NotifyState::monotonic_usec_now().ok();
        let states: Vec<_> = std::iter::once(NotifyState::Reloading).chain(time).collect();
        self.report(&states);
    }
}

impl Socket {
    fn open(address: &OsStr) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        // A message that the service manager does not take at once is lost, because this program must never wait for
        // it.
        socket.set_nonblocking(true)?;
        let (address, to) = match address.as_bytes().split_first() {
            Some((b'@', name)) => {
                (SocketAddr::from_abstract_name(name)?, SocketAddrUnix::new_abstract_name(name)?)
            }
            Some((b'/', _)) => {
                (SocketAddr::from_pathname(address)?, SocketAddrUnix::new(address.as_bytes())?)
            }
            _ => {
                let why = "neither a path nor an abstract name";
                return Err(io::Error::new(io::ErrorKind::Unsupported, why));
            }
        };
        Ok(Self { socket, address, to })
    }
}

/// Returns how often to report to the service manager's watchdog: after half of the time that it allows, as
/// sd_watchdog_enabled(3) recommends. `None` when the watchdog is off or watches another process.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    half(sd_notify::watchdog_enabled()?)
}

fn half(limit: Duration) -> Option<Duration> {
    Some(limit / 2).filter(|interval| !interval.is_zero())
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
        Notify::new(Some(path.as_os_str())).report(&[NotifyState::Ready]);
        assert_eq!(received(&socket), "READY=1");
        let name = format!("pepita-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("bound");
        Notify::new(Some(format!("@{name}").as_ref())).reloading();
        let message = received(&socket);
        let usec = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("both, a line each");
        assert!(usec.parse::<u64>().is_ok(), "{message}");
    }

    #[test]
    fn without_a_listener_reports_are_dropped() {
        for address in [None, Some(""), Some("vsock:2:1"), Some("/nowhere/at/all")] {
            Notify::new(address.map(OsStr::new)).report(&[NotifyState::Ready]);
        }
        assert!(!Notify::new(Some("vsock:2:1".as_ref())).is_wanted());
    }

    #[test]
    fn a_service_manager_that_does_not_read_blocks_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("n");
        let _socket = UnixDatagram::bind(&path).expect("bound");
        let notify = Notify::new(Some(path.as_os_str()));
        for _ in 0..10_000 {
            notify.report(&[NotifyState::Watchdog]);
        }
    }

    #[test]
    fn the_watchdog_gets_a_report_twice_as_often_as_it_asks_for() {
        assert_eq!(half(Duration::from_secs(3)), Some(Duration::from_millis(1500)));
        assert_eq!(half(Duration::ZERO), None, "as a timer, no time at all would be a mistake");
    }
}
