//! Changes of a running tree: from one specification to the next, or a refusal. No actor, no I/O.

use super::check::check;
use super::error::ChangeError;
use crate::group::Refused;
use crate::observe::{TreeStatus, VmPhase};
use crate::spec::{GroupName, GroupSpec, Plan, TreeSpec, VmName, VmSpec};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// A change of a running tree.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    AddGroup(Box<GroupSpec>),
    RemoveGroup(GroupName),
    AddVm { group: GroupName, vm: Box<VmSpec> },
    RemoveVm(VmName),
    Reload { spec: Box<TreeSpec>, restart: bool, removal: Removal },
}

/// How much a reload may remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    /// Any number of VMs, also all of them.
    Allowed,
    /// At most half of the VMs, and not all of them.
    OfFew,
}

impl Change {
    /// Returns the specification that the change leads to, checked as a whole. `run_dir` is the directory of run
    /// directories, in which VMs reach each other.
    ///
    /// `status` is the present status of the tree: a VM that has not yet left its group cannot start in another one.
    pub(crate) fn apply(
        self,
        old: &TreeSpec,
        status: &TreeStatus,
        run_dir: Option<&Path>,
    ) -> Result<TreeSpec, ChangeError> {
        let careful = matches!(self, Self::Reload { removal: Removal::OfFew, .. });
        let new = match self {
            Self::Reload { spec, .. } => *spec,
            Self::AddGroup(group) => {
                let there = status.groups.iter().any(|there| there.name == group.name);
                if there || old.groups.iter().any(|there| there.name == group.name) {
                    return Err(Refused::Taken(group.name.to_string()).into());
                }
                let mut new = old.clone();
                new.groups.push(*group);
                new
            }
            Self::RemoveGroup(name) => {
                let mut new = old.clone();
                new.groups.retain(|group| group.name != name);
                if new.groups.len() == old.groups.len() {
                    return Err(Refused::NoSuchGroup(name.to_string()).into());
                }
                new
            }
            Self::AddVm { group: name, vm } => {
                if old.groups.iter().flat_map(|group| &group.vms).any(|there| there.name == vm.name) {
                    return Err(Refused::Taken(vm.name.to_string()).into());
                }
                let mut new = old.clone();
                match new.groups.iter_mut().find(|group| group.name == name) {
                    Some(group) => group.vms.push(*vm),
                    None => return Err(Refused::NoSuchGroup(name.to_string()).into()),
                }
                new
            }
            Self::RemoveVm(name) => {
                let mut new = old.clone();
                let group = new.groups.iter_mut().find(|group| group.vms.iter().any(|vm| vm.name == name));
                match group {
                    Some(group) => group.vms.retain(|vm| vm.name != name),
                    None => return Err(Refused::NoSuchVm(name.to_string()).into()),
                }
                new
            }
        };
        let plan = old.diff(&new);
        if !plan.fixed.is_empty() {
            return Err(ChangeError::Fixed(plan.fixed));
        }
        check(&new)?;
        let new = new.with_reached_ports(run_dir);
        if let (Some(removals), true) = (plan.grave_removals(), careful) {
            return Err(ChangeError::Removal(removals));
        }
        refuse_moved_vms(&new, status)?;
        refuse_returning_groups(old, &new, status)?;
        Ok(new)
    }
}

/// Returns the plan of a change of a tree in this status.
pub(crate) fn plan(old: &TreeSpec, new: &TreeSpec, status: &TreeStatus) -> Plan {
    let running = status.vms().filter(|vm| vm.phase.is_live() && vm.phase != VmPhase::Stopping);
    let waits: HashMap<&VmName, bool> = running.map(|vm| (&vm.name, vm.needs_restart)).collect();
    old.diff(new).marked(|vm| waits.get(vm).copied())
}

/// The consequence of a change of the tree for the actor of a group.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum GroupUpdate {
    /// The group has an actor, which takes the new specification.
    Reload { spec: GroupSpec, slot: usize },
    /// The group is new and needs an actor.
    Spawn { spec: GroupSpec, slot: usize },
}

/// Returns the actions for the groups of a new specification.
///
/// `slots` are the slots of the status table that the groups have, `last_slot` is the last slot that was given away.
/// The table shows the groups in the order of their slots, which must be the order of the specification: a group keeps
/// its slot while the orders agree, and gets a new slot behind all others if they do not.
pub(crate) fn group_updates(
    old: &TreeSpec,
    new: &TreeSpec,
    restart: bool,
    slots: &BTreeMap<GroupName, usize>,
    last_slot: &mut usize,
) -> Vec<GroupUpdate> {
    let mut updates = Vec::new();
    let mut before = 0;
    for spec in new.groups.iter().cloned() {
        let kept = slots.get(&spec.name).copied().filter(|slot| *slot > before);
        let slot = kept.unwrap_or_else(|| {
            *last_slot += 1;
            *last_slot
        });
        before = slot;
        if !slots.contains_key(&spec.name) {
            updates.push(GroupUpdate::Spawn { spec, slot });
        } else if restart || kept.is_none() || !old.groups.contains(&spec) {
            updates.push(GroupUpdate::Reload { spec, slot });
        }
    }
    updates
}

/// Refuses a VM that is still in one group and would be started by another: the VM would exist twice.
fn refuse_moved_vms(new: &TreeSpec, status: &TreeStatus) -> Result<(), ChangeError> {
    let mut homes: HashMap<&VmName, Vec<&GroupName>> = HashMap::new();
    for group in &status.groups {
        for vm in &group.vms {
            homes.entry(&vm.name).or_default().push(&group.name);
        }
    }
    for group in &new.groups {
        for vm in &group.vms {
            let elsewhere =
                homes.get(&vm.name).and_then(|homes| homes.iter().find(|home| **home != &group.name));
            if let Some(from) = elsewhere {
                let (vm, from, to) = (vm.name.to_string(), from.to_string(), group.name.to_string());
                return Err(ChangeError::Moved { vm, from, to });
            }
        }
    }
    Ok(())
}

/// Refuses a group that is being removed and would come back before it is gone.
fn refuse_returning_groups(old: &TreeSpec, new: &TreeSpec, status: &TreeStatus) -> Result<(), ChangeError> {
    let known = |name: &GroupName| old.groups.iter().any(|group| group.name == *name);
    let back = new
        .groups
        .iter()
        .find(|group| !known(&group.name) && status.groups.iter().any(|there| there.name == group.name));
    match back {
        Some(group) => Err(Refused::Taken(group.name.to_string()).into()),
        None => Ok(()),
    }
}
