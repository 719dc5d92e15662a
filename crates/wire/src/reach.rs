//! Places that the daemon of a guest may dial: the name or address by which it does, and the place where that leads.

use crate::port::HostPlace;
use crate::rundir::REACH;
use crate::world::check_hostname;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// The maximum number of places that the daemon of one VM may dial.
pub const REACH_CAP: usize = 32;

/// The host of a place, as a daemon dials it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DialHost {
    /// A name, which the guest resolves to an address of its own loopback interface.
    Name(String),
    /// An address, which the guest's loopback interface has, too.
    Address(IpAddr),
}

/// A place that a daemon dials: `db:5432`, `10.0.0.7:443` or `[fd00::1]:443`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DialPlace {
    /// The name or the address.
    pub host: DialHost,
    /// The TCP port.
    pub port: u16,
}

/// The place to which a connection leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// A port of another VM of the same supervisor.
    Vm {
        /// The name of the VM, as its supervisor has it.
        name: String,
        /// The port at 127.0.0.1 of its guest.
        port: u16,
    },
    /// A place that the host dials.
    Host(HostPlace),
}

/// A place that a daemon may dial, and where that leads: `db:5432` (a VM of that name), `10.0.0.7:443`, or
/// `PLACE=TARGET`, where `TARGET` is `VM:PORT`, `ADDRESS:PORT` or `unix:PATH`.
///
/// ```
/// use pepita_wire::reach::Reached;
///
/// let place: Reached = "primary:5432=db-1:5432".parse()?;
/// assert_eq!(place.to_string(), "primary:5432=db-1:5432");
/// # Ok::<(), pepita_wire::reach::BadReach>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reached {
    /// The place, as the daemon dials it.
    pub at: DialPlace,
    /// The place to which that leads.
    pub to: Target,
}

/// A text that is no place which a daemon could dial.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?}: {problem}; write VM:PORT, ADDRESS:PORT or NAME:PORT=ADDRESS:PORT")]
pub struct BadReach {
    /// The text, cut to a length that can be shown.
    pub text: String,
    /// The mistake in it.
    pub problem: &'static str,
}

impl Target {
    /// Returns the place that the host dials. `run_dir` is the directory of run directories.
    pub fn on_host(&self, run_dir: &Path) -> HostPlace {
        match self {
            Self::Host(place) => place.clone(),
            Self::Vm { name, port } => socket_of(run_dir, name, *port),
        }
    }
}

/// Returns the place at which a supervisor listens for the VMs that dial a port of one of its VMs.
pub fn socket_of(run_dir: &Path, vm: &str, port: u16) -> HostPlace {
    HostPlace::Unix(run_dir.join(REACH).join(format!("{vm}.{port}")).to_string_lossy().into_owned())
}

/// Returns whether a place is one of those that [`socket_of`] returns.
pub fn is_socket_of_a_vm(run_dir: &Path, place: &HostPlace) -> bool {
    match place {
        HostPlace::Unix(path) => Path::new(path).parent() == Some(&run_dir.join(REACH)),
        HostPlace::Tcp(..) => false,
    }
}

impl fmt::Display for DialPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            DialHost::Name(name) => write!(f, "{name}:{}", self.port),
            DialHost::Address(address) => HostPlace::Tcp(*address, self.port).fmt(f),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vm { name, port } => write!(f, "{name}:{port}"),
            Self::Host(place) => place.fmt(f),
        }
    }
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to == self.at.target() {
            true => self.at.fmt(f),
            false => write!(f, "{}={}", self.at, self.to),
        }
    }
}

impl DialPlace {
    /// Returns the place to which a connection leads when nothing else is said.
    fn target(&self) -> Target {
        match &self.host {
            DialHost::Name(name) => Target::Vm { name: name.clone(), port: self.port },
            DialHost::Address(address) => Target::Host(HostPlace::Tcp(*address, self.port)),
        }
    }
}

impl From<DialPlace> for String {
    fn from(place: DialPlace) -> Self {
        place.to_string()
    }
}

impl From<Reached> for String {
    fn from(reached: Reached) -> Self {
        reached.to_string()
    }
}

impl TryFrom<String> for DialPlace {
    type Error = BadReach;
    fn try_from(text: String) -> Result<Self, BadReach> {
        text.parse()
    }
}

impl TryFrom<String> for Reached {
    type Error = BadReach;
    fn try_from(text: String) -> Result<Self, BadReach> {
        text.parse()
    }
}

impl FromStr for DialPlace {
    type Err = BadReach;
    fn from_str(text: &str) -> Result<Self, BadReach> {
        place(text).map_err(bad(text))
    }
}

impl FromStr for Reached {
    type Err = BadReach;
    fn from_str(text: &str) -> Result<Self, BadReach> {
        let Some((at, to)) = text.split_once('=') else {
            let at: DialPlace = text.parse()?;
            return Ok(Self { to: at.target(), at });
        };
        let at = place(at).map_err(bad(text))?;
        let to = match to.strip_prefix("unix:") {
            Some(path) => crate::port::socket_path(path).map(|path| Target::Host(HostPlace::Unix(path))),
            None => place(to).map(|to| to.target()),
        };
        Ok(Self { at, to: to.map_err(bad(text))? })
    }
}

fn bad(text: &str) -> impl FnOnce(&'static str) -> BadReach {
    let text = text.chars().take(128).collect();
    move |problem| BadReach { text, problem }
}

/// Reads `NAME:PORT`, `ADDRESS:PORT` or `[ADDRESS]:PORT`.
fn place(text: &str) -> Result<DialPlace, &'static str> {
    let (host, port) = text.rsplit_once(':').ok_or("the port is missing")?;
    let port = crate::port::port(port)?;
    let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => {
            let address = inner.parse().map_err(|_| "no IPv6 address in the brackets")?;
            DialHost::Address(IpAddr::V6(v6(address)?))
        }
        None if host.contains(':') => return Err("an IPv6 address stands in brackets"),
        None => match host.parse() {
            Ok(address) => DialHost::Address(IpAddr::V4(v4(address)?)),
            Err(_) => DialHost::Name(name(host)?),
        },
    };
    Ok(DialPlace { host, port })
}

fn v4(address: Ipv4Addr) -> Result<Ipv4Addr, &'static str> {
    match address.is_unspecified() || address.is_multicast() || address.is_broadcast() {
        true => Err("no host has this address"),
        false => Ok(address),
    }
}

fn v6(address: Ipv6Addr) -> Result<Ipv6Addr, &'static str> {
    match address {
        _ if address.is_unspecified() || address.is_multicast() => Err("no host has this address"),
        _ if address.is_unicast_link_local() => Err("a link-local address means nothing outside its link"),
        _ if address.to_ipv4_mapped().is_some() => Err("write it as an IPv4 address"),
        _ => Ok(address),
    }
}

fn name(name: &str) -> Result<String, &'static str> {
    match name {
        "localhost" => Err("localhost is the guest itself"),
        // What is nearly an IPv4 address would be taken for one by the programs of the guest.
        _ if name.ends_with(|last: char| last.is_ascii_digit()) && name.chars().all(is_of_an_address) => {
            Err("neither an IP address nor a name")
        }
        _ if check_hostname(name).is_err() => Err("no name or IP address before the port"),
        _ => Ok(name.to_owned()),
    }
}

fn is_of_an_address(c: char) -> bool {
    c.is_ascii_digit() || c == '.'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reached_reads_as_it_is_written() {
        for text in [
            "db:5432",
            "db-1.example:5432",
            "10.0.0.7:443",
            "[fd00::1]:443",
            "127.0.0.1:5432",
            "primary:5432=db-1:5432",
            "db:6432=db:5432",
            "api.example.com:443=10.0.0.7:443",
            "10.0.0.7:443=127.0.0.1:8443",
            "db:5432=unix:/run/db.sock",
        ] {
            let reached: Reached = text.parse().expect(text);
            assert_eq!(reached.to_string(), text);
            let json = serde_json::to_string(&reached).expect("a text");
            assert_eq!(serde_json::from_str::<Reached>(&json).expect("read"), reached);
            let at: DialPlace = reached.at.to_string().parse().expect("a place");
            assert_eq!(at, reached.at);
        }
        let explicit: Reached = "db:5432=db:5432".parse().expect("read");
        assert_eq!(explicit.to_string(), "db:5432");
    }

    #[test]
    fn a_mistake_is_named() {
        for (text, word) in [
            ("", "missing"),
            ("db", "missing"),
            ("db:0", "1 to 65535"),
            ("db:http", "1 to 65535"),
            (":80", "no name or IP address"),
            ("d_b:80", "no name or IP address"),
            ("localhost:80", "the guest itself"),
            ("10.0.0:80", "neither an IP address nor a name"),
            ("0.0.0.0:80", "no host has this address"),
            ("224.0.0.1:80", "no host has this address"),
            ("::1:80", "brackets"),
            ("[::g]:80", "no IPv6 address"),
            ("[fe80::1]:80", "link-local"),
            ("[::ffff:10.0.0.7]:80", "IPv4"),
            ("db:80=", "missing"),
            ("db:80=unix:run", "absolute"),
            ("db:80=a=b:80", "no name or IP address"),
        ] {
            let error = text.parse::<Reached>().expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn a_port_of_a_vm_is_dialled_at_a_socket_of_its_own() {
        let run_dir = Path::new("/run/pepita");
        let target = |text: &str| text.parse::<Reached>().expect(text).to.on_host(run_dir);
        let socket = target("db:5432");
        assert_eq!(socket, HostPlace::Unix("/run/pepita/.reach/db.5432".into()));
        assert!(is_socket_of_a_vm(run_dir, &socket));
        for text in ["a:1=unix:/run/pepita/x", "10.0.0.7:443"] {
            assert!(!is_socket_of_a_vm(run_dir, &target(text)), "{text}");
        }
    }
}
