//! Changes of a running tree: from one specification to the next, or a refusal. No actor, no I/O.

use super::check::check;
use super::error::ChangeError;
use crate::group::Refused;
use crate::observe::TreeStatus;
use crate::spec::{GroupName, GroupSpec, TreeSpec, VmName, VmSpec};

/// A change of a running tree.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    AddGroup(Box<GroupSpec>),
    RemoveGroup(GroupName),
    AddVm { group: GroupName, vm: Box<VmSpec> },
    RemoveVm(VmName),
    Reload { spec: Box<TreeSpec>, restart: bool },
}

impl Change {
    /// The specification that the change leads to, checked as a whole.
    ///
    /// `status` is what there is at the moment: a VM that has not yet left its group cannot come up in another one.
    pub(crate) fn apply(self, old: &TreeSpec, status: &TreeStatus) -> Result<TreeSpec, ChangeError> {
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
        let fixed = old.diff(&new).fixed;
        if !fixed.is_empty() {
            return Err(ChangeError::Fixed(fixed));
        }
        check(&new)?;
        settled(&new, status)?;
        leaving(old, &new, status)?;
        Ok(new)
    }
}

/// A VM that is still in one group must not be started by another: it would be there twice.
fn settled(new: &TreeSpec, status: &TreeStatus) -> Result<(), ChangeError> {
    for group in &new.groups {
        for vm in &group.vms {
            let elsewhere = status.groups.iter().find(|there| {
                there.name != group.name && there.vms.iter().any(|known| known.name == vm.name)
            });
            if let Some(from) = elsewhere {
                let (vm, from, to) = (vm.name.to_string(), from.name.to_string(), group.name.to_string());
                return Err(ChangeError::Moved { vm, from, to });
            }
        }
    }
    Ok(())
}

/// A group that is on its way out cannot come back before it is gone.
fn leaving(old: &TreeSpec, new: &TreeSpec, status: &TreeStatus) -> Result<(), ChangeError> {
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
