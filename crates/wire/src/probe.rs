//! Probes of a guest's daemon from outside it: a connection to a port, or a request over HTTP.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The longest path of an HTTP request, in bytes.
const PATH_CAP: usize = 1024;

/// A question to a daemon that shows whether it is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// A TCP port at 127.0.0.1 of the guest. The daemon is well when it accepts a connection.
    Tcp(u16),
    /// A GET request. The daemon is well when it answers with a status from 200 to 399.
    Http(HttpPlace),
}

/// An address, a port and a path for a request over HTTP: `[ADDRESS:]PORT[/PATH]`.
///
/// ```
/// use pepita_wire::probe::HttpPlace;
///
/// let place: HttpPlace = "8080/healthz".parse()?;
/// assert_eq!(place.to_string(), "127.0.0.1:8080/healthz");
/// # Ok::<(), pepita_wire::probe::BadHttpPlace>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HttpPlace {
    address: SocketAddr,
    path: String,
}

/// A text that names no place for a request over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?}: {problem}; write ADDRESS:PORT/PATH, such as \"127.0.0.1:80/healthz\"")]
pub struct BadHttpPlace {
    /// The text, cut to a length that can be shown.
    pub text: String,
    /// The mistake in it.
    pub problem: &'static str,
}

impl HttpPlace {
    /// Returns the address and the port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the bytes of the request. After its answer the connection is of no further use.
    pub fn request(&self) -> String {
        let Self { address, path } = self;
        format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: pepita\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        )
    }
}

impl fmt::Display for HttpPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.address, self.path)
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(port) => write!(f, "port {port}"),
            Self::Http(place) => write!(f, "http {place}"),
        }
    }
}

impl From<HttpPlace> for String {
    fn from(place: HttpPlace) -> Self {
        place.to_string()
    }
}

impl TryFrom<String> for HttpPlace {
    type Error = BadHttpPlace;
    fn try_from(text: String) -> Result<Self, BadHttpPlace> {
        text.parse()
    }
}

impl FromStr for HttpPlace {
    type Err = BadHttpPlace;
    fn from_str(text: &str) -> Result<Self, BadHttpPlace> {
        let bad = |problem| BadHttpPlace { text: text.chars().take(128).collect(), problem };
        if text.starts_with("https:") {
            return Err(bad("a probe does not speak TLS"));
        }
        if text.starts_with("http:") {
            return Err(bad("the \"http://\" is left out"));
        }
        let (place, path) = match text.find('/') {
            Some(at) => text.split_at(at),
            None => (text, "/"),
        };
        // Any other byte would end the line of the request, or the path in it.
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad("a path has printable ASCII characters; encode others, such as a space as %20"));
        }
        if path.len() > PATH_CAP {
            return Err(bad("a path has at most 1024 bytes"));
        }
        let address = match place.parse::<u16>() {
            Ok(port) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            Err(_) => place.parse().map_err(|_| bad(problem_of(place)))?,
        };
        if address.port() == 0 {
            return Err(bad("a port is a number, 1 to 65535"));
        }
        Ok(Self { address, path: path.to_owned() })
    }
}

/// Returns what is wrong with a text that is no address with a port.
fn problem_of(place: &str) -> &'static str {
    let is_address = |text: &str| text.parse::<IpAddr>().is_ok();
    match place.rsplit_once(':') {
        _ if is_address(place) => "the port is missing, or an IPv6 address stands without brackets",
        Some((address, _)) if is_address(address.trim_matches(['[', ']'])) => {
            "a port is a number, 1 to 65535"
        }
        Some(_) => "an IP address of the guest stands before the port, such as 127.0.0.1",
        None => "the port is missing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_as_it_is_written() {
        for (text, means) in [
            ("127.0.0.1:80/healthz", "127.0.0.1:80/healthz"),
            ("8080/health?full=1", "127.0.0.1:8080/health?full=1"),
            ("9000", "127.0.0.1:9000/"),
            ("[::1]:80/a:b/c", "[::1]:80/a:b/c"),
        ] {
            let place: HttpPlace = text.parse().expect(text);
            assert_eq!(place.to_string(), means);
            let json = serde_json::to_string(&Check::Http(place.clone())).expect("plain");
            assert_eq!(json, format!("{{\"http\":{means:?}}}"));
            assert_eq!(serde_json::from_str::<Check>(&json).expect("read"), Check::Http(place));
        }
    }

    #[test]
    fn a_mistake_is_named() {
        for (text, word) in [
            ("", "missing"),
            ("/healthz", "missing"),
            ("127.0.0.1/x", "missing"),
            ("::1/x", "brackets"),
            ("0/x", "1 to 65535"),
            ("127.0.0.1:0/x", "1 to 65535"),
            ("127.0.0.1:99999/x", "1 to 65535"),
            ("localhost:80/x", "IP address"),
            ("http://127.0.0.1:80/x", "left out"),
            ("https://127.0.0.1:443/x", "TLS"),
            ("80/a b", "%20"),
            ("80/a\r\nX: y", "%20"),
            ("80/ü", "%20"),
        ] {
            let error = text.parse::<HttpPlace>().expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        let long = format!("80/{}", "x".repeat(PATH_CAP));
        assert!(long.parse::<HttpPlace>().expect_err("too long").problem.contains("1024"));
    }

    #[test]
    fn a_request_is_one_head_without_a_body() {
        let place: HttpPlace = "80/healthz".parse().expect("good");
        let request = place.request();
        assert!(request.starts_with("GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:80\r\n"), "{request}");
        assert_eq!(request.matches("\r\n\r\n").count(), 1);
        assert!(request.ends_with("\r\n\r\n"), "{request}");
    }
}
