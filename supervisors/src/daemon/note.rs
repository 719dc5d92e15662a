//! The notes of `pepitad` about itself, which it reports beside the events of its tree, as data and as a sentence.

use crate::config::amount;
use crate::format::format_duration;
use crate::printer::Note;
use pepita_supervisor::OnExit;
use serde_json::{Value, json};
use std::fmt;
use std::time::Duration;

/// A note of `pepitad` about itself.
#[derive(Debug)]
pub(super) enum Report {
    /// The tree was started.
    Started { name: String, pid: u32, vms: usize, groups: usize, on_exit: OnExit },
    /// All VMs are stopped in order, within this time.
    Stopping { limit: Duration },
    /// The VMs are left running.
    Leaving,
    /// All VMs are destroyed at once.
    Destroying,
    /// A signal asked for the end, which is under way already.
    EndingAlready,
    /// A client of the control socket made a request.
    Requested { method: String, params: Value },
    /// The configuration was read again; `plan` is empty when nothing differs.
    Reloaded { plan: String },
    /// The configuration was read again and refused. `why` contains all its mistakes, which are printed on standard
    /// error.
    NotReloaded { why: String },
    /// The end waits for these VMs.
    WaitingFor { vms: Vec<WaitingVm> },
}

/// A VM that the end waits for.
#[derive(Debug)]
pub(super) struct WaitingVm {
    pub(super) name: String,
    pub(super) phase: &'static str,
    pub(super) since: Duration,
}

impl Report {
    fn data(&self) -> Value {
        match self {
            Self::Started { name, pid, vms, groups, on_exit } => json!({
                "kind": "started", "name": name, "vms": vms, "groups": groups, "pid": pid,
                "on_exit": match on_exit { OnExit::Stop => "stop", OnExit::Leave => "leave" },
            }),
            Self::Stopping { limit } => {
                json!({ "kind": "stopping", "limit_ms": u64::try_from(limit.as_millis()).unwrap_or(u64::MAX) })
            }
            Self::Leaving => json!({ "kind": "leaving" }),
            Self::Destroying => json!({ "kind": "destroying" }),
            Self::EndingAlready => json!({ "kind": "ending-already" }),
            Self::Requested { method, params } => {
                json!({ "kind": "requested", "method": method, "params": params })
            }
            Self::Reloaded { plan } => json!({ "kind": "reloaded", "changed": !plan.is_empty() }),
            Self::NotReloaded { why } => json!({ "kind": "not-reloaded", "why": why }),
            Self::WaitingFor { vms } => {
                let names: Vec<&str> = vms.iter().map(|vm| vm.name.as_str()).collect();
                json!({ "kind": "waiting-for", "vms": names })
            }
        }
    }
}

impl From<Report> for Note {
    fn from(report: Report) -> Self {
        Self { text: report.to_string(), data: report.data() }
    }
}

impl fmt::Display for WaitingVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} for {})", self.name, self.phase, format_duration(self.since))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { name, pid, vms, groups, on_exit } => {
                let end = match on_exit {
                    OnExit::Stop => "stops them in order",
                    OnExit::Leave => "leaves them running",
                };
                let amount = amount(*vms, *groups);
                write!(f, "{name} supervises {amount} (pid {pid}); Ctrl-C {end}")
            }
            Self::Stopping { limit } => write!(
                f,
                "stopping all VMs in order, within {}; a second signal destroys them at once",
                format_duration(*limit)
            ),
            Self::Leaving => f.write_str("ending; the VMs keep running, and the next start takes them over"),
            Self::Destroying => f.write_str("destroying all VMs at once"),
            Self::EndingAlready => f.write_str("the end is under way already"),
            Self::Requested { method, params } => {
                write!(f, "requested over the control socket: {method} {params}")
            }
            Self::Reloaded { plan } if plan.is_empty() => f.write_str("reloaded: nothing has changed"),
            Self::Reloaded { plan } => write!(f, "reloaded:\n{plan}"),
            Self::NotReloaded { .. } => f.write_str("not reloaded; the former configuration stays in force"),
            Self::WaitingFor { vms } => {
                let vms: Vec<String> = vms.iter().map(ToString::to_string).collect();
                write!(f, "waiting for {}", vms.join(", "))
            }
        }
    }
}
