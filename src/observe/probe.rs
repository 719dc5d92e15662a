//! The result of a probe, for onlookers.

use serde_json::{Value, json};
use std::fmt;

/// The newest result of the probes of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeStatus {
    /// Whether the probe was good.
    pub healthy: bool,
    /// The number of probes in a row that have failed and count (semantics 1.11).
    pub failures: u32,
    /// What the daemon has answered, or why there is no answer; fit to be shown, at most 256 characters.
    pub text: String,
}

impl fmt::Display for ProbeStatus {
    /// Writes `failed, 3 in a row: connection refused`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.healthy, self.failures) {
            (true, _) => f.write_str("good")?,
            (false, 0 | 1) => f.write_str("failed")?,
            (false, failures) => write!(f, "failed, {failures} in a row")?,
        }
        write!(f, ": {}", self.text)
    }
}

impl ProbeStatus {
    pub(super) fn to_json(&self) -> Value {
        let Self { healthy, failures, text } = self;
        json!({ "healthy": healthy, "failures": failures, "text": text })
    }
}
