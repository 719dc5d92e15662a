//! The records that `pepita` prints and keeps: status, exit, version, error.
//!
//! Callers search these texts (`"state": "running"`, one space after the colon), so [`pretty`] is part of the contract,
//! and no part of a record uses a word of [`VmState`] for another thing. Such a caller knows no VM that starts: that its
//! virtual CPUs run is what it finds then.
//! Fields that a guest can fill stand last.

use crate::agent::DaemonExit;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Pretty-printed JSON, two spaces of indent and one space after each colon.
pub fn pretty(record: &impl Serialize) -> String {
    serde_json::to_string_pretty(record)
        .expect("records hold only strings, numbers, lists and maps with string keys")
}

/// Where a VM is in its life, as its monitor sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmState {
    /// Its name is taken, nothing runs yet.
    Created,
    /// The VMM runs, the daemon does not yet (with `--hold`: is not to).
    Starting,
    /// The daemon runs.
    Running,
    /// Its virtual CPUs stand still.
    Paused,
    /// On its way down.
    Stopping,
    /// It has ended cleanly or because it was told to.
    Stopped,
    /// It has ended otherwise.
    Failed,
    /// Nobody can say, for example because its monitor died.
    #[default]
    #[serde(other)]
    Unknown,
}

impl VmState {
    /// Nothing more will happen: there is an exit record.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed)
    }
}

impl fmt::Display for VmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        })
    }
}

/// How the host reaches the guest's vsock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// AF_VSOCK of the host's kernel (vhost_vsock).
    Vhost,
    /// A Unix socket that wants `CONNECT <port>` first, as Firecracker and cloud-hypervisor have it.
    #[default]
    Hybrid,
}

/// The vsock part of a status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VsockStatus {
    /// The guest's CID.
    pub cid: u32,
    /// The agent's port.
    pub port: u32,
    /// How to get there.
    pub transport: Transport,
    /// The Unix socket, on the hybrid transport.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uds: Option<String>,
}

/// The guest agent, as the monitor last heard of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentState {
    /// The hello was exchanged.
    pub ready: bool,
    /// The generation agreed on.
    pub generation: u32,
    /// Milliseconds since its last line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_heard_ms: Option<u64>,
}

/// What the daemon in the guest does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DaemonState {
    /// Not started: still booting.
    #[default]
    Pending,
    /// Not started, because the VM was launched with `--hold`.
    Held,
    /// It runs. Not called `running`, which callers look for to know of the VM: this VM may be paused.
    #[serde(rename = "started", alias = "running")]
    Running,
    /// It runs and has said `READY=1`.
    Ready,
    /// It has ended.
    Exited,
    /// A state that a newer monitor knows.
    #[serde(other)]
    Unknown,
}

/// The daemon's part of a status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DaemonStatus {
    /// Its pid in the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// What it does.
    pub state: DaemonState,
    /// What it last said of itself (`STATUS=` of sd_notify(3)), at most 256 bytes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
}

/// What the virtual CPUs do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VcpuState {
    /// They run, whatever the guest makes of it.
    Running,
    /// They stand still.
    Paused,
}

/// The virtual CPUs' part of a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuStatus {
    /// What they do.
    pub state: VcpuState,
}

/// Milliseconds from the VMM's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BootTimes {
    /// The guest's kernel wrote its first bytes on the console.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<u64>,
    /// The agent's hello was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<u64>,
    /// The daemon was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daemon: Option<u64>,
}

/// What `pepita status` prints and `pepita list --json` has one of for each VM.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusRecord {
    /// The VM's name.
    pub name: String,
    /// Where it is in its life.
    pub state: VmState,
    /// Which start of this VM it is, counted by whoever starts it.
    pub incarnation: u64,
    /// Its virtual CPUs; absent before the VMM runs and after it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<VcpuStatus>,
    /// `qemu` or `process`.
    pub vmm: String,
    /// `kvm`, `tcg` or `none`.
    pub accel: String,
    /// The VMM's process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vmm_pid: Option<u32>,
    /// The monitor's process; absent when nobody watches the VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitor_pid: Option<u32>,
    /// Milliseconds since the Unix epoch.
    pub started_at: u64,
    /// Milliseconds since the start; stands still once it has ended.
    pub uptime_ms: u64,
    /// How to reach its agent.
    pub vsock: VsockStatus,
    /// The agent.
    pub agent: AgentState,
    /// Times of the boot.
    pub boot_ms: BootTimes,
    /// How limits on memory and CPU are held: `cgroup2`, `rlimit` or `none`.
    pub limits: String,
    /// The run directory.
    pub dir: String,
    /// The launcher's labels.
    pub labels: BTreeMap<String, String>,
    /// Console bytes that no longer are, or never were, in the log.
    pub dropped_log_bytes: u64,
    /// Grows with each change; `watch` waits for one beyond a number.
    pub generation: u64,
    /// The daemon.
    pub daemon: DaemonStatus,
    /// How it ended, once it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitRecord>,
}

/// Why a VM ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitReason {
    /// The daemon exited with 0.
    Completed,
    /// The daemon exited with another code, or could not be executed.
    Failed,
    /// The daemon died of a signal.
    Signalled,
    /// The guest's kernel panicked.
    GuestPanic,
    /// The guest's OOM killer took the daemon.
    GuestOom,
    /// The host's OOM killer took the VMM.
    HostOom,
    /// The guest rebooted or powered off without a word of its agent.
    GuestReset,
    /// The VMM died.
    VmmCrash,
    /// The VMM refused its arguments or its images.
    VmmConfig,
    /// The agent did not come up in time.
    BootTimeout,
    /// The agent no longer answered.
    AgentLost,
    /// It was asked to stop and did.
    StopRequested,
    /// It was asked to end at once (`destroy --force`, `signal KILL`).
    Killed,
    /// The vsock back-end died.
    TransportLost,
    /// Nobody saw it.
    #[default]
    #[serde(other)]
    Unknown,
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Signalled => "signalled",
            Self::GuestPanic => "guest-panic",
            Self::GuestOom => "guest-oom",
            Self::HostOom => "host-oom",
            Self::GuestReset => "guest-reset",
            Self::VmmCrash => "vmm-crash",
            Self::VmmConfig => "vmm-config",
            Self::BootTimeout => "boot-timeout",
            Self::AgentLost => "agent-lost",
            Self::StopRequested => "stop-requested",
            Self::Killed => "killed",
            Self::TransportLost => "transport-lost",
            Self::Unknown => "unknown",
        })
    }
}

/// How a host process ended: one of the two, or neither when nobody could see it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessExit {
    /// It exited with this code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// It died of this signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

/// How a VM ended. Written once, before the state turns terminal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExitRecord {
    /// The VM's name.
    pub name: String,
    /// Which of its incarnations.
    pub incarnation: u64,
    /// Why.
    pub reason: ExitReason,
    /// Milliseconds since the Unix epoch.
    pub ended_at: u64,
    /// How the VMM ended; absent when nobody could see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vmm: Option<ProcessExit>,
    /// What the reason rests on, strongest first, one sentence each.
    pub evidence: Vec<String>,
    /// How the daemon ended; absent when the guest did not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<DaemonExit>,
    /// The last lines of the console, at most 20 of at most 200 characters each.
    pub console: Vec<String>,
}

/// What `pepita --version --json` prints. A program that does not print this is not this `pepita`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// Always `pepita-launcher`.
    pub name: String,
    /// The launcher's version.
    pub version: String,
    /// See [`crate::CONTRACT`].
    pub contract: u32,
    /// Which VMMs can be used here.
    #[serde(default)]
    pub vmms: Vec<VmmAvailability>,
}

/// Whether a VMM can be used, or why not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VmmAvailability {
    /// `qemu` or `process`.
    pub name: String,
    /// It can be used.
    pub usable: bool,
    /// Its version, or why it cannot be used.
    pub detail: String,
}

/// What a failed call prints on stderr with `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallError {
    /// For programs; see [`CallErrorKind::exit_code`] for the numbers that go with it.
    pub kind: CallErrorKind,
    /// The VM it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What happened and what to do, for people.
    pub message: String,
}

/// The stable part of a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CallErrorKind {
    /// A bad option, name or number.
    Usage,
    /// No VM of that name.
    NoSuchVm,
    /// The VMM or another program is missing, or refused.
    VmmMissing,
    /// The name is taken.
    NameTaken,
    /// The CID is taken.
    CidTaken,
    /// An image is missing or no image.
    BadImage,
    /// Reading or writing failed.
    Io,
    /// Try again.
    TryAgain,
    /// Not allowed.
    Permission,
    /// It took too long.
    Timeout,
    /// A mistake in pepita.
    #[serde(other)]
    Internal,
}

impl CallErrorKind {
    /// The exit code of a management call, after sysexits.h.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 64,
            Self::NoSuchVm => 4,
            Self::VmmMissing => 69,
            Self::NameTaken | Self::CidTaken => 73,
            Self::BadImage => 66,
            Self::Io => 74,
            Self::TryAgain => 75,
            Self::Permission => 77,
            Self::Timeout => 124,
            Self::Internal => 70,
        }
    }

    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_recoverable(self) -> bool {
        match self {
            Self::CidTaken | Self::Io | Self::TryAgain | Self::Timeout | Self::Internal => true,
            Self::Usage
            | Self::NoSuchVm
            | Self::VmmMissing
            | Self::NameTaken
            | Self::BadImage
            | Self::Permission => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_its_state_with_one_space_after_the_colon() {
        let record = StatusRecord { name: "a".into(), state: VmState::Running, ..Default::default() };
        assert!(pretty(&record).contains("\"state\": \"running\""));
    }

    /// What a client does that reads the text and not the record (duende-core 0.2.0).
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
                // A guest may write what it likes; in a JSON text its quotes are escaped.
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
    fn a_record_of_an_older_or_newer_launcher_still_reads() {
        let record: StatusRecord = serde_json::from_str(r#"{"name":"a","state":"levitating","later":1}"#)
            .expect("unknown words are no error");
        assert_eq!((record.name.as_str(), record.state), ("a", VmState::Unknown));
    }
}
