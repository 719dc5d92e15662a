//! The records that `pepita` prints and keeps: status, exit, version, error.
//!
//! Some callers search these texts (`"state": "running"`, one space after the colon), so [`pretty`] is part of the
//! contract, and no part of a record uses a word of [`VmState`] with another meaning. Such callers do not know the
//! state `starting`: in the record of a VM that starts, they find that the virtual CPUs run. Fields with texts of a
//! guest come last.

mod call;
mod jail;
mod status;
mod timings;
mod usage;

pub use call::{CallError, CallErrorKind, VersionRecord, VmmAvailability};
pub use jail::{JailStatus, LayerStatus, ProcessJail};
pub use status::{
    AgentState, BootTimes, DaemonState, DaemonStatus, Reach, StatusRecord, Transport, VcpuState, VcpuStatus,
    VmState, VsockStatus,
};
pub use timings::{Part, TimedPart, Timings};
pub use usage::{HostLimits, HostUsage, PortUse, ProcessUsage};

use serde::Serialize;

/// Returns a record as JSON for people, with two spaces of indent and one space after each colon.
pub fn pretty(record: &impl Serialize) -> String {
    serde_json::to_string_pretty(record)
        .expect("records hold only strings, numbers, lists and maps with string keys")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::ExitRecord;

    #[test]
    fn a_status_says_its_state_with_one_space_after_the_colon() {
        let record = StatusRecord { name: "a".into(), state: VmState::Running, ..Default::default() };
        assert!(pretty(&record).contains("\"state\": \"running\""));
    }

    /// Reads a state as duende-core 0.2.0 does, which searches the text and does not parse the record.
    fn found_in(record: &StatusRecord) -> &'static str {
        let text = pretty(record);
        let words = ["running", "paused", "failed"];
        words.into_iter().find(|word| text.contains(&format!("\"state\": \"{word}\""))).unwrap_or("stopped")
    }

    #[test]
    fn a_caller_that_searches_the_text_finds_the_vm_s_state_and_no_other() {
        let vcpus = |state| Some(VcpuStatus { state });
        let daemon = |state| DaemonStatus { pid: Some(1), state, ..DaemonStatus::default() };
        let cases = [
            (VmState::Created, None, DaemonState::Pending, "stopped"),
            (VmState::Starting, vcpus(VcpuState::Running), DaemonState::Pending, "running"),
            (VmState::Running, vcpus(VcpuState::Running), DaemonState::Running, "running"),
            (VmState::Paused, vcpus(VcpuState::Paused), DaemonState::Running, "paused"),
            (VmState::Paused, vcpus(VcpuState::Paused), DaemonState::Ready, "paused"),
            (VmState::Stopping, vcpus(VcpuState::Running), DaemonState::Exited, "running"),
            (VmState::Stopped, None, DaemonState::Exited, "stopped"),
            (VmState::Failed, None, DaemonState::Exited, "failed"),
        ];
        for (state, vcpus, of_daemon, expected) in cases {
            let exit = state.is_terminal().then(|| ExitRecord {
                // A guest may write any text. In JSON its quotes are escaped, so it cannot imitate a field.
                console: vec!["\"state\": \"running\"".into()],
                ..ExitRecord::default()
            });
            let record = StatusRecord { state, vcpus, daemon: daemon(of_daemon), exit, ..Default::default() };
            assert_eq!(found_in(&record), expected, "{state}");
        }
    }

    #[test]
    fn a_daemon_that_runs_is_read_in_the_older_word_too() {
        for word in ["started", "running"] {
            let status: DaemonStatus =
                serde_json::from_str(&format!(r#"{{"state":"{word}"}}"#)).expect("a daemon's status");
            assert_eq!(status.state, DaemonState::Running);
        }
    }

    #[test]
    fn older_programs_find_the_revision_and_the_protocol_version_by_their_names() {
        let agent = AgentState { protocol_version: 1, ..AgentState::default() };
        let record = StatusRecord { revision: 7, agent, ..Default::default() };
        let json = serde_json::to_value(&record).expect("a record becomes JSON");
        assert_eq!((json["generation"].as_u64(), json["agent"]["generation"].as_u64()), (Some(7), Some(1)));
        assert_eq!(serde_json::from_value::<StatusRecord>(json).expect("a record"), record);
    }

    #[test]
    fn a_record_of_an_older_or_newer_launcher_still_reads() {
        let record: StatusRecord = serde_json::from_str(r#"{"name":"a","state":"levitating","later":1}"#)
            .expect("unknown words are no error");
        assert_eq!((record.name.as_str(), record.state), ("a", VmState::Unknown));
    }
}
