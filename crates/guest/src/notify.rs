//! Reads the reports of the daemon about itself from the socket that `NOTIFY_SOCKET` names (sd_notify(3)).

use crate::agent::Agent;
use pepita_wire::GuestEvent;
use pepita_wire::agent::Health;
use pepita_wire::protocol::{HEALTH_INTERVAL, HEARTBEAT_INTERVAL};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Instant;

/// The maximum number of datagrams that are read in one [`HEALTH_INTERVAL`].
const DATAGRAMS: u32 = 2000;

/// The number of bytes of a `STATUS=` text that are passed on.
const STATUS_CAP: usize = 256;

/// The contents of one datagram.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Datagram {
    /// Whether the datagram contains `READY=1`.
    ready: bool,
    /// The other contents of the datagram.
    health: Health,
}

/// Parses lines of the form `KEY=value`. Unknown keys are ignored, as sd_notify(3) demands.
fn parse(bytes: &[u8]) -> Datagram {
    let mut datagram = Datagram::default();
    for line in String::from_utf8_lossy(bytes).lines() {
        match line.split_once('=') {
            Some(("READY", "1")) => datagram.ready = true,
            Some(("WATCHDOG", "1")) => datagram.health.watchdog = true,
            Some(("STOPPING", "1")) => datagram.health.stopping = true,
            Some(("STATUS", text)) => {
                let end = text.floor_char_boundary(STATUS_CAP);
                datagram.health.status = Some(text[..end].to_owned());
            }
            Some(("EXTEND_TIMEOUT_USEC", us)) => datagram.health.extend_timeout_us = us.parse().ok(),
            _ => {}
        }
    }
    datagram
}

/// Listens on the agent's notify socket, in a thread of its own.
///
/// # Errors
/// When the socket cannot be bound.
pub(crate) fn listen(agent: Arc<Agent>) -> io::Result<()> {
    let socket = UnixDatagram::bind(&agent.notify_path)?;
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        let (mut window, mut read) = (Instant::now(), 0);
        let mut is_limited = false;
        loop {
            let due = match socket.recv(&mut buffer) {
                Ok(n) => apply(&agent, parse(&buffer[..n])),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    due(&agent)
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            // With something left to report, the wait for the next datagram is limited.
            if due.is_some() != is_limited {
                is_limited = due.is_some();
                let limit = due.map(|_| HEARTBEAT_INTERVAL);
                let _ = socket.set_read_timeout(limit);
            }
            read += 1;
            let passed = window.elapsed();
            if passed >= HEALTH_INTERVAL {
                (window, read) = (Instant::now(), 0);
            } else if read >= DATAGRAMS {
                // A daemon that floods its socket waits, and does not use up the agent's CPU time.
                std::thread::sleep(HEALTH_INTERVAL - passed);
            }
        }
    });
    Ok(())
}

/// Reports what the daemon has said, when that is due. Returns the time of the next report, if something is left.
fn due(agent: &Agent) -> Option<Instant> {
    let mut state = agent.lock();
    if state.report_health(Instant::now()) {
        drop(state);
        agent.wake();
        return None;
    }
    state.health_due()
}

/// Takes in a datagram. Returns the time of the next report, if something is left to report.
fn apply(agent: &Agent, Datagram { ready, health }: Datagram) -> Option<Instant> {
    let mut state = agent.lock();
    let mut is_news = false;
    if ready && !state.ready {
        state.ready = true;
        state.report(GuestEvent::Ready);
        is_news = true;
    }
    if health != Health::default() {
        is_news |= state.hear(health, Instant::now());
    }
    let due = state.health_due();
    drop(state);
    if is_news {
        agent.wake();
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_datagram_may_say_several_things() {
        let datagram = parse(b"READY=1\nSTATUS=serving\nEXTEND_TIMEOUT_USEC=500\nX=y\n");
        assert!(datagram.ready && !datagram.health.watchdog);
        assert_eq!(datagram.health.status.as_deref(), Some("serving"));
        assert_eq!(datagram.health.extend_timeout_us, Some(500));
    }

    proptest! {
        #[test]
        fn no_datagram_panics(bytes in proptest::collection::vec(any::<u8>(), 0..1000)) {
            let status = parse(&bytes).health.status.unwrap_or_default();
            prop_assert!(status.len() <= STATUS_CAP);
        }
    }
}
