//! What is known of a VM now.

use crate::exit::{Exit, ExitRecord};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

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
    /// The version of the protocol that both sides speak.
    #[serde(rename = "generation")]
    pub protocol_version: u32,
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
    /// Why the stored files of the VM cannot be read; such a VM is left as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
    /// The run directory.
    pub dir: String,
    /// The launcher's labels.
    pub labels: BTreeMap<String, String>,
    /// Console bytes that no longer are, or never were, in the log.
    pub dropped_log_bytes: u64,
    /// Grows with each change; `watch` waits for a revision that is another one than a number.
    #[serde(rename = "generation")]
    pub revision: u64,
    /// The daemon.
    pub daemon: DaemonStatus,
    /// How it ended, once it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitRecord>,
}
