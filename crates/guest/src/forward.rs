//! Connects to programs of the guest on behalf of the host (`dial`).

use crate::agent::Agent;
use crate::tcp;
use pepita_wire::agent::Dial;
use pepita_wire::{ErrorKind, GuestPlace, WireError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as connect_socket, socket_with,
};
use std::io::{self, ErrorKind as Io};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// The time limit for one attempt. On the loopback interface only a full queue of the daemon takes time.
const ATTEMPT: Duration = Duration::from_secs(5);

/// The longest time for which a host may let the agent try again.
const WAIT_CAP: Duration = Duration::from_secs(60);

/// The pause after the first attempt, and the longest pause. No event tells that a program begins to listen.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Connects to a place of the guest, again and again for as long as the request allows and `host`, the connection of the
/// asker, is open.
///
/// # Errors
/// [`ErrorKind::NotFound`] when nothing listens there, [`ErrorKind::Busy`] when too many connections are forwarded
/// already, [`ErrorKind::Os`] when the system refuses for another reason.
pub(crate) fn connect(agent: &Agent, dial: &Dial, host: impl AsFd) -> Result<OwnedFd, WireError> {
    if agent.forwarding.is_full() {
        return Err(WireError::new(ErrorKind::Busy, "too many connections are forwarded"));
    }
    let until = Instant::now() + Duration::from_millis(dial.wait_ms).min(WAIT_CAP);
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match attempt(&dial.to) {
            Ok(stream) => return Ok(stream),
            Err(e) => e,
        };
        let is_early = matches!(error.kind(), Io::ConnectionRefused | Io::NotFound | Io::WouldBlock);
        let left = until.saturating_duration_since(Instant::now());
        if !is_early || left.is_zero() || hangs_up(&host, pause.min(left)) {
            let kind = if is_early { ErrorKind::NotFound } else { ErrorKind::Os };
            return Err(WireError::new(kind, format!("{}: {error}", dial.to)));
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Waits for a time. Returns whether the host has hung up meanwhile.
fn hangs_up(host: impl AsFd, pause: Duration) -> bool {
    let mut fds = [PollFd::new(&host, PollFlags::RDHUP)];
    let limit = Timespec::try_from(pause).ok();
    poll(&mut fds, limit.as_ref()).is_ok_and(|ready| ready > 0)
}

fn attempt(to: &GuestPlace) -> io::Result<OwnedFd> {
    match to {
        GuestPlace::Port(port) => tcp::connect((Ipv4Addr::LOCALHOST, *port).into(), ATTEMPT).map(Into::into),
        GuestPlace::Unix(path) => {
            // Without waiting: the queue of the daemon may be full.
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            connect_socket(&socket, &SocketAddrUnix::new(path.as_str())?)?;
            Ok(socket)
        }
    }
}
