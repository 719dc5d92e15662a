//! Listens at the places that the daemon may dial, and takes the programs that dial them, for a host that carries their
//! connections on.
//!
//! A program is taken from the queue of the kernel only when a host has asked for one (`accept`).

use crate::interface;
use pepita_ports::Listening;
use pepita_wire::port::HostPlace;
use pepita_wire::reach::{DialHost, DialPlace, REACH_CAP};
use pepita_wire::{ErrorKind, WireError};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, sockopt};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The address of the first name; the next ones follow.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 1);

/// The places that the daemon may dial, once its start was prepared.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    places: OnceLock<Vec<(DialPlace, Listening)>>,
    /// The number of the place after the one that was dialled last, so that a busy one does not keep the others waiting.
    next: AtomicUsize,
}

impl Reach {
    /// Listens at places.
    ///
    /// # Errors
    /// A sentence with the place at which the guest cannot listen.
    pub(crate) fn open(&self, places: &[DialPlace]) -> Result<(), String> {
        if places.len() > REACH_CAP {
            return Err(format!("{} places; there may be {REACH_CAP}", places.len()));
        }
        let addresses = addresses(places);
        let mut open = Vec::new();
        for place in places {
            let address = match &place.host {
                DialHost::Name(name) => addresses[name.as_str()],
                DialHost::Address(address) => *address,
            };
            interface::add_to_loopback(address).map_err(|e| format!("{place}: {}", io::Error::from(e)))?;
            let listening = Listening::at(&HostPlace::Tcp(address, place.port));
            open.push((place.clone(), listening.map_err(|e| format!("{place}: {e}"))?));
        }
        // The daemon is started once.
        let _ = self.places.set(open);
        Ok(())
    }

    /// Returns what an operator should know when a daemon has ended that could not listen, as its last output tells: a
    /// socket that listens at all addresses needs a port at which nothing listens, and the guest listens at these places.
    pub(crate) fn in_the_way(&self, output: &str) -> Option<String> {
        let lower = output.to_ascii_lowercase();
        let is_in_use =
            ["address already in use", "address in use", "addrinuse"].iter().any(|it| lower.contains(it));
        let places = self.places.get().filter(|places| is_in_use && !places.is_empty())?;
        let numbers: Vec<&str> = output.split(|c: char| !c.is_ascii_digit()).collect();
        let said = |place: &&DialPlace| numbers.contains(&place.port.to_string().as_str());
        let all = || places.iter().map(|(place, _)| place);
        let mut named: Vec<&DialPlace> = all().filter(said).collect();
        if named.is_empty() {
            named = all().collect();
        }
        named.truncate(NAMED);
        let names: Vec<String> = named.iter().map(ToString::to_string).collect();
        Some(format!(
            "found a port in use, and for reach the guest listens at {}: no daemon can listen at all addresses (0.0.0.0, ::) \
             of such a port; let it listen at 127.0.0.1, which is what publish needs, or give the place another port, as in \
             reach = [\"db:15432=db:5432\"]",
            names.join(", ")
        ))
    }

    /// Waits for a program that dials one of the places, as long as `host`, the connection of the asker, is open. Returns
    /// the place and the program's connection, which is reset when it is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no place; [`ErrorKind::Os`] when the host has hung up, or the system refuses.
    pub(crate) fn accept(&self, host: impl AsFd) -> Result<(DialPlace, OwnedFd), WireError> {
        let Some(places) = self.places.get().filter(|places| !places.is_empty()) else {
            return Err(WireError::new(ErrorKind::NotFound, "the daemon was started without such places"));
        };
        let os = |e: Errno| WireError::new(ErrorKind::Os, io::Error::from(e).to_string());
        loop {
            let mut fds = vec![PollFd::new(&host, PollFlags::RDHUP)];
            fds.extend(places.iter().map(|(_, it)| PollFd::new(&it.socket, PollFlags::IN)));
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(os(e)),
            }
            if !fds[0].revents().is_empty() {
                return Err(WireError::new(ErrorKind::Os, "the host has hung up"));
            }
            let is_dialled: Vec<bool> = fds[1..].iter().map(|fd| !fd.revents().is_empty()).collect();
            let first = self.next.load(Ordering::Relaxed);
            let turn = (0..places.len()).map(|step| (first + step) % places.len());
            let Some(at) = turn.into_iter().find(|at| is_dialled[*at]) else { continue };
            match accept_with(&places[at].1.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(program) => {
                    self.next.store(at + 1, Ordering::Relaxed);
                    let _ = sockopt::set_tcp_nodelay(&program, true);
                    let _ = sockopt::set_socket_linger(&program, Some(Duration::ZERO));
                    return Ok((places[at].0.clone(), program));
                }
                // Another host has taken it, or the program is gone.
                Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => {}
                Err(e) => return Err(os(e)),
            }
        }
    }
}

/// The most places that [`Reach::in_the_way`] names.
const NAMED: usize = 3;

/// Returns the lines of `/etc/hosts` by which the names of places resolve.
pub(crate) fn lines(places: &[DialPlace]) -> String {
    addresses(places).iter().fold(String::new(), |mut text, (name, address)| {
        let _ = writeln!(text, "{address}\t{name}");
        text
    })
}

/// Returns the address of each name: one for each, so that equal ports of two names do not clash.
fn addresses(places: &[DialPlace]) -> BTreeMap<&str, IpAddr> {
    let mut addresses = BTreeMap::new();
    let mut next = FIRST;
    for place in places {
        let DialHost::Name(name) = &place.host else { continue };
        addresses.entry(name.as_str()).or_insert_with(|| {
            let address = next;
            next = Ipv4Addr::from_bits(next.to_bits() + 1);
            address.into()
        });
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;

    fn places(texts: &[&str]) -> Vec<DialPlace> {
        texts.iter().map(|text| text.parse().expect("a place")).collect()
    }

    #[test]
    fn each_name_has_an_address_of_its_own() {
        let places = places(&["db:5432", "10.0.0.7:443", "cache:6379", "db:5433"]);
        assert_eq!(lines(&places), "127.64.0.2\tcache\n127.64.0.1\tdb\n");
        assert_eq!(lines(&places[1..2]), "");
    }

    #[test]
    fn a_program_that_dials_is_taken_when_a_host_asks() {
        let port = std::net::TcpListener::bind("127.64.0.1:0").and_then(|it| it.local_addr());
        let port = port.expect("a port").port();
        let reach = Reach::default();
        let (host, other) = UnixStream::pair().expect("a pair");
        assert_eq!(reach.accept(&host).expect_err("none").kind, ErrorKind::NotFound);
        reach.open(&places(&[&format!("db:{port}"), &format!("cache:{port}")])).expect("free");
        // Two programs wait in the queue of one place, and one in that of the other.
        let dial = |last: u8| TcpStream::connect((Ipv4Addr::new(127, 64, 0, last), port)).expect("waits");
        let mut programs = [dial(1), dial(1), dial(2)];
        let taken: Vec<_> = (0..3).map(|_| reach.accept(&host).expect("waits")).collect();
        let at: Vec<String> = taken.iter().map(|(at, _)| at.to_string()).collect();
        assert_eq!(at, [format!("db:{port}"), format!("cache:{port}"), format!("db:{port}")]);
        // What no host carries on is reset.
        drop(taken);
        for program in &mut programs {
            let error = program.read(&mut [0]).expect_err("reset");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        drop(other);
        assert_eq!(reach.accept(&host).expect_err("gone").kind, ErrorKind::Os);
    }

    #[test]
    fn a_daemon_that_finds_its_port_in_use_is_told_of_the_places_with_that_port() {
        let reach = Reach::default();
        assert_eq!(reach.in_the_way("Address already in use"), None);
        let free = || {
            let port = std::net::TcpListener::bind("127.64.0.1:0").and_then(|it| it.local_addr());
            port.expect("a port").port()
        };
        let (db, cache) = (free(), free());
        reach.open(&places(&[&format!("db:{db}"), &format!("cache:{cache}")])).expect("free");
        let nginx = format!("bind() to 0.0.0.0:{cache} failed (98: Address already in use)");
        let told = reach.in_the_way(&nginx).expect("in the way");
        assert!(
            told.contains(&format!("cache:{cache}: no")) && !told.contains(&format!("db:{db},")),
            "{told}"
        );
        let told = reach.in_the_way("Error: listen EADDRINUSE").expect("in the way");
        assert!(told.contains(&format!("db:{db}, cache:{cache}: no")), "{told}");
        assert_eq!(reach.in_the_way("permission denied"), None);
    }

    #[test]
    fn a_place_that_is_taken_is_named() {
        let other = std::net::TcpListener::bind("127.64.0.1:0").expect("a port");
        let place = format!("db:{}", other.local_addr().expect("bound").port());
        let why = Reach::default().open(&places(&[&place])).expect_err("taken");
        assert!(why.contains(&place) && why.contains("in use"), "{why}");
        assert!(Reach::default().open(&vec![places(&["a:1"])[0].clone(); REACH_CAP + 1]).is_err());
    }
}
