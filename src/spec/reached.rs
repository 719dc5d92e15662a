//! The ports of VMs that other VMs of the tree dial (`reach`): each is published, for them alone, at a Unix socket in the
//! directory of run directories.

use super::{GroupSpec, Publish, StartOn, TreeSpec, VmName, VmSpec};
use pepita_wire::GuestPlace;
use pepita_wire::port::PORTS_CAP;
use pepita_wire::reach::{Target, is_socket_of_a_vm, socket_of};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A mistake in what a VM reaches, with the indices of the VM: its group, and its place there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReachMistake {
    /// There is no VM of that name.
    NoSuchVm {
        /// The VM that reaches.
        vm: (usize, usize),
        /// The name of the VM that is not there.
        name: String,
    },
    /// A VM reaches itself.
    Itself {
        /// The VM.
        vm: (usize, usize),
    },
    /// The ports that a VM publishes and those that others reach are too many.
    TooMany {
        /// The VM that reaches.
        vm: (usize, usize),
        /// The VM whose ports are too many.
        name: VmName,
        /// Their number.
        count: usize,
    },
}

impl TreeSpec {
    /// Returns the mistakes in what VMs reach.
    pub(crate) fn reach_mistakes(&self) -> Vec<ReachMistake> {
        let vms = || self.groups.iter().flat_map(|group| &group.vms);
        let published: BTreeMap<&str, usize> = vms().map(|vm| (vm.name.as_str(), vm.publish.len())).collect();
        let mut ports: BTreeSet<(&str, u16)> = BTreeSet::new();
        let mut mistakes = Vec::new();
        for (group, spec) in self.groups.iter().enumerate() {
            for (index, vm) in spec.vms.iter().enumerate() {
                for reached in &vm.reach {
                    let Target::Vm { name, port } = &reached.to else { continue };
                    let vm_at = (group, index);
                    let Some(published) = published.get(name.as_str()) else {
                        mistakes.push(ReachMistake::NoSuchVm { vm: vm_at, name: name.clone() });
                        continue;
                    };
                    if vm.name.as_str() == name {
                        mistakes.push(ReachMistake::Itself { vm: vm_at });
                        continue;
                    }
                    let is_new = ports.insert((name, *port));
                    let count = published + ports.iter().filter(|(of, _)| of == name).count();
                    if is_new
                        && count == PORTS_CAP + 1
                        && let Ok(name) = VmName::new(name)
                    {
                        mistakes.push(ReachMistake::TooMany { vm: vm_at, name, count });
                    }
                }
            }
        }
        mistakes
    }

    /// Returns the VMs that wait for a client and to which no client can connect, with their indices: they publish no port,
    /// and no VM reaches one.
    pub(crate) fn unreachable_sleepers(&self) -> Vec<(usize, usize)> {
        let vms = || {
            let of = |(group, spec)| {
                let spec: &GroupSpec = spec;
                spec.vms.iter().enumerate().map(move |(index, vm)| ((group, index), vm))
            };
            self.groups.iter().enumerate().flat_map(of)
        };
        let reached: BTreeSet<&str> = vms()
            .flat_map(|(_, vm)| &vm.reach)
            .filter_map(|reached| match &reached.to {
                Target::Vm { name, .. } => Some(name.as_str()),
                Target::Host(_) => None,
            })
            .collect();
        let sleeps = |vm: &VmSpec| vm.start.on == StartOn::Connection || vm.idle.is_set();
        let is_cut_off = |vm: &VmSpec| vm.publish.is_empty() && !reached.contains(vm.name.as_str());
        vms().filter(|(_, vm)| sleeps(vm) && is_cut_off(vm)).map(|(at, _)| at).collect()
    }

    /// Returns this specification with the sockets at which VMs reach ports of other VMs among the ports that those
    /// publish, and no others. `run_dir` is the directory of run directories.
    pub(crate) fn with_reached_ports(mut self, run_dir: Option<&Path>) -> Self {
        let Some(run_dir) = run_dir else { return self };
        let vms = self.groups.iter().flat_map(|group| &group.vms);
        let reached: BTreeSet<(String, u16)> = vms
            .flat_map(|vm| &vm.reach)
            .filter_map(|reached| match &reached.to {
                Target::Vm { name, port } => Some((name.clone(), *port)),
                Target::Host(_) => None,
            })
            .collect();
        for vm in self.groups.iter_mut().flat_map(|group| &mut group.vms) {
            vm.publish.retain(|publish| !is_socket_of_a_vm(run_dir, &publish.host));
            let ports = reached.iter().filter(|(name, _)| *name == vm.name.as_str());
            vm.publish.extend(ports.map(|(name, port)| Publish {
                host: socket_of(run_dir, name, *port),
                guest: GuestPlace::Port(*port),
            }));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{GroupName, MachineSpec};

    fn tree(vms: &[(&str, &[&str])]) -> TreeSpec {
        let vm = |(name, reach): &(&str, &[&str])| {
            let mut vm = VmSpec::new(VmName::new(name).expect("good"), MachineSpec::process());
            vm.reach = reach.iter().map(|text| text.parse().expect("a place")).collect();
            vm
        };
        let group = GroupSpec::new(GroupName::new("web").expect("good"), vms.iter().map(vm).collect());
        TreeSpec { groups: vec![group], ..TreeSpec::new("edge") }
    }

    #[test]
    fn a_port_that_others_reach_is_published_for_them_once() {
        let mut spec =
            tree(&[("api", &["db:5432", "10.0.0.7:443"]), ("job", &["main:1=db:5432"]), ("db", &[])]);
        spec.groups[0].vms[2].publish.push("5432:5432".parse().expect("a port"));
        let run_dir = Path::new("/r");
        let linked = spec.clone().with_reached_ports(Some(run_dir));
        let ports = |spec: &TreeSpec, vm: usize| {
            spec.groups[0].vms[vm].publish.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(ports(&linked, 2), ["0.0.0.0:5432:5432", "unix:/r/.reach/db.5432:5432"]);
        assert!(ports(&linked, 0).is_empty() && ports(&linked, 1).is_empty());
        assert_eq!(linked.clone().with_reached_ports(Some(run_dir)), linked);
        assert_eq!(spec.clone().with_reached_ports(None), spec);
        let mut later = linked;
        later.groups[0].vms.truncate(1);
        later.groups[0].vms[0].reach.clear();
        later.groups[0].vms.push(spec.groups[0].vms[2].clone());
        assert_eq!(ports(&later.with_reached_ports(Some(run_dir)), 1), ["0.0.0.0:5432:5432"]);
    }

    #[test]
    fn a_vm_that_waits_for_a_client_needs_a_port() {
        let mut spec = tree(&[("api", &["db:5432"]), ("db", &[]), ("job", &[])]);
        spec.groups[0].vms.iter_mut().for_each(|vm| vm.start.on = StartOn::Connection);
        assert_eq!(spec.unreachable_sleepers(), [(0, 0), (0, 2)]);
        spec.groups[0].vms[0].publish.push("8080:80".parse().expect("a port"));
        spec.groups[0].vms[2].start.on = StartOn::Boot;
        assert!(spec.unreachable_sleepers().is_empty());
    }

    #[test]
    fn a_vm_that_is_not_there_and_too_many_ports_are_mistakes() {
        let spec = tree(&[("api", &["db:5432", "a:1=api:2", "a:2=nobody:2"]), ("db", &["api:80"])]);
        assert_eq!(
            spec.reach_mistakes(),
            [
                ReachMistake::Itself { vm: (0, 0) },
                ReachMistake::NoSuchVm { vm: (0, 0), name: "nobody".into() }
            ]
        );
        let mut spec = tree(&[("api", &["db:1", "db:2"]), ("db", &[])]);
        let publish = |port: usize| format!("{}:{port}", 8000 + port).parse().expect("a port");
        spec.groups[0].vms[1].publish = (1..PORTS_CAP).map(publish).collect();
        let name = VmName::new("db").expect("good");
        let too_many = ReachMistake::TooMany { vm: (0, 0), name, count: PORTS_CAP + 1 };
        assert_eq!(spec.reach_mistakes(), [too_many]);
    }
}
