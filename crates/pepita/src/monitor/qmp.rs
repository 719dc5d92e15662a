//! QEMU's monitor protocol, as much of it as a monitor needs: it greets, it answers, it tells of shutdown and pause.
//! Text in, text out; no socket.

use serde::Deserialize;

/// To be sent first; its answer comes once the machine is set up.
pub const CAPABILITIES: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n";
/// What QEMU says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// A command was carried out.
    Done,
    /// A command was refused.
    Refused(String),
    /// The machine goes down, and why.
    Shutdown(String),
    /// The virtual CPUs stand still.
    Stopped,
    /// They run.
    Resumed,
    /// Anything else.
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

/// Reads a line. What is not understood is [`Said::Other`].
pub fn parse(line: &[u8]) -> Said {
    let Ok(raw) = serde_json::from_slice::<Raw>(line) else { return Said::Other };
    match (raw.event.as_deref(), raw.done, raw.error) {
        (Some("SHUTDOWN"), ..) => Said::Shutdown(raw.data.reason.unwrap_or_default()),
        (Some("STOP"), ..) => Said::Stopped,
        (Some("RESUME"), ..) => Said::Resumed,
        (None, Some(_), _) => Said::Done,
        (None, None, Some(refusal)) => Said::Refused(refusal.desc),
        (Some(_), ..) | (None, None, None) => Said::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_matters_is_understood() {
        let cases: [(&str, Said); 6] = [
            (r#"{"QMP": {"version": {}, "capabilities": ["oob"]}}"#, Said::Other),
            (r#"{"return": {}}"#, Said::Done),
            (r#"{"error": {"class": "GenericError", "desc": "no"}}"#, Said::Refused("no".into())),
            (
                r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#,
                Said::Shutdown("guest-reset".into()),
            ),
            (r#"{"timestamp": {}, "event": "STOP"}"#, Said::Stopped),
            (r#"{"event": "RESUME"}"#, Said::Resumed),
        ];
        for (line, said) in cases {
            assert_eq!(parse(line.as_bytes()), said, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_line_breaks_it(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            parse(&bytes);
        }
    }
}
