//! Reads what a daemon says of itself (sd_notify(3)). Knows no socket.

use pepita_wire::agent::Health;

/// The number of bytes of a `STATUS=` text that are passed on.
const STATUS_CAP: usize = 256;

/// The contents of one datagram.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Datagram {
    /// Whether the datagram contains `READY=1`.
    pub(crate) ready: bool,
    /// The process of `MAINPID=`.
    pub(crate) main_pid: Option<u32>,
    /// The other contents of the datagram.
    pub(crate) health: Health,
}

impl Datagram {
    /// Parses lines of the form `KEY=value`. Unknown keys are ignored, as sd_notify(3) demands.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let mut datagram = Self::default();
        for line in String::from_utf8_lossy(bytes).lines() {
            match line.split_once('=') {
                Some(("READY", "1")) => datagram.ready = true,
                Some(("WATCHDOG", "1")) => datagram.health.watchdog = true,
                Some(("STOPPING", "1")) => datagram.health.stopping = true,
                Some(("X_PEPITA_AWAKE", "1")) => datagram.health.awake = Some(true),
                Some(("X_PEPITA_AWAKE", "0")) => datagram.health.awake = Some(false),
                Some(("STATUS", text)) => {
                    let end = text.floor_char_boundary(STATUS_CAP);
                    datagram.health.status = Some(text[..end].to_owned());
                }
                Some(("MAINPID", pid)) => datagram.main_pid = pid.parse().ok().filter(|pid| *pid > 0),
                Some(("EXTEND_TIMEOUT_USEC", us)) => datagram.health.extend_timeout_us = us.parse().ok(),
                _ => {}
            }
        }
        datagram
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_datagram_may_say_several_things() {
        let datagram =
            Datagram::parse(b"READY=1\nSTATUS=serving\nEXTEND_TIMEOUT_USEC=500\nMAINPID=42\nX=y\n");
        assert_eq!(datagram.main_pid, Some(42));
        assert_eq!(Datagram::parse(b"MAINPID=0\nMAINPID=-1\n").main_pid, None);
        for (said, awake) in [("1", Some(true)), ("0", Some(false)), ("yes", None)] {
            let said = format!("X_PEPITA_AWAKE={said}\n");
            assert_eq!(Datagram::parse(said.as_bytes()).health.awake, awake, "{said}");
        }
        assert!(datagram.ready && !datagram.health.watchdog);
        assert_eq!(datagram.health.status.as_deref(), Some("serving"));
        assert_eq!(datagram.health.extend_timeout_us, Some(500));
    }

    proptest! {
        #[test]
        fn no_datagram_panics(bytes in proptest::collection::vec(any::<u8>(), 0..1000)) {
            let status = Datagram::parse(&bytes).health.status.unwrap_or_default();
            prop_assert!(status.len() <= STATUS_CAP);
        }
    }
}
