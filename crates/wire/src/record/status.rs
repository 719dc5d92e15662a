//! The status of a VM: what `pepita status` prints and a monitor answers.

use crate::exit::{Exit, ExitRecord};
use crate::image::UsedImage;
use crate::record::jail::JailStatus;
use crate::record::timings::Timings;
use crate::record::usage::{HostLimits, HostUsage, PortUse};
use crate::text::shown;
use crate::usage::{DiskUsage, GuestUsage};
use core::net::Ipv4Addr;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// The state of a VM, as its monitor sees the VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum VmState {
    /// The name of the VM is taken, and nothing runs yet.
    Created,
    /// The VMM runs, and the daemon does not run (yet); with `--hold`, the daemon waits for `pepita start`.
    Starting,
    /// The daemon runs.
    Running,
    /// The virtual CPUs are paused.
    Paused,
    /// The VM is shutting down.
    Stopping,
    /// The VM has ended cleanly, or a client asked for its end.
    Stopped,
    /// The VM has ended in any other way.
    Failed,
    /// The state is not known, for example because the monitor died.
    #[default]
    #[serde(other)]
    Unknown,
}

impl VmState {
    /// Returns whether the VM has ended. A VM that has ended has an exit record.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed)
    }

    /// Returns the state of a VM after this end: `stopped` after a clean or requested end, else `failed`.
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
            | Exit::ShareLost { .. }
            | Exit::Unknown => Self::Failed,
        }
    }
}

/// The transport to the guest's vsock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// AF_VSOCK of the host's kernel (vhost_vsock).
    Vhost,
    /// A Unix socket of the vsock back-end that expects the line `CONNECT <port>` first, as in Firecracker and
    /// cloud-hypervisor.
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
    /// The transport to the guest.
    pub transport: Transport,
    /// The path of the Unix socket, on the hybrid transport.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uds: Option<String>,
}

/// The last state of the connection to the guest agent that the monitor knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentState {
    /// Whether the hellos are exchanged and the connection is open.
    pub ready: bool,
    /// The version of the protocol that both sides speak.
    #[serde(rename = "generation")]
    pub protocol_version: u32,
    /// The time since the last line of the agent, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_heard_ms: Option<u64>,
    /// The incarnation that the guest was booted as, and that its agent expects in a hello, when the VM was promoted from a
    /// warm spare since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<u64>,
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
    /// The daemon runs. In JSON the word is `started`, because callers search the text for `running` to get the state
    /// of the VM, and this VM may be paused.
    #[serde(rename = "started", alias = "running")]
    Running,
    /// The daemon runs and has sent `READY=1` (sd_notify(3)).
    Ready,
    /// The daemon has ended.
    Exited,
    /// A state of a newer monitor, which this program does not know.
    #[serde(other)]
    Unknown,
}

/// The part of a status about the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DaemonStatus {
    /// The process id of the daemon in the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The state of the daemon.
    pub state: DaemonState,
    /// The last `STATUS=` text of the daemon (sd_notify(3)), at most 256 characters.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "read_shown")]
    pub status: String,
}

/// Reads a text of a guest. A monitor of an older version may have passed it on as it came.
fn read_shown<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).map(|text| shown(&text))
}

/// The state of the virtual CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VcpuState {
    /// The virtual CPUs run. The guest may be idle or busy.
    Running,
    /// The virtual CPUs are paused.
    Paused,
}

/// The part of a status about the virtual CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuStatus {
    /// Whether the virtual CPUs run or are paused.
    pub state: VcpuState,
}

/// The times of a boot, each in milliseconds since the start of the VMM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BootTimes {
    /// The time at which the guest's kernel wrote its first bytes on the console.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<u64>,
    /// The time at which the agent's hello was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<u64>,
    /// The time at which the daemon was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daemon: Option<u64>,
}

/// The way in which a VM that runs can be reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// The monitor runs and does not answer. The record says what the monitor wrote last.
    Silent,
    /// The run directory is gone, or its files are, while the processes of the VM run. The record says what the
    /// processes tell.
    Vanished,
    /// The usual way: over the control socket of its monitor, or through the files of its run directory.
    #[default]
    #[serde(other)]
    Usual,
}

impl Reach {
    fn is_usual(&self) -> bool {
        *self == Self::Usual
    }
}

/// The status of a VM. `pepita status` prints one record, `pepita list --json` a record for each VM.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusRecord {
    /// The name of the VM.
    pub name: String,
    /// The state of the VM.
    pub state: VmState,
    /// The number of this start of the VM, counted by the program that starts the VM.
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
    /// The time at which the VM was started, in milliseconds since the Unix epoch.
    pub started_at: u64,
    /// The time since the start, in milliseconds. The number stays the same after the end of the VM.
    pub uptime_ms: u64,
    /// The vsock address of the guest agent.
    pub vsock: VsockStatus,
    /// The address at which this host reaches the guest, with the network `tap`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// The state of the guest agent that the monitor knows.
    pub agent: AgentState,
    /// The times of the steps of the boot.
    pub boot_ms: BootTimes,
    /// The parts of the start with their times; absent in a record of a monitor of an earlier version. After a promotion
    /// the start is the promotion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timings: Option<Box<Timings>>,
    /// The mechanism that enforces the limits on memory and CPU: `cgroup2`, `rlimit` or `none`.
    pub limits: String,
    /// The jails of the VMM and its back-end; absent for processes in no jail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jail: Option<Box<JailStatus>>,
    /// The limits in force. Only `pepita status` tells them, of a VM that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_limits: Option<Box<HostLimits>>,
    /// The reason why the stored files of the VM cannot be read. Such a VM is left as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
    /// The way in which the VM can be reached; absent = the usual one.
    #[serde(skip_serializing_if = "Reach::is_usual")]
    pub reach: Reach,
    /// The last error of the host's disk under the guest's disk, which the guest got as an error of its own:
    /// `write: No space left on device`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_error: Option<String>,
    /// The ports that the VM publishes, as [`crate::Publish`] is written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// The use of the published ports. Only `pepita status` tells it, of a VM that runs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port_use: Vec<PortUse>,
    /// The container image that the VM boots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Box<UsedImage>>,
    /// What the VM uses of its host. Only `pepita status` tells it, of a VM that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Box<HostUsage>>,
    /// What the guest uses, as its agent tells it. Only `pepita status` tells it, of a VM that runs; absent when the guest does
    /// not answer, or its agent is too old.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<Box<GuestUsage>>,
    /// The use of the disks. Only `pepita status` tells it, of a VM that runs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskUsage>,
    /// The path of the run directory.
    pub dir: String,
    /// The labels that the VM was launched with.
    pub labels: BTreeMap<String, String>,
    /// The time for which the VM is idle, in milliseconds: no connection to a published port is open, no client of the agent
    /// has a command or a copy under way, and the daemon has not asked to stay awake. Absent while the VM is in use, and
    /// unless a client has asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_ms: Option<u64>,
    /// Whether the virtual CPUs are paused until a client comes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub asleep: bool,
    /// The number of console bytes that are not, or no longer, in the log.
    pub dropped_log_bytes: u64,
    /// The revision of the status, which grows with each change. `watch` waits for a different revision.
    #[serde(rename = "generation")]
    pub revision: u64,
    /// The time that is left to a daemon that is being stopped, in milliseconds; absent when no daemon has a grace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_left_ms: Option<u64>,
    /// The state of the daemon.
    pub daemon: DaemonStatus,
    /// The exit record; absent while the VM has not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitRecord>,
}
