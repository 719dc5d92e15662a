//! The warning about VMs that are plain processes: nothing separates them from the host.

use crate::spec::{TreeSpec, VmName, VmSpec, Vmm};
use std::collections::BTreeSet;

/// The number of VMs that the warning names.
const NAMED: usize = 10;

/// Returns the warning about the VMs of `spec` that are plain processes and were not in `former`, if there are any.
pub(super) fn unseparated(former: Option<&TreeSpec>, spec: &TreeSpec) -> Option<String> {
    let known: BTreeSet<&VmName> = former.into_iter().flat_map(processes).map(|vm| &vm.name).collect();
    let new = processes(spec).filter(|vm| !known.contains(&vm.name));
    let names: Vec<&str> = new.map(|vm| vm.name.as_str()).collect();
    let (shown, rest) = names.split_at(names.len().min(NAMED));
    let rest = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    let (are, them) =
        if names.len() == 1 { ("is a plain process", "it") } else { ("are plain processes", "them") };
    let shown = shown.join(", ");
    let text = format!("{shown}{rest} {are} (vmm = \"process\"): nothing separates {them} from this host");
    (!names.is_empty()).then_some(text)
}

fn processes(spec: &TreeSpec) -> impl Iterator<Item = &VmSpec> {
    let vms = spec.groups.iter().flat_map(|group| &group.vms);
    vms.filter(|vm| vm.machine.vmm == Vmm::Process)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{GroupName, GroupSpec, MachineSpec};

    fn spec(processes: &[&str]) -> TreeSpec {
        let name = |name: &str| VmName::new(name).expect("good");
        let mut vms: Vec<VmSpec> =
            processes.iter().map(|vm| VmSpec::new(name(vm), MachineSpec::process())).collect();
        vms.push(VmSpec::new(name("micro"), MachineSpec::qemu("/k", "/r")));
        let group = GroupSpec::new(GroupName::new("web").expect("good"), vms);
        TreeSpec { groups: vec![group], ..TreeSpec::new("edge") }
    }

    #[test]
    fn plain_processes_are_named_once_each() {
        assert_eq!(unseparated(None, &spec(&[])), None);
        let text = unseparated(None, &spec(&["a", "b"])).expect("a warning");
        assert!(text.starts_with("a, b are plain processes"), "{text}");
        let text = unseparated(Some(&spec(&["a", "b"])), &spec(&["a", "c"])).expect("a warning");
        assert!(text.starts_with("c is a plain process"), "{text}");
        let names: Vec<String> = (0..12).map(|n| format!("v{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let text = unseparated(None, &spec(&names)).expect("a warning");
        assert!(text.contains("v9 and 2 more are"), "{text}");
    }
}
