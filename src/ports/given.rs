//! The listening sockets that a supervisor has of its service manager: those of a unit for sockets, and those that a former
//! run has stored there.

use pepita_ports::Listening;
use pepita_wire::port::HostPlace;
use std::fmt::{Debug, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The beginning of the names under which sockets are stored. A unit for sockets has another name.
const STORED: &str = "pepita-port-";

/// The longest name of a stored descriptor (FDNAME of sd_notify(3)), in bytes.
const NAME_CAP: usize = 255;

/// A place that keeps copies of sockets and gives them to the next run of this program, as a service manager does (FDSTORE
/// of sd_notify(3)).
pub trait SocketStore: Debug + Send + Sync {
    /// Keeps a copy of a socket. Must not wait.
    fn keep(&self, name: &str, socket: BorrowedFd<'_>);

    /// Drops the copies that were kept under a name. Must not wait.
    fn forget(&self, name: &str);
}

/// The listening sockets that a program was given at its start, each with its name (LISTEN_FDNAMES of
/// sd_listen_fds_with_names(3)), and the store that keeps sockets for the next run.
#[derive(Debug, Default)]
pub struct GivenSockets {
    /// The sockets of units for sockets. The service manager keeps them open, whatever this program does.
    units: Vec<Listening>,
    /// The sockets that a former run has stored, until they are in use.
    stored: Vec<Listening>,
    store: Option<Arc<dyn SocketStore>>,
}

impl GivenSockets {
    /// Takes sockets by their names. A published port gets the one that listens at its place; what listens for no stream
    /// is closed.
    pub fn new(sockets: Vec<(String, OwnedFd)>, store: Option<Arc<dyn SocketStore>>) -> Self {
        let mut given = Self { store, ..Self::default() };
        for (name, socket) in sockets {
            let is_stored = name.starts_with(STORED);
            match Listening::given(socket) {
                Some(listening) if is_stored => given.stored.push(listening),
                Some(listening) => given.units.push(listening),
                None => tracing::warn!("the socket {name:?} of the service manager does not listen"),
            }
        }
        given
    }

    /// Returns a socket that listens at a place already.
    pub(super) fn take(&mut self, place: &HostPlace) -> Option<Listening> {
        if let Some(unit) = self.units.iter().find(|unit| unit.place == *place) {
            let socket = unit.socket.try_clone().ok()?;
            return Some(Listening { place: place.clone(), socket });
        }
        let at = self.stored.iter().position(|stored| stored.place == *place)?;
        Some(self.stored.swap_remove(at))
    }

    /// Notes that a socket is in use: the next run is to have it, too. A stored copy of it is closed.
    pub(super) fn in_use(&mut self, listening: &Listening) {
        self.stored.retain(|stored| stored.place != listening.place);
        if let (false, Some(store), Some(name)) =
            (self.is_of_unit(&listening.place), &self.store, stored_name(&listening.place))
        {
            store.keep(&name, listening.socket.as_fd());
        }
    }

    /// Closes a socket that is not in use any more: its clients are refused from now on. The socket of a unit is open as long
    /// as the unit is.
    pub(super) fn close(&mut self, listening: Listening) {
        if !self.is_of_unit(&listening.place) {
            listening.remove();
            self.forget(&listening.place);
        }
    }

    /// Closes the stored sockets of places that nobody publishes.
    pub(super) fn close_all_but(&mut self, is_wanted: impl Fn(&HostPlace) -> bool) {
        for listening in self.stored.extract_if(.., |stored| !is_wanted(&stored.place)).collect::<Vec<_>>() {
            self.close(listening);
        }
    }

    fn forget(&self, place: &HostPlace) {
        if let (Some(store), Some(name)) = (&self.store, stored_name(place)) {
            store.forget(&name);
        }
    }

    fn is_of_unit(&self, place: &HostPlace) -> bool {
        self.units.iter().any(|unit| unit.place == *place)
    }
}

/// Returns the name under which the socket of a place is stored: printable ASCII without colons, as FDNAME wants it. `None`
/// for a path that is too long for it.
fn stored_name(place: &HostPlace) -> Option<String> {
    let mut name = STORED.to_owned();
    for byte in place.to_string().bytes() {
        match byte {
            b':' | b'%' => write!(name, "%{byte:02X}").ok()?,
            byte if byte.is_ascii_graphic() => name.push(char::from(byte)),
            byte => write!(name, "%{byte:02X}").ok()?,
        }
    }
    Some(name).filter(|name| name.len() <= NAME_CAP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::sync::Mutex;

    #[derive(Debug, Default)]
    struct Store(Mutex<Vec<String>>);

    impl Store {
        fn note(&self, line: String) {
            self.0.lock().expect("no panic").push(line);
        }

        fn told(&self) -> Vec<String> {
            std::mem::take(&mut *self.0.lock().expect("no panic"))
        }
    }

    impl SocketStore for Store {
        fn keep(&self, name: &str, _: BorrowedFd<'_>) {
            self.note(format!("keep {name}"));
        }

        fn forget(&self, name: &str) {
            self.note(format!("forget {name}"));
        }
    }

    fn listener() -> (TcpListener, HostPlace) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        (listener, HostPlace::Tcp(address.ip(), address.port()))
    }

    fn port(place: &HostPlace) -> u16 {
        let HostPlace::Tcp(_, port) = place else { panic!("{place}") };
        *port
    }

    #[test]
    fn a_stored_socket_is_taken_once_and_forgotten_when_it_is_closed() {
        let store = Arc::new(Store::default());
        let ((first, place), (second, other)) = (listener(), listener());
        let sockets = [first, second].map(|socket| (format!("{STORED}x"), OwnedFd::from(socket)));
        let mut given = GivenSockets::new(sockets.into(), Some(store.clone()));
        let taken = given.take(&place).expect("given");
        assert!(given.take(&place).is_none());
        given.in_use(&taken);
        given.close_all_but(|_| false);
        TcpStream::connect(("127.0.0.1", port(&other))).expect_err("nobody publishes it");
        TcpStream::connect(("127.0.0.1", port(&place))).expect("in use");
        given.close(taken);
        TcpStream::connect(("127.0.0.1", port(&place))).expect_err("closed");
        let name = |place: &HostPlace| format!("{STORED}{}", place.to_string().replace(':', "%3A"));
        let expected = [
            format!("keep {}", name(&place)),
            format!("forget {}", name(&other)),
            format!("forget {}", name(&place)),
        ];
        assert_eq!(store.told(), expected);
    }

    #[test]
    fn the_socket_of_a_unit_stays_open_and_is_stored_nowhere() {
        let store = Arc::new(Store::default());
        let (socket, place) = listener();
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let sockets = vec![("web.socket".to_owned(), socket.into()), ("udp.socket".to_owned(), udp.into())];
        let mut given = GivenSockets::new(sockets, Some(store.clone()));
        for _ in 0..2 {
            let taken = given.take(&place).expect("again and again");
            given.in_use(&taken);
            given.close(taken);
        }
        given.close_all_but(|_| false);
        TcpStream::connect(("127.0.0.1", port(&place))).expect("waits");
        assert_eq!(store.told(), [] as [String; 0]);
    }

    #[test]
    fn a_socket_that_came_in_another_way_takes_the_place_of_its_stored_copy() {
        let store = Arc::new(Store::default());
        let (socket, place) = listener();
        let copy = socket.try_clone().expect("copied");
        let mut given = GivenSockets::new(vec![(format!("{STORED}x"), copy.into())], Some(store));
        let of_monitor = Listening { place: place.clone(), socket: socket.into() };
        given.in_use(&of_monitor);
        assert!(given.take(&place).is_none());
        assert!(rustix_listens(&of_monitor));
        given.close(of_monitor);
        TcpStream::connect(("127.0.0.1", port(&place))).expect_err("no copy holds it");
    }

    fn rustix_listens(listening: &Listening) -> bool {
        rustix::net::sockopt::socket_acceptconn(listening.socket.as_fd()).expect("a socket")
    }

    #[test]
    fn the_name_of_a_stored_socket_is_what_a_service_manager_takes() {
        let name = |text: &str| stored_name(&HostPlace::Unix(text.to_owned()));
        assert_eq!(name("/run/a b%c:d.sock").as_deref(), Some("pepita-port-unix%3A/run/a%20b%25c%3Ad.sock"));
        assert_eq!(name(&format!("/{}", "ü".repeat(50))), None, "too long");
        let all: String = (1..128_u8).map(char::from).collect();
        let name = stored_name(&HostPlace::Unix(all.chars().take(60).collect())).expect("short enough");
        assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'), "{name}");
    }
}
