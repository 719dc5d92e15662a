//! Interprets the launcher's list for a tree that starts. No actor, no I/O.

use crate::executor::argv::{OWNER_LABEL, SPARE_LABEL};
use crate::group::{Found, FoundSpare};
use crate::spec::{Cid, GroupName, GroupSpec, Incarnation, Orphans, TreeSpec, VmName, VmSpec};
use pepita_wire::StatusRecord;
use std::collections::BTreeMap;

/// What the state of this supervisor knows about a VM.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Known {
    /// The newest incarnation; `None` for a VM that the state does not know.
    pub(crate) newest: Option<Incarnation>,
    /// The newest incarnation whose end was recorded.
    pub(crate) ended: Incarnation,
}

/// The VMs that a previous run left, and the treatment of each.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// For each group: the VMs that run, or ended while no supervisor watched.
    pub(crate) found: BTreeMap<GroupName, BTreeMap<VmName, Found>>,
    /// For each group: the warm spares that run.
    pub(crate) spares: BTreeMap<GroupName, Vec<FoundSpare>>,
    /// The CIDs of VMs that run, also of the VMs that are left as they are.
    pub(crate) cids: Vec<(VmName, Cid)>,
    /// The VMs to be destroyed before any VM starts: the VMs that are in no configuration, and the traces of VMs that
    /// ended.
    pub(crate) destroy: Vec<VmName>,
    /// The VMs to be destroyed that still run.
    pub(crate) orphans: Vec<VmName>,
    /// All VMs of this supervisor that run.
    pub(crate) running: Vec<VmName>,
    /// The VMs that this supervisor may end, each with its incarnation: the VMs of the configuration, and the VMs that
    /// its state knows.
    pub(crate) ours: Vec<(VmName, Incarnation)>,
    /// The VMs that run, have the mark of this supervisor, and are in no configuration and in no state of this
    /// supervisor: they may belong to a supervisor of the same name with another state, and are left as they are
    /// (semantics 9.6).
    pub(crate) left: Vec<VmName>,
}

impl Survey {
    /// Sorts the records of the launcher. `known` returns what the state of this supervisor knows about a VM.
    pub(crate) fn of(records: &[StatusRecord], spec: &TreeSpec, known: impl Fn(&VmName) -> Known) -> Self {
        let mut survey = Self::default();
        for record in records {
            // A VM without the mark of this supervisor belongs to another owner, whatever its name is.
            let ours = record.labels.get(OWNER_LABEL).is_some_and(|owner| *owner == spec.name);
            let Some(vm) = VmName::from_id(&record.name).filter(|_| ours) else { continue };
            let runs = !record.state.is_terminal();
            let of = record.labels.get(SPARE_LABEL).and_then(|of| VmName::new(of).ok());
            if let Some(of) = of {
                survey.take_spare(record, vm, spec, &of, known(&of));
                continue;
            }
            let owner = configured(spec, &vm);
            if runs {
                survey.running.push(vm.clone());
            }
            let (known, incarnation) = (known(&vm), Incarnation(record.incarnation));
            let cid = Cid::new(record.vsock.cid).ok().filter(|_| runs).map(|cid| (vm.clone(), cid));
            if owner.is_none() && known.newest.is_none_or(|newest| newest < incarnation) {
                survey.cids.extend(cid);
                survey.left.extend(runs.then_some(vm));
                continue;
            }
            survey.ours.push((vm.clone(), incarnation));
            let Some((group, spec_of_vm)) = owner.filter(|_| !(runs && spec.orphans == Orphans::Destroy))
            else {
                if runs {
                    survey.orphans.push(vm.clone());
                }
                survey.destroy.push(vm);
                continue;
            };
            survey.cids.extend(cid);
            if !runs {
                survey.destroy.push(vm.clone());
            }
            if let Some(found) = Found::of(record, spec_of_vm, known.ended) {
                survey.found.entry(group.name.clone()).or_default().insert(vm, found);
            }
        }
        survey
    }

    /// Sorts the record of a warm spare of the VM `of`, of which `known` is known. A spare that is wanted no more is destroyed,
    /// as is one that had begun to take the place of its VM: its daemon was not started.
    fn take_spare(
        &mut self,
        record: &StatusRecord,
        spare: VmName,
        spec: &TreeSpec,
        of: &VmName,
        known: Known,
    ) {
        let runs = !record.state.is_terminal();
        let cid = Cid::new(record.vsock.cid).ok().filter(|_| runs).map(|cid| (spare.clone(), cid));
        let owner = configured(spec, of);
        if owner.is_none() && known.newest.is_none() {
            self.cids.extend(cid);
            return self.left.extend(runs.then_some(spare));
        }
        self.ours.push((spare.clone(), Incarnation(record.incarnation)));
        let found = FoundSpare::of(&spare, record).filter(|_| spec.orphans != Orphans::Destroy);
        match (owner, found) {
            (Some((group, vm)), Some(found)) if vm.slots().any(|slot| slot == spare) => {
                self.cids.extend(cid);
                self.spares.entry(group.name.clone()).or_default().push(found);
            }
            (Some(_) | None, _) => self.destroy.push(spare),
        }
    }
}

/// Returns the VM of this name in a specification, with its group.
fn configured<'s>(spec: &'s TreeSpec, name: &VmName) -> Option<(&'s GroupSpec, &'s VmSpec)> {
    spec.groups.iter().find_map(|group| Some((group, group.vms.iter().find(|vm| vm.name == *name)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{GroupSpec, MachineSpec, VmSpec};
    use pepita_wire::{ExitRecord, VmState};

    fn record(name: &str, owner: Option<&str>, state: VmState) -> StatusRecord {
        let mut record = StatusRecord { name: name.into(), state, incarnation: 3, ..Default::default() };
        record.vsock.cid = 77;
        record.exit = state.is_terminal().then(ExitRecord::default);
        record.labels.extend(owner.map(|owner| (OWNER_LABEL.to_owned(), owner.to_owned())));
        record
    }

    fn names(vms: &[VmName]) -> Vec<&str> {
        vms.iter().map(VmName::as_str).collect()
    }

    #[test]
    fn ours_are_adopted_reported_or_destroyed_and_foreign_ones_are_never_touched() {
        let vm = |name| VmSpec::new(VmName::new(name).expect("good"), MachineSpec::process());
        let web = GroupName::new("web").expect("good");
        let group = GroupSpec::new(web.clone(), vec![vm("up"), vm("over"), vm("old")]);
        let mut spec = TreeSpec { groups: vec![group], ..TreeSpec::new("edge") };
        let records = [
            record("duende-vm-up", Some("edge"), VmState::Running),
            record("duende-vm-over", Some("edge"), VmState::Failed),
            record("duende-vm-old", Some("edge"), VmState::Failed),
            record("duende-vm-gone", Some("edge"), VmState::Running),
            record("duende-vm-other", Some("core"), VmState::Running),
            record("duende-vm-nobody", None, VmState::Running),
            record("mine", Some("edge"), VmState::Running),
        ];
        let known = |vm: &VmName| match vm.as_str() {
            "old" => Known { newest: Some(Incarnation(3)), ended: Incarnation(3) },
            "gone" => Known { newest: Some(Incarnation(3)), ended: Incarnation(2) },
            _ => Known::default(),
        };
        let survey = Survey::of(&records, &spec, known);
        assert_eq!(names(&survey.destroy), ["over", "old", "gone"]);
        assert_eq!(names(&survey.orphans), ["gone"]);
        assert_eq!(names(&survey.running), ["up", "gone"]);
        assert_eq!(survey.cids.len(), 1);
        let found: Vec<&str> = survey.found[&web].keys().map(VmName::as_str).collect();
        assert_eq!(found, ["over", "up"], "an end that was taken in is no news");
        spec.orphans = Orphans::Destroy;
        let survey = Survey::of(&records, &spec, known);
        assert_eq!(names(&survey.destroy), ["up", "over", "old", "gone"]);
    }

    // semantics 9.6
    #[test]
    fn an_orphan_that_our_state_does_not_know_is_left_as_it_is() {
        let records = [
            record("duende-vm-unknown", Some("edge"), VmState::Running),
            record("duende-vm-newer", Some("edge"), VmState::Unknown),
            record("duende-vm-over", Some("edge"), VmState::Failed),
        ];
        for orphans in [Orphans::Adopt, Orphans::Destroy] {
            let spec = TreeSpec { orphans, ..TreeSpec::new("edge") };
            let known = |vm: &VmName| match vm.as_str() {
                // Another supervisor has started the VM since.
                "newer" => Known { newest: Some(Incarnation(2)), ended: Incarnation(2) },
                _ => Known::default(),
            };
            let survey = Survey::of(&records, &spec, known);
            assert_eq!(names(&survey.left), ["unknown", "newer"]);
            assert_eq!((names(&survey.destroy), survey.ours.len()), (Vec::new(), 0));
            assert_eq!(names(&survey.running), ["unknown", "newer"], "`refuse` still counts them");
        }
    }
}
