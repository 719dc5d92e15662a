//! A snapshot of every VM. Any thread may read it at any time, also while the actors are busy.

use super::json;
use super::phase::VmPhase;
use super::probe::ProbeStatus;
use crate::policy::{GroupEnd, WindowCount};
use crate::spec::{Cid, GroupName, Incarnation, Strategy, VmName, Vmm};
use pepita_wire::record::PortUse;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::Bound;
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
    /// The program that runs the VM.
    pub vmm: Vmm,
    /// The CID, while the VM holds one.
    pub cid: Option<Cid>,
    /// The process id of the VMM on the host.
    pub vmm_pid: Option<u32>,
    /// Whether the launch of the VM waits until the supervisor has free file descriptors.
    pub awaits_descriptors: bool,
    /// The time since which the VM has been in its phase.
    pub since: Instant,
    /// The newest result of its probes. Of a VM that is down, only a failed one.
    pub probe: Option<ProbeStatus>,
    /// The number of warm spares that the VM is to have.
    pub standby: u32,
    /// The warm spares that there are.
    pub spares: Vec<SpareStatus>,
}

/// The status of a warm spare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SpareStatus {
    /// The launcher's name for the spare.
    pub id: String,
    /// Whether the spare can take the place of its VM at once; else it boots, or is being ended.
    pub ready: bool,
    /// The CID, while the spare holds one.
    pub cid: Option<u32>,
    /// The process id of the VMM on the host.
    pub vmm_pid: Option<u32>,
}

/// The status of a group.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupStatus {
    /// The group's name.
    pub name: GroupName,
    /// The strategy, which says which siblings share a failure.
    pub strategy: Strategy,
    /// The groups that are Ready before this one starts.
    pub after: Vec<GroupName>,
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

/// How much the JSON of a status says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// The whole status, with the evidence and the last output of VMs that have ended.
    Full,
    /// All but the evidence and the last output of VMs that have ended, which may be a hundred times the rest.
    Brief,
}

impl GroupStatus {
    fn to_json(&self) -> Value {
        let mut json = self.head(Detail::Full);
        json["vms"] = self.vms.iter().map(VmStatus::to_json).collect();
        json
    }

    /// Returns the group as JSON, without its VMs.
    pub(crate) fn head(&self, detail: Detail) -> Value {
        let after: Vec<&str> = self.after.iter().map(GroupName::as_str).collect();
        let ended = self.ended.as_ref().map(json::group_end).map(|mut end| {
            if let (Some(ending), Detail::Brief) = (end.get_mut("ending"), detail) {
                shorten(ending);
            }
            end
        });
        json!({
            "name": self.name.as_str(),
            "strategy": self.strategy.to_string(),
            "after": after,
            "window": json::window(&self.window),
            "ended": ended,
        })
    }
}

/// Leaves out of an ending what only its reader in full wants.
fn shorten(ending: &mut Value) {
    if let Some(ending) = ending.as_object_mut() {
        ending.remove("evidence");
        ending.remove("console");
    }
}

/// The form of a VM in JSON. It is written without a tree of values in between: a status has one for each VM.
#[derive(Debug, Serialize)]
pub(crate) struct VmRow<'a> {
    name: &'a str,
    id: &'a str,
    phase: &'static str,
    incarnation: u64,
    attempts: u32,
    wanted: bool,
    needs_restart: bool,
    vmm: &'static str,
    cid: Option<u32>,
    vmm_pid: Option<u32>,
    phase_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_for: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backoff: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    probe: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    port_use: Vec<PortUse>,
    #[serde(skip_serializing_if = "is_zero")]
    standby: u32,
    #[serde(skip_serializing_if = "<[SpareStatus]>::is_empty")]
    spares: &'a [SpareStatus],
}

// The signature is that of serde's attribute.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl VmRow<'_> {
    /// Adds the ports at which the supervisor listens for the VM, each with the number of clients that wait at it. How many
    /// connections there are is known to the monitor of a VM; without one there are none.
    pub(crate) fn with_ports(mut self, ports: Vec<(String, Option<u32>)>) -> Self {
        let is_down = self.vmm_pid.is_none() && self.phase != VmPhase::Unknown.word();
        let open = is_down.then_some(0);
        self.port_use = ports.into_iter().map(|(port, waiting)| PortUse { port, open, waiting }).collect();
        self
    }
}

impl VmStatus {
    fn to_json(&self) -> Value {
        serde_json::to_value(self.row(Detail::Full)).unwrap_or_default()
    }

    /// Returns the form of the VM in JSON.
    pub(crate) fn row(&self, detail: Detail) -> VmRow<'_> {
        let brief = |mut value: Value| {
            if let (Some(ending), Detail::Brief) = (value.get_mut("ending"), detail) {
                shorten(ending);
            }
            value
        };
        let (mut backoff, mut reason, mut failure) = (None, None, None);
        match &self.phase {
            VmPhase::Backoff { until, attempt, ending } => {
                backoff = Some(brief(json!({
                    "in_ms": json::milliseconds(until.saturating_duration_since(Instant::now())),
                    "attempt": attempt,
                    "ending": json::ending(ending),
                })));
            }
            VmPhase::Failed(failed) => {
                reason = Some(failed.to_string());
                failure = Some(brief(json::failure(failed)));
            }
            VmPhase::Stopped
            | VmPhase::Waiting
            | VmPhase::Idle { .. }
            | VmPhase::Starting
            | VmPhase::Running
            | VmPhase::Ready
            | VmPhase::Unhealthy
            | VmPhase::Paused
            | VmPhase::Stopping
            | VmPhase::Unknown
            | VmPhase::Completed => {}
        }
        // That all is well is no news, and most VMs are.
        let in_question = |probe: &&ProbeStatus| match detail {
            Detail::Full => true,
            Detail::Brief => !probe.healthy,
        };
        VmRow {
            name: self.name.as_str(),
            id: self.name.id().as_str(),
            phase: self.phase.word(),
            incarnation: self.incarnation.0,
            attempts: self.attempts,
            wanted: self.wanted,
            needs_restart: self.needs_restart,
            vmm: self.vmm.into(),
            cid: self.cid.map(Cid::get),
            vmm_pid: self.vmm_pid,
            waits_for: self.awaits_descriptors.then_some("free file descriptors of the supervisor"),
            phase_ms: json::milliseconds(self.since.elapsed()),
            backoff,
            reason,
            failure,
            probe: self.probe.as_ref().filter(in_question).map(ProbeStatus::to_json),
            port_use: Vec::new(),
            standby: self.standby,
            spares: &self.spares,
        }
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
            strategy: Strategy::OneForOne,
            after: Vec::new(),
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

    /// Returns the first group behind a slot of which `select` returns a part, with that part and its slot. A reader that
    /// goes from slot to slot holds the table only for a moment each, and never more than one group in memory.
    pub(crate) fn next_after<T>(
        &self,
        slot: Option<usize>,
        select: impl Fn(&GroupStatus) -> Option<T>,
    ) -> Option<(usize, T)> {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let behind = (slot.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        groups.range(behind).find_map(|(slot, group)| Some((*slot, select(group)?)))
    }
}
