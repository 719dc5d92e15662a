//! A snapshot of every VM. Any thread may read it at any time, also while the actors are busy.

use super::json;
use super::phase::VmPhase;
use crate::policy::{GroupEnd, WindowCount};
use crate::spec::{Cid, GroupName, Incarnation, VmName};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The status of a VM.
#[derive(Debug, Clone, PartialEq)]
pub struct VmStatus {
    /// The VM's name.
    pub name: VmName,
    /// The phase that the VM is in.
    pub phase: VmPhase,
    /// The newest incarnation; 0 = never started.
    pub incarnation: Incarnation,
    /// Consecutive counted failures.
    pub attempts: u32,
    /// Whether the VM is to be up.
    pub wanted: bool,
    /// Whether the VM runs with a configuration that has since changed in a way that needs a restart.
    pub needs_restart: bool,
    /// The CID, while the VM holds one.
    pub cid: Option<Cid>,
    /// The process id of the VMM on the host.
    pub vmm_pid: Option<u32>,
    /// The time since which the VM has been in its phase.
    pub since: Instant,
}

/// The status of a group.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupStatus {
    /// The group's name.
    pub name: GroupName,
    /// The state of the restart window when the status changed last.
    pub window: WindowCount,
    /// How the group ended, while it is down.
    pub ended: Option<GroupEnd>,
    /// The VMs, in start order.
    pub vms: Vec<VmStatus>,
}

/// The status of a tree.
#[derive(Debug, Clone, PartialEq)]
pub struct TreeStatus {
    /// The groups, in the order of the configuration.
    pub groups: Vec<GroupStatus>,
}

impl TreeStatus {
    /// Returns the VMs of all groups, in start order.
    pub fn vms(&self) -> impl Iterator<Item = &VmStatus> {
        self.groups.iter().flat_map(|group| &group.vms)
    }

    /// Returns the VM of this name.
    pub fn vm(&self, name: &str) -> Option<&VmStatus> {
        self.vms().find(|vm| vm.name.as_str() == name)
    }

    /// Returns the snapshot as JSON; times in milliseconds.
    pub fn to_json(&self) -> Value {
        json!({ "groups": self.groups.iter().map(GroupStatus::to_json).collect::<Vec<_>>() })
    }
}

impl GroupStatus {
    fn to_json(&self) -> Value {
        json!({
            "name": self.name.as_str(),
            "window": json::window(&self.window),
            "ended": self.ended.as_ref().map(json::group_end),
            "vms": self.vms.iter().map(VmStatus::to_json).collect::<Vec<_>>(),
        })
    }
}

impl VmStatus {
    fn to_json(&self) -> Value {
        let mut json = json!({
            "name": self.name.as_str(),
            "id": self.name.id().as_str(),
            "phase": self.phase.word(),
            "incarnation": self.incarnation.0,
            "attempts": self.attempts,
            "wanted": self.wanted,
            "needs_restart": self.needs_restart,
            "cid": self.cid.map(Cid::get),
            "vmm_pid": self.vmm_pid,
            "phase_ms": json::milliseconds(self.since.elapsed()),
        });
        match &self.phase {
            VmPhase::Backoff { until, attempt, ending } => {
                json["backoff"] = json!({
                    "in_ms": json::milliseconds(until.saturating_duration_since(Instant::now())),
                    "attempt": attempt,
                    "ending": json::ending(ending),
                });
            }
            VmPhase::Failed(failure) => {
                json["reason"] = json!(failure.to_string());
                json["failure"] = json::failure(failure);
            }
            VmPhase::Stopped
            | VmPhase::Waiting
            | VmPhase::Starting
            | VmPhase::Running
            | VmPhase::Ready
            | VmPhase::Unhealthy
            | VmPhase::Paused
            | VmPhase::Stopping
            | VmPhase::Completed => {}
        }
        json
    }
}

/// The status of all groups, each in the slot that the root has given it. All clones share one table.
#[derive(Debug, Clone, Default)]
pub struct StatusTable {
    groups: Arc<Mutex<BTreeMap<usize, GroupStatus>>>,
}

impl StatusTable {
    /// Makes an empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Changes the status in `slot`, which is made first if it does not exist.
    pub fn update(&self, slot: usize, name: &GroupName, change: impl FnOnce(&mut GroupStatus)) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let empty = || GroupStatus {
            name: name.clone(),
            window: WindowCount { count: 0, max: 0, period: Duration::ZERO },
            ended: None,
            vms: Vec::new(),
        };
        change(groups.entry(slot).or_insert_with(empty));
    }

    /// Removes a group.
    pub fn remove(&self, slot: usize) {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
    }

    /// Returns the present status of all groups.
    pub fn snapshot(&self) -> TreeStatus {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        TreeStatus { groups: groups.values().cloned().collect() }
    }
}
