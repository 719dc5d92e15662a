//! The exit record of a VM: its end, the evidence for that, and the last lines of its console.
//!
//! In JSON the record contains the end twice: as `exit`, and in the fields `reason` and `guest` of contract 1 for older
//! programs. In a record that has only the fields of contract 1, the end is read from those.

use super::{Exit, ProcessExit, generation_1};
use crate::text::{shown, shown_up_to};
use serde::{Deserialize, Serialize};

/// The number of characters that are kept of a line of a record that was read.
const LINE_CAP: usize = 1024;

/// The record of a VM's end. The monitor writes it once, before the VM's state becomes terminal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Text", into = "Text")]
pub struct ExitRecord {
    /// The name of the VM.
    pub name: String,
    /// The number of the start that ended, counted by the program that starts the VM.
    pub incarnation: u64,
    /// The end of the VM.
    pub exit: Exit,
    /// The end of the daemon, when a client had asked for the VM's end and the agent still reported.
    pub daemon: Option<Exit>,
    /// The time at which the end was observed, in milliseconds since the Unix epoch.
    pub ended_at_ms: u64,
    /// The end of the VMM's process; absent when its parent could not observe it.
    pub vmm: Option<ProcessExit>,
    /// The evidence for the exit, one sentence for each piece, the strongest first.
    pub evidence: Vec<String>,
    /// What an operator should know about this end, as a phrase that goes on after the VM's name; mostly absent.
    pub advice: Option<String>,
    /// The last lines of the console, at most 20 of at most 200 characters each.
    pub console: Vec<String>,
}

impl ExitRecord {
    /// Returns the end of the daemon, if the agent reported it.
    pub fn daemon_exit(&self) -> Option<&Exit> {
        if self.exit.is_of_daemon() { Some(&self.exit) } else { self.daemon.as_ref() }
    }
}

/// The JSON form of the record.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Text {
    name: String,
    incarnation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<Exit>,
    /// The word of contract 1 for `exit`.
    reason: String,
    #[serde(rename = "ended_at")]
    ended_at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    vmm: Option<ProcessExit>,
    evidence: Vec<String>,
    /// The agent's report in the form of contract 1.
    #[serde(skip_serializing_if = "Option::is_none", with = "generation_1::optional")]
    guest: Option<Exit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
    console: Vec<String>,
}

impl From<ExitRecord> for Text {
    fn from(record: ExitRecord) -> Self {
        let guest = record.daemon_exit().cloned();
        let ExitRecord { name, incarnation, exit, daemon: _, ended_at_ms, vmm, evidence, advice, console } =
            record;
        let reason = reason(&exit).to_owned();
        let exit = Some(exit);
        Self { name, incarnation, exit, reason, ended_at_ms, vmm, evidence, guest, advice, console }
    }
}

impl From<Text> for ExitRecord {
    fn from(text: Text) -> Self {
        let Text { name, incarnation, exit, reason, ended_at_ms, vmm, evidence, guest, advice, console } =
            text;
        // A monitor of an older version may have stored the texts of its guest as they came.
        let all_shown = |texts: Vec<String>| texts.iter().map(|text| shown_up_to(text, LINE_CAP)).collect();
        let (evidence, console): (Vec<String>, Vec<String>) = (all_shown(evidence), all_shown(console));
        let exit = exit.unwrap_or_else(|| exit_of(&reason, guest.as_ref(), vmm, &evidence)).shown();
        let daemon = if exit.is_of_daemon() { None } else { guest };
        let advice = advice.map(|text| shown(&text));
        Self { name, incarnation, exit, daemon, ended_at_ms, vmm, evidence, advice, console }
    }
}

/// Returns the word of contract 1 for an end.
fn reason(exit: &Exit) -> &'static str {
    match exit {
        Exit::Exited { code: 0 } => "completed",
        Exit::Exited { .. } | Exit::NotExecutable { .. } => "failed",
        Exit::VmmCrashed(_) => "vmm-crash",
        Exit::VmmRefused { .. } => "vmm-config",
        Exit::Signalled { .. }
        | Exit::GuestOom
        | Exit::GuestPanic { .. }
        | Exit::GuestReset
        | Exit::HostOom
        | Exit::BootTimeout
        | Exit::AgentLost { .. }
        | Exit::TransportLost
        | Exit::ShareLost { .. }
        | Exit::StopRequested
        | Exit::Killed
        | Exit::Unknown => exit.kind(),
    }
}

/// Returns the end that a record of contract 1 describes. A word that contract 1 does not define gives
/// [`Exit::Unknown`].
fn exit_of(reason: &str, guest: Option<&Exit>, vmm: Option<ProcessExit>, evidence: &[String]) -> Exit {
    let first = || evidence.first().cloned().unwrap_or_default();
    match reason {
        "completed" | "failed" | "signalled" => guest.cloned().unwrap_or_default(),
        "guest-oom" => Exit::GuestOom,
        "guest-panic" => Exit::GuestPanic { line: String::new() },
        "guest-reset" => Exit::GuestReset,
        "host-oom" => Exit::HostOom,
        "vmm-crash" => Exit::VmmCrashed(vmm.unwrap_or_default()),
        "vmm-config" => Exit::VmmRefused { message: first() },
        "boot-timeout" => Exit::BootTimeout,
        "agent-lost" => Exit::AgentLost { message: String::new() },
        "transport-lost" => Exit::TransportLost,
        "share-lost" => Exit::ShareLost { message: first() },
        "stop-requested" => Exit::StopRequested,
        "killed" => Exit::Killed,
        _ => Exit::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::all;
    use super::*;

    #[test]
    fn every_end_survives_its_record() {
        for exit in all() {
            let daemon = (!exit.is_of_daemon()).then(|| Exit::code(143));
            let record =
                ExitRecord { name: "a".into(), incarnation: 7, exit, daemon, ..ExitRecord::default() };
            let text = serde_json::to_string(&record).expect("JSON");
            assert_eq!(serde_json::from_str::<ExitRecord>(&text).expect("reads"), record, "{text}");
        }
    }

    #[test]
    fn a_record_carries_the_fields_of_contract_1() {
        let crashed = Exit::VmmCrashed(ProcessExit { code: None, signal: Some(9) });
        for (exit, word) in [(Exit::code(0), "completed"), (Exit::code(3), "failed"), (crashed, "vmm-crash")]
        {
            let guest = exit.is_of_daemon();
            let json = serde_json::to_value(ExitRecord { exit, ..ExitRecord::default() }).expect("JSON");
            assert_eq!(json["reason"], word);
            assert_eq!(json["guest"].is_object(), guest);
        }
    }

    #[test]
    fn a_record_of_contract_1_alone_reads() {
        let text = r#"{"name":"a","incarnation":2,"reason":"stop-requested","ended_at":5,"vmm":{"code":0},
            "evidence":["a stop was asked for"],"guest":{"code":143},"console":["bye"]}"#;
        let record: ExitRecord = serde_json::from_str(text).expect("reads");
        assert_eq!((&record.exit, record.daemon_exit()), (&Exit::StopRequested, Some(&Exit::code(143))));
        assert_eq!((record.ended_at_ms, record.vmm), (5, Some(ProcessExit { code: Some(0), signal: None })));
        let failed: ExitRecord =
            serde_json::from_str(r#"{"reason":"failed","guest":{"code":3}}"#).expect("reads");
        assert_eq!(failed.exit, Exit::code(3));
    }
}
