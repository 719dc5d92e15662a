//! Reads the reports of the daemon about itself from the socket that `NOTIFY_SOCKET` names (sd_notify(3)).

use crate::agent::Agent;
use pepita_wire::GuestEvent;
use pepita_wire::agent::Health;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

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
        while let Ok(n) = socket.recv(&mut buffer) {
            apply(&agent, parse(&buffer[..n]));
        }
    });
    Ok(())
}

fn apply(agent: &Agent, datagram: Datagram) {
    agent.change(|state| {
        if datagram.ready && !state.ready {
            state.ready = true;
            state.report(GuestEvent::Ready);
        }
        if let Some(status) = &datagram.health.status {
            state.status.clone_from(status);
        }
        if datagram.health != Health::default() {
            state.report(GuestEvent::Health(datagram.health));
        }
    });
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
