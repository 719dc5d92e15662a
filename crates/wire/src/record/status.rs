//! The status of a VM: what `pepita status` prints and a monitor answers.

use crate::exit::{Exit, ExitRecord};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where a VM is in its life, as its monitor sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum VmState {
    /// The name of the VM is taken, and nothing runs yet.
    Created,
    /// The VMM runs and the daemon does not, or not yet; with `--hold`, the daemon waits for `pepita start`.
    Starting,
    /// The daemon runs.
    Running,
    /// The virtual CPUs stand still.
    Paused,
    /// The VM is on its way down.
    Stopping,
    /// The VM has ended cleanly, or its end was asked for.
    Stopped,
    /// The VM has ended in any other way.
    Failed,
    /// The state is not known, for example because the monitor died.
    #[default]
    #[serde(other)]
    Unknown,
}

impl VmState {
    /// Returns whether the VM has ended: then there is an exit record.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed)
    }

    /// Returns the state of a VM that ended so: `stopped` after a clean or requested end, else `failed`.
    pub fn after(exit: &Exit) -> Self {
        match exit {
            Exit::Exited { code: 0 } | Exit::StopRequested | Exit::Killed => Self::Stopped,
            Exit::Exited { .. }
            | Exit::Signalled { .. }
            | Exit::NotExecutable { .. }
            | Exit::GuestOom
            | Exit::GuestPanic { .. }
            | Exit::GuestReset
            | Exit::HostOom
            | Exit::VmmCrashed(_)
            | Exit::VmmRefused { .. }
            | Exit::BootTimeout
            | Exit::AgentLost { .. }
            | Exit::TransportLost
            | Exit::Unknown => Self::Failed,
        }
    }
}

/// How the host reaches the guest's vsock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// AF_VSOCK of the host's kernel (vhost_vsock).
    Vhost,
    /// A Unix socket of the vsock back-end that wants `CONNECT <port>` first, as Firecracker and cloud-hypervisor
    /// have it.
    #[default]
    Hybrid,
}

/// The vsock part of a status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VsockStatus {
    /// The CID of the guest.
    pub cid: u32,
    /// The vsock port of the agent.
    pub port: u32,
    /// The way to the guest.
    pub transport: Transport,
    /// The path of the Unix socket, on the hybrid transport.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uds: Option<String>,
}

/// The guest agent, as the monitor last knew it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentState {
    /// Whether the hellos are exchanged and the connection stands.
    pub ready: bool,
    /// The version of the protocol that both sides speak.
    #[serde(rename = "generation")]
    pub protocol_version: u32,
    /// Milliseconds since the last line of the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_heard_ms: Option<u64>,
}

/// The state of the daemon in the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DaemonState {
    /// The daemon was not started yet: the guest boots.
    #[default]
    Pending,
    /// The daemon was not started, because the VM was launched with `--hold`.
    Held,
    /// The daemon runs. In JSON the word is `started`: callers search the text for `running` to know of the VM, and this
    /// VM may be paused.
    #[serde(rename = "started", alias = "running")]
    Running,
    /// The daemon runs and has sent `READY=1` (sd_notify(3)).
    Ready,
    /// The daemon has ended.
    Exited,
    /// A state that only a newer monitor knows.
    #[serde(other)]
    Unknown,
}

/// The part of a status that tells of the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DaemonStatus {
    /// The process id of the daemon in the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The state of the daemon.
    pub state: DaemonState,
    /// The last `STATUS=` text of the daemon (sd_notify(3)), at most 256 bytes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
}

/// The state of the virtual CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VcpuState {
    /// The virtual CPUs run, whatever the guest does with them.
    Running,
    /// The virtual CPUs stand still.
    Paused,
}

/// The part of a status that tells of the virtual CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuStatus {
    /// Whether they run.
    pub state: VcpuState,
}

/// The times of a boot, each in milliseconds since the start of the VMM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BootTimes {
    /// When the guest's kernel wrote its first bytes on the console.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<u64>,
    /// When the agent's hello was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<u64>,
    /// When the daemon was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daemon: Option<u64>,
}

/// The status of a VM. `pepita status` prints one, `pepita list --json` one for each VM.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusRecord {
    /// The name of the VM.
    pub name: String,
    /// Where the VM is in its life.
    pub state: VmState,
    /// The number of this start of the VM, counted by the program that starts it.
    pub incarnation: u64,
    /// The virtual CPUs; absent before the VMM runs and after it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<VcpuStatus>,
    /// The kind of VMM: `qemu` or `process`.
    pub vmm: String,
    /// The acceleration: `kvm`, `tcg` or `none`.
    pub accel: String,
    /// The process id of the VMM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vmm_pid: Option<u32>,
    /// The process id of the monitor; absent when no monitor watches the VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitor_pid: Option<u32>,
    /// When the VM was started, in milliseconds since the Unix epoch.
    pub started_at: u64,
    /// Milliseconds since the start; the number stays when the VM has ended.
    pub uptime_ms: u64,
    /// How to reach the guest agent.
    pub vsock: VsockStatus,
    /// What the monitor knows of the agent.
    pub agent: AgentState,
    /// When the boot came to which point.
    pub boot_ms: BootTimes,
    /// What enforces the limits on memory and CPU: `cgroup2`, `rlimit` or `none`.
    pub limits: String,
    /// Why the stored files of the VM cannot be read; such a VM is left as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
    /// The path of the run directory.
    pub dir: String,
    /// The labels that the VM was launched with.
    pub labels: BTreeMap<String, String>,
    /// The number of console bytes that the log does not hold (any more).
    pub dropped_log_bytes: u64,
    /// Grows with each change; `watch` waits for a revision that is another one than a number.
    #[serde(rename = "generation")]
    pub revision: u64,
    /// What is known of the daemon.
    pub daemon: DaemonStatus,
    /// How the VM ended, once it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitRecord>,
}
