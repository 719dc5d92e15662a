//! The part of QEMU's monitor protocol that a monitor needs: the greeting, answers, shutdown and pause. Parses and
//! formats text, without a socket.

use serde::Deserialize;

/// The command that has to be sent first. QEMU answers it when the machine is set up.
pub(super) const CAPABILITIES: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n";

/// A message of QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QmpMessage {
    /// QEMU has carried out a command.
    Done,
    /// QEMU has refused a command, for this reason.
    Refused(String),
    /// The machine shuts down, for this reason.
    Shutdown(String),
    /// The virtual CPUs are paused.
    Stopped,
    /// The virtual CPUs run again.
    Resumed,
    /// A message without a meaning for the monitor.
    Other,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    event: Option<String>,
    data: Data,
    #[serde(rename = "return")]
    done: Option<serde::de::IgnoredAny>,
    error: Option<Refusal>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Data {
    reason: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    desc: String,
}

impl QmpMessage {
    /// Parses a line. Any line that the monitor does not know is [`QmpMessage::Other`].
    pub fn parse(line: &[u8]) -> Self {
        let Ok(raw) = serde_json::from_slice::<Raw>(line) else { return Self::Other };
        match (raw.event.as_deref(), raw.done, raw.error) {
            (Some("SHUTDOWN"), ..) => Self::Shutdown(raw.data.reason.unwrap_or_default()),
            (Some("STOP"), ..) => Self::Stopped,
            (Some("RESUME"), ..) => Self::Resumed,
            (None, Some(_), _) => Self::Done,
            (None, None, Some(refusal)) => Self::Refused(refusal.desc),
            (Some(_), ..) | (None, None, None) => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_matters_is_understood() {
        let cases: [(&str, QmpMessage); 6] = [
            (r#"{"QMP": {"version": {}, "capabilities": ["oob"]}}"#, QmpMessage::Other),
            (r#"{"return": {}}"#, QmpMessage::Done),
            (r#"{"error": {"class": "GenericError", "desc": "no"}}"#, QmpMessage::Refused("no".into())),
            (
                r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#,
                QmpMessage::Shutdown("guest-reset".into()),
            ),
            (r#"{"timestamp": {}, "event": "STOP"}"#, QmpMessage::Stopped),
            (r#"{"event": "RESUME"}"#, QmpMessage::Resumed),
        ];
        for (line, message) in cases {
            assert_eq!(QmpMessage::parse(line.as_bytes()), message, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_line_breaks_it(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            QmpMessage::parse(&bytes);
        }
    }
}
