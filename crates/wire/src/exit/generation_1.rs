//! The agent's report of an end in generation 1 of the conversation: `{"code":3}`, `{"signal":9,"oom":true}` or
//! `{"exec":{"path":…,"errno":…,"message":…}}`. To be used as `#[serde(with = "generation_1")]`.
//!
//! A guest can only report the end of its daemon in this form. No report of a guest reads as an end that only the host
//! can observe.

use super::Exit;
use crate::text::shown;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exec: Option<Exec>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    oom: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    core: bool,
}

#[derive(Serialize, Deserialize)]
struct Exec {
    #[serde(default)]
    path: String,
    errno: i32,
    #[serde(default)]
    message: String,
}

impl From<&Exit> for Report {
    fn from(exit: &Exit) -> Self {
        match exit {
            Exit::Exited { code } => Self { code: Some(*code), ..Self::default() },
            Exit::Signalled { signal, core } => {
                Self { signal: Some(*signal), core: *core, ..Self::default() }
            }
            // The OOM killer of Linux sends SIGKILL, and readers of generation 1 expect that signal.
            Exit::GuestOom => Self { signal: Some(9), oom: true, ..Self::default() },
            Exit::NotExecutable { path, errno, message } => {
                let exec = Exec { path: path.clone(), errno: *errno, message: message.clone() };
                Self { exec: Some(exec), ..Self::default() }
            }
            Exit::GuestPanic { .. }
            | Exit::GuestReset
            | Exit::HostOom
            | Exit::VmmCrashed(_)
            | Exit::VmmRefused { .. }
            | Exit::BootTimeout
            | Exit::AgentLost { .. }
            | Exit::TransportLost
            | Exit::ShareLost { .. }
            | Exit::StopRequested
            | Exit::Killed
            | Exit::Unknown => Self::default(),
        }
    }
}

impl From<Report> for Exit {
    fn from(report: Report) -> Self {
        match report {
            Report { oom: true, .. } => Self::GuestOom,
            Report { exec: Some(Exec { path, errno, message }), .. } => {
                Self::NotExecutable { path: shown(&path), errno, message: shown(&message) }
            }
            Report { code: Some(code), .. } => Self::Exited { code },
            Report { signal: Some(signal), core, .. } => Self::Signalled { signal, core },
            Report { code: None, signal: None, exec: None, .. } => Self::Unknown,
        }
    }
}

/// Serialises an end in the form of generation 1. An end that only the host can observe becomes an empty report.
///
/// # Errors
/// When `serializer` fails.
pub fn serialize<S: Serializer>(exit: &Exit, serializer: S) -> Result<S::Ok, S::Error> {
    Report::from(exit).serialize(serializer)
}

/// Deserialises a report of generation 1. Its texts become as [`shown`] makes them.
///
/// # Errors
/// When the text is not a report.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Exit, D::Error> {
    Report::deserialize(deserializer).map(Exit::from)
}

/// The same conversions for a report that may be absent.
pub mod optional {
    use super::{Exit, Report};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Serialises the report, or null for `None`.
    ///
    /// # Errors
    /// When `serializer` fails.
    pub fn serialize<S: Serializer>(exit: &Option<Exit>, serializer: S) -> Result<S::Ok, S::Error> {
        exit.as_ref().map(Report::from).serialize(serializer)
    }

    /// Deserialises the report; null gives `None`.
    ///
    /// # Errors
    /// When the text is not a report.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Exit>, D::Error> {
        Ok(Option::<Report>::deserialize(deserializer)?.map(Exit::from))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::all;
    use super::*;
    use crate::text::TEXT_CAP;

    #[derive(PartialEq, Debug, Serialize, Deserialize)]
    struct Wrapped(#[serde(with = "super")] Exit);

    #[test]
    fn what_a_daemon_can_do_survives_and_what_only_the_host_sees_cannot_be_claimed() {
        for exit in all() {
            let text = serde_json::to_string(&Wrapped(exit.clone())).expect("JSON");
            let read: Wrapped = serde_json::from_str(&text).expect("reads");
            let expected = if exit.is_of_daemon() { exit } else { Exit::Unknown };
            assert_eq!(read.0, expected, "{text}");
        }
    }

    #[test]
    fn a_report_is_spelled_as_generation_1_has_it() {
        let text = |exit| serde_json::to_string(&Wrapped(exit)).expect("JSON");
        assert_eq!(text(Exit::code(3)), r#"{"code":3}"#);
        assert_eq!(text(Exit::GuestOom), r#"{"signal":9,"oom":true}"#);
    }

    #[test]
    fn texts_of_a_guest_are_cut_and_have_no_control_characters() {
        let long = "\\u001bä".repeat(10_000);
        let text = format!(r#"{{"exec":{{"path":"{long}","errno":2,"message":"{long}"}}}}"#);
        let Wrapped(Exit::NotExecutable { path, message, .. }) = serde_json::from_str(&text).expect("reads")
        else {
            panic!("not executable")
        };
        assert!(path.starts_with("\\x1bä") && path.chars().count() <= TEXT_CAP, "{path}");
        assert_eq!(path, message);
    }
}
