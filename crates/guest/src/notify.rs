//! sd_notify(3): what the daemon says of itself through the socket that `NOTIFY_SOCKET` names.

use crate::state::Agent;
use pepita_wire::GuestEvent;
use pepita_wire::agent::Health;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

/// The longest `STATUS=` text that is passed on, in bytes.
const STATUS_CAP: usize = 256;

/// What one datagram says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notice {
    /// `READY=1`.
    pub ready: bool,
    /// The rest.
    pub health: Health,
}

/// Reads a datagram: lines of `KEY=value`; what is not known is ignored.
pub fn parse(datagram: &[u8]) -> Notice {
    let mut notice = Notice::default();
    for line in String::from_utf8_lossy(datagram).lines() {
        match line.split_once('=') {
            Some(("READY", "1")) => notice.ready = true,
            Some(("WATCHDOG", "1")) => notice.health.watchdog = true,
            Some(("STOPPING", "1")) => notice.health.stopping = true,
            Some(("STATUS", text)) => {
                let end = text.floor_char_boundary(STATUS_CAP);
                notice.health.status = Some(text[..end].to_owned());
            }
            Some(("EXTEND_TIMEOUT_USEC", us)) => notice.health.extend_timeout_us = us.parse().ok(),
            _ => {}
        }
    }
    notice
}

/// Listens for the daemon, in a thread of its own.
///
/// # Errors
/// When the socket cannot be bound.
pub fn listen(agent: Arc<Agent>) -> io::Result<()> {
    let socket = UnixDatagram::bind(&agent.notify_path)?;
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n) = socket.recv(&mut buffer) {
            take_in(&agent, parse(&buffer[..n]));
        }
    });
    Ok(())
}

fn take_in(agent: &Agent, notice: Notice) {
    agent.change(|state| {
        if notice.ready && !state.ready {
            state.ready = true;
            state.tell(GuestEvent::Ready);
        }
        if let Some(status) = &notice.health.status {
            state.status.clone_from(status);
        }
        if notice.health != Health::default() {
            state.tell(GuestEvent::Health(notice.health));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_datagram_says_several_things() {
        let notice = parse(b"READY=1\nSTATUS=serving\nEXTEND_TIMEOUT_USEC=500\nX=y\n");
        assert!(notice.ready && !notice.health.watchdog);
        assert_eq!(notice.health.status.as_deref(), Some("serving"));
        assert_eq!(notice.health.extend_timeout_us, Some(500));
    }

    proptest! {
        #[test]
        fn no_datagram_breaks_it(bytes in proptest::collection::vec(any::<u8>(), 0..1000)) {
            let status = parse(&bytes).health.status.unwrap_or_default();
            prop_assert!(status.len() <= STATUS_CAP);
        }
    }
}
