//! Ports of a guest that the host publishes: where the host listens, and where the guest's daemon does.

use core::net::{IpAddr, Ipv4Addr};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The maximum number of ports that one VM publishes. Their sockets fit into one message (SCM_MAX_FD of unix(7) is 253).
pub const PORTS_CAP: usize = 32;

/// The longest path of a Unix socket (sun_path of unix(7), without the zero byte).
const PATH_CAP: usize = 107;

/// The place where the host listens for a published port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPlace {
    /// A TCP port at an address of the host.
    Tcp(IpAddr, u16),
    /// The path of a Unix socket.
    Unix(String),
}

/// The place where a daemon listens in its guest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum GuestPlace {
    /// A TCP port at 127.0.0.1.
    Port(u16),
    /// The path of a Unix socket.
    Unix(String),
}

/// A published port: `[ADDRESS:]PORT:GUEST` or `unix:PATH:GUEST`, where `GUEST` is a port or `unix:PATH`.
///
/// ```
/// use pepita_wire::port::Publish;
///
/// let port: Publish = "127.0.0.1:6379:6379".parse()?;
/// assert_eq!(port.to_string(), "127.0.0.1:6379:6379");
/// # Ok::<(), pepita_wire::port::BadPublish>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Publish {
    /// The place where the host listens.
    pub host: HostPlace,
    /// The place where the daemon listens.
    pub guest: GuestPlace,
}

/// A text that is no published port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?}: {problem}; write [ADDRESS:]PORT:GUEST_PORT or unix:PATH:GUEST_PORT")]
pub struct BadPublish {
    /// The text, cut to a length that can be shown.
    pub text: String,
    /// The mistake in it.
    pub problem: &'static str,
}

impl fmt::Display for HostPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(IpAddr::V4(address), port) => write!(f, "{address}:{port}"),
            Self::Tcp(IpAddr::V6(address), port) => write!(f, "[{address}]:{port}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

impl fmt::Display for GuestPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "{port}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.guest)
    }
}

impl From<Publish> for String {
    fn from(publish: Publish) -> Self {
        publish.to_string()
    }
}

impl From<GuestPlace> for String {
    fn from(place: GuestPlace) -> Self {
        place.to_string()
    }
}

impl TryFrom<String> for Publish {
    type Error = BadPublish;
    fn try_from(text: String) -> Result<Self, BadPublish> {
        text.parse()
    }
}

impl TryFrom<String> for GuestPlace {
    type Error = BadPublish;
    fn try_from(text: String) -> Result<Self, BadPublish> {
        text.parse()
    }
}

impl FromStr for GuestPlace {
    type Err = BadPublish;
    fn from_str(text: &str) -> Result<Self, BadPublish> {
        match text.strip_prefix("unix:") {
            Some(path) => socket_path(path).map(Self::Unix),
            None => port(text).map(Self::Port),
        }
        .map_err(bad(text))
    }
}

impl FromStr for Publish {
    type Err = BadPublish;
    fn from_str(text: &str) -> Result<Self, BadPublish> {
        let missing = "the port of the guest is missing";
        // The guest's part comes last, and a Unix socket in it has a colon of its own.
        let (host, guest) = match text.rfind(":unix:").filter(|at| *at > 0) {
            Some(at) => (&text[..at], &text[at + 1..]),
            None => text.rsplit_once(':').ok_or_else(|| bad(text)(missing))?,
        };
        if host == "unix" {
            return Err(bad(text)(missing));
        }
        let guest = guest.parse().map_err(|e: BadPublish| bad(text)(e.problem))?;
        let host = match host.strip_prefix("unix:") {
            Some(path) => socket_path(path).map(HostPlace::Unix),
            None => tcp(host),
        };
        Ok(Self { host: host.map_err(bad(text))?, guest })
    }
}

fn bad(text: &str) -> impl FnOnce(&'static str) -> BadPublish {
    let text = text.chars().take(128).collect();
    move |problem| BadPublish { text, problem }
}

/// Reads `PORT`, `ADDRESS:PORT` or `[ADDRESS]:PORT`. A port alone is published at every address, as docker does it.
fn tcp(text: &str) -> Result<HostPlace, &'static str> {
    let Some((address, number)) = text.rsplit_once(':') else {
        return port(text).map(|port| HostPlace::Tcp(Ipv4Addr::UNSPECIFIED.into(), port));
    };
    let address = match address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.parse().map(IpAddr::V6).map_err(|_| "no IPv6 address in the brackets")?,
        None if address.contains(':') => return Err("an IPv6 address stands in brackets"),
        None => address.parse().map(IpAddr::V4).map_err(|_| "no IP address before the port")?,
    };
    Ok(HostPlace::Tcp(address, port(number)?))
}

pub(crate) fn port(text: &str) -> Result<u16, &'static str> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| *port > 0 && is_number);
    port.ok_or("a port is a number, 1 to 65535")
}

pub(crate) fn socket_path(path: &str) -> Result<String, &'static str> {
    match path {
        _ if !path.starts_with('/') => Err("the path of a Unix socket is absolute"),
        _ if path.len() > PATH_CAP => Err("the path of a Unix socket has at most 107 bytes"),
        _ if path.contains('\0') => Err("a path has no zero byte"),
        _ => Ok(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_reads_as_it_is_written() {
        for text in [
            "127.0.0.1:6379:6379",
            "[::1]:8080:80",
            "unix:/run/cache.sock:6379",
            "unix:/run/a:b.sock:unix:/run/app.sock",
            "0.0.0.0:8080:unix:/run/app.sock",
        ] {
            let publish: Publish = text.parse().expect(text);
            assert_eq!(publish.to_string(), text);
            let json = serde_json::to_string(&publish).expect("a text");
            assert_eq!(serde_json::from_str::<Publish>(&json).expect("read"), publish);
        }
        let short: Publish = "8080:80".parse().expect("read");
        assert_eq!(short.to_string(), "0.0.0.0:8080:80");
    }

    #[test]
    fn a_mistake_is_named() {
        for (text, word) in [
            ("", "missing"),
            ("80", "missing"),
            ("unix:/run/a.sock", "missing"),
            ("8080:0", "1 to 65535"),
            ("0:80", "1 to 65535"),
            ("+8:80", "1 to 65535"),
            ("8080:80/udp", "1 to 65535"),
            ("70000:80", "1 to 65535"),
            ("localhost:80:80", "no IP address"),
            ("::1:80:80", "brackets"),
            ("[::g]:80:80", "no IPv6 address"),
            ("unix:run/a.sock:80", "absolute"),
            ("80:unix:a", "absolute"),
        ] {
            let error = text.parse::<Publish>().expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        let long = format!("unix:/{}:80", "x".repeat(200));
        assert!(long.parse::<Publish>().expect_err("too long").problem.contains("107"));
    }
}
