//! A snapshot of every VM that anybody may read at any time, also while the actors are busy.

use super::phase::VmPhase;
use crate::spec::{Cid, GroupName, Incarnation, VmName};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// What is known of a VM.
#[derive(Debug, Clone, PartialEq)]
pub struct VmStatus {
    /// Its name.
    pub name: VmName,
    /// Where it is.
    pub phase: VmPhase,
    /// Its newest incarnation; 0 = never started.
    pub incarnation: Incarnation,
    /// Consecutive failures.
    pub attempts: u32,
    /// It is to be up.
    pub wanted: bool,
    /// Its configuration has changed in a way that only a restart brings about.
    pub needs_restart: bool,
    /// Its CID, while it holds one.
    pub cid: Option<Cid>,
    /// Its VMM's process on the host.
    pub vmm_pid: Option<u32>,
    /// Since when it has been in its phase.
    pub since: Instant,
}

/// What is known of a group.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupStatus {
    /// Its name.
    pub name: GroupName,
    /// Its restart window, such as `3/5 in 60s`.
    pub window: String,
    /// Why it is down, when it is.
    pub ended: Option<String>,
    /// Its VMs, in start order.
    pub vms: Vec<VmStatus>,
}

/// What is known of a tree.
#[derive(Debug, Clone, PartialEq)]
pub struct TreeStatus {
    /// Its groups, in the order of the configuration.
    pub groups: Vec<GroupStatus>,
}

impl TreeStatus {
    /// All VMs.
    pub fn vms(&self) -> impl Iterator<Item = &VmStatus> {
        self.groups.iter().flat_map(|group| &group.vms)
    }

    /// One VM.
    pub fn vm(&self, name: &str) -> Option<&VmStatus> {
        self.vms().find(|vm| vm.name.as_str() == name)
    }

    /// The snapshot as JSON; times in milliseconds.
    pub fn to_json(&self) -> Value {
        json!({ "groups": self.groups.iter().map(GroupStatus::to_json).collect::<Vec<_>>() })
    }
}

impl GroupStatus {
    fn to_json(&self) -> Value {
        json!({
            "name": self.name.as_str(),
            "window": self.window,
            "ended": self.ended,
            "vms": self.vms.iter().map(VmStatus::to_json).collect::<Vec<_>>(),
        })
    }
}

impl VmStatus {
    fn to_json(&self) -> Value {
        let ms = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
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
            "phase_ms": ms(self.since.elapsed()),
        });
        match &self.phase {
            VmPhase::Backoff { until, attempt, ending } => {
                json["backoff"] = json!({
                    "in_ms": ms(until.saturating_duration_since(Instant::now())),
                    "attempt": attempt,
                    "ending": super::json::ending(ending),
                });
            }
            VmPhase::Failed { reason } => json["reason"] = json!(reason),
            _ => {}
        }
        json
    }
}

/// Where the groups pin their status. Clones show the same board.
#[derive(Debug, Clone, Default)]
pub struct StatusTable {
    groups: Arc<Mutex<BTreeMap<usize, GroupStatus>>>,
}

impl StatusTable {
    /// An empty board.
    pub fn new() -> Self {
        Self::default()
    }

    /// Changes the status of the group at `place`, and makes it first if need be.
    pub fn update(&self, place: usize, name: &GroupName, change: impl FnOnce(&mut GroupStatus)) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let empty =
            || GroupStatus { name: name.clone(), window: String::new(), ended: None, vms: Vec::new() };
        change(groups.entry(place).or_insert_with(empty));
    }

    /// Takes a group off the board.
    pub fn remove(&self, place: usize) {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).remove(&place);
    }

    /// Everything, as it is now.
    pub fn snapshot(&self) -> TreeStatus {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        TreeStatus { groups: groups.values().cloned().collect() }
    }
}
