//! What a VM with warm spares (`standby`) cannot have: a spare boots ahead, beside the VM whose place it takes.

use super::{TreeSpec, VmName, VmSpec};
use pepita_wire::network::Network;
use std::collections::BTreeMap;

/// The most spares that a VM may have.
pub(crate) const SPARES_CAP: u32 = 16;

/// A mistake about the spares of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandbyMistake {
    /// The VM: its group, and its index there.
    pub vm: (usize, usize),
    /// The name of the VM.
    pub name: VmName,
    /// The reason why it cannot have spares, as a sentence.
    pub problem: String,
    /// What would be right.
    pub help: String,
}

impl TreeSpec {
    /// Returns the VMs that have spares and cannot.
    pub(crate) fn standby_mistakes(&self) -> Vec<StandbyMistake> {
        let groups = self.groups.iter().enumerate();
        let vms = groups.flat_map(|(group, spec)| {
            spec.vms.iter().enumerate().map(move |(index, vm)| ((group, index), vm))
        });
        let names: BTreeMap<&str, &VmName> =
            vms.clone().map(|(_, vm)| (vm.name.as_str(), &vm.name)).collect();
        let mistake = |(at, vm): ((usize, usize), &VmSpec)| {
            let (problem, help) = problem(vm, &names)?;
            Some(StandbyMistake { vm: at, name: vm.name.clone(), problem, help })
        };
        vms.filter(|(_, vm)| vm.standby > 0).filter_map(mistake).collect()
    }
}

fn problem(vm: &VmSpec, names: &BTreeMap<&str, &VmName>) -> Option<(String, String)> {
    let with = |problem: &str, help: &str| Some((problem.to_owned(), help.to_owned()));
    let without = "leave standby out, or that";
    if !vm.disks.is_empty() {
        return with("a spare cannot have a disk that the VM before it still writes to", without);
    }
    if vm.cid.is_some() {
        return with("a spare has a CID of its own, so that the CID of the VM cannot be fixed", without);
    }
    if vm.world.network == Network::Tap {
        return with(
            "a spare has an address of its own, so that the address of the VM would change",
            without,
        );
    }
    let slots = vm.slots().count();
    let taken = vm.slots().filter_map(|spare| names.get(spare.as_str()).copied()).next();
    if let Some(taken) = taken {
        return Some((
            format!("a spare of the VM would have the name of VM {taken}"),
            "rename one of them".into(),
        ));
    }
    if slots < vm.slot_numbers().count() {
        return with("with the name of the VM, those of its spares would be too long", "shorten the name");
    }
    None
}

impl VmSpec {
    fn slot_numbers(&self) -> impl Iterator<Item = u32> + use<> {
        // One that was promoted keeps its slot, and one may be on its way out.
        1..=self.standby.saturating_add(2)
    }

    /// Returns the names that spares of the VM may have.
    pub(crate) fn slots(&self) -> impl Iterator<Item = VmName> {
        self.slot_numbers().filter_map(|slot| self.name.spare(slot))
    }

    /// Returns the specification by which a spare of the VM is launched under this name. It is what the VM is started with,
    /// but for the ports: those are given to the spare when it is promoted.
    pub(crate) fn of_spare(&self, name: VmName) -> Self {
        Self { name, publish: Vec::new(), standby: 0, ..self.clone() }
    }
}
