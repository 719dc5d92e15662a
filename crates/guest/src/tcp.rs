//! Connects to TCP ports on which a daemon listens.

use rustix::net::sockopt;
use std::io::{self, ErrorKind as Io};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Connects to a port within a time limit, which is longer than zero.
///
/// # Errors
/// When nothing listens there, or no answer comes in time.
pub(crate) fn connect(to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, limit)?;
    // A port that nobody listens on may be the own port of this connection: it is connected with itself then.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(Io::ConnectionRefused.into());
    }
    sockopt::set_tcp_nodelay(&stream, true)?;
    Ok(stream)
}
