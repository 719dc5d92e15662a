//! The part of QEMU's monitor protocol that a monitor needs: the greeting, answers, shutdown and pause. Parses and
//! formats text, without a socket.

use crate::qemu::DRIVE_PREFIX;
use serde::Deserialize;

/// The commands that are sent first. QEMU answers them when the machine is set up. The second one tells a new monitor
/// of a stop that happened while the VM had no monitor.
pub(super) const GREETING: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"query-status\"}\n";

/// The states in which QEMU has stopped the guest by itself.
const STOPPED: [&str; 3] = ["io-error", "internal-error", "guest-panicked"];

/// The maximum length of a text of QEMU, in bytes.
const TEXT_CAP: usize = 200;

/// A message of QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QmpMessage {
    /// QEMU has carried out a command.
    Done,
    /// QEMU has refused a command, for this reason.
    Refused(String),
    /// The machine shuts down, for this reason.
    Shutdown(String),
    /// QEMU has stopped the guest by itself. The monitor pauses a guest in another way.
    Stopped,
    /// A disk of the host failed under the guest's disk, for this reason.
    DiskError(String),
    /// The guest has given memory back, or taken it again. It has this much now.
    Memory {
        /// The memory, in bytes.
        bytes: u64,
    },
    /// A message without a meaning for the monitor.
    Other,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    event: Option<String>,
    data: Data,
    #[serde(rename = "return")]
    done: Option<serde_json::Value>,
    error: Option<Refusal>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Data {
    reason: Option<String>,
    operation: Option<String>,
    device: Option<String>,
    actual: Option<u64>,
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
            (Some("SHUTDOWN"), ..) => Self::Shutdown(short(raw.data.reason.unwrap_or_default())),
            (Some("STOP"), ..) => Self::Stopped,
            (Some("BALLOON_CHANGE"), ..) => {
                raw.data.actual.map_or(Self::Other, |bytes| Self::Memory { bytes })
            }
            (Some("BLOCK_IO_ERROR"), ..) => {
                let Data { reason, operation, device, actual: _ } = raw.data;
                let disk = device.as_deref().and_then(|device| device.strip_prefix(DRIVE_PREFIX));
                let disk = disk.map_or_else(String::new, |disk| format!("disk {disk}: "));
                let (operation, reason) = (operation.unwrap_or_default(), reason.unwrap_or_default());
                Self::DiskError(short(format!("{disk}{operation}: {reason}")))
            }
            (None, Some(answer), _) => match answer["status"].as_str() {
                Some(status) if STOPPED.contains(&status) => Self::Stopped,
                Some(_) | None => Self::Done,
            },
            (None, None, Some(refusal)) => Self::Refused(short(refusal.desc)),
            (Some(_), ..) | (None, None, None) => Self::Other,
        }
    }
}

/// Returns the beginning of a text of QEMU: it goes into records and logs.
fn short(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_CAP));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_matters_is_understood() {
        let cases: [(&str, QmpMessage); 10] = [
            (r#"{"QMP": {"version": {}, "capabilities": ["oob"]}}"#, QmpMessage::Other),
            (r#"{"return": {}}"#, QmpMessage::Done),
            (r#"{"error": {"class": "GenericError", "desc": "no"}}"#, QmpMessage::Refused("no".into())),
            (
                r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#,
                QmpMessage::Shutdown("guest-reset".into()),
            ),
            (r#"{"timestamp": {}, "event": "STOP"}"#, QmpMessage::Stopped),
            (
                r#"{"timestamp": {}, "event": "BALLOON_CHANGE", "data": {"actual": 90345472}}"#,
                QmpMessage::Memory { bytes: 90_345_472 },
            ),
            (r#"{"return": {"status": "running", "singlestep": false, "running": true}}"#, QmpMessage::Done),
            (r#"{"return": {"status": "io-error", "running": false}}"#, QmpMessage::Stopped),
            (
                r#"{"event": "BLOCK_IO_ERROR", "data": {"device": "root", "nospace": true, "operation": "write", "action": "report", "reason": "No space left on device"}}"#,
                QmpMessage::DiskError("write: No space left on device".into()),
            ),
            (
                r#"{"event": "BLOCK_IO_ERROR", "data": {"device": "disk-data", "operation": "write", "reason": "full"}}"#,
                QmpMessage::DiskError("disk data: write: full".into()),
            ),
        ];
        for (line, message) in cases {
            assert_eq!(QmpMessage::parse(line.as_bytes()), message, "{line}");
        }
    }

    #[test]
    fn no_text_of_qemu_is_longer_than_its_cap() {
        let (long, cut) = ("ü".repeat(500), "ü".repeat(100));
        let parse = |line: String| QmpMessage::parse(line.as_bytes());
        let refused = parse(format!(r#"{{"error": {{"desc": "{long}"}}}}"#));
        assert_eq!(refused, QmpMessage::Refused(cut.clone()));
        let shutdown = parse(format!(r#"{{"event": "SHUTDOWN", "data": {{"reason": "{long}"}}}}"#));
        assert_eq!(shutdown, QmpMessage::Shutdown(cut));
    }

    proptest! {
        #[test]
        fn no_line_breaks_it(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            QmpMessage::parse(&bytes);
        }
    }
}
