//! Why a VM ended.

use crate::agent::DaemonExit;
use serde::{Deserialize, Serialize};
use std::fmt;

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
