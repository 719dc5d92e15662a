//! What a specification that was put together by hand may get wrong as a whole. No actor, no I/O.
//! A configuration file was checked before, with line and column; here is the last line of defence.

use crate::spec::{GroupName, TreeSpec, VmName};
use std::collections::BTreeSet;

/// A specification that contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Two groups of one name.
    #[error("duplicate group {0:?}")]
    DuplicateGroup(String),
    /// Two VMs of one name, in whatever groups.
    #[error("group {group:?}: duplicate vm {vm:?}")]
    DuplicateVm {
        /// The second one's group.
        group: String,
        /// The VM.
        vm: String,
    },
    /// A group comes after one that is not there.
    #[error("group {group:?}: after = {after:?}, which is no group of this tree")]
    UnknownAfter {
        /// The group.
        group: String,
        /// The one that is not there.
        after: String,
    },
    /// Groups that wait for each other.
    #[error("groups wait for each other: {}", .0.join(", "))]
    Circle(Vec<String>),
}

/// Checks what no single part of a specification can know.
///
/// # Errors
/// Names the first contradiction.
pub fn check(spec: &TreeSpec) -> Result<(), SpecError> {
    let mut groups: BTreeSet<&GroupName> = BTreeSet::new();
    let mut vms: BTreeSet<&VmName> = BTreeSet::new();
    for group in &spec.groups {
        if !groups.insert(&group.name) {
            return Err(SpecError::DuplicateGroup(group.name.to_string()));
        }
        if let Some(vm) = group.vms.iter().find(|vm| !vms.insert(&vm.name)) {
            let (group, vm) = (group.name.to_string(), vm.name.to_string());
            return Err(SpecError::DuplicateVm { group, vm });
        }
    }
    for group in &spec.groups {
        if let Some(after) = group.after.iter().find(|after| !groups.contains(after)) {
            let (group, after) = (group.name.to_string(), after.to_string());
            return Err(SpecError::UnknownAfter { group, after });
        }
    }
    // Take away what waits for nobody that is left, until nothing changes.
    let mut left: Vec<_> = spec.groups.iter().collect();
    loop {
        let names: BTreeSet<&GroupName> = left.iter().map(|group| &group.name).collect();
        let before = left.len();
        left.retain(|group| group.after.iter().any(|after| names.contains(after)));
        if left.is_empty() {
            return Ok(());
        }
        if left.len() == before {
            return Err(SpecError::Circle(left.iter().map(|group| group.name.to_string()).collect()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{GroupSpec, MachineSpec, VmSpec};

    fn tree(groups: &[(&str, &[&str], &[&str])]) -> TreeSpec {
        let group = |(name, after, vms): &(&str, &[&str], &[&str])| {
            let vm = |name: &&str| VmSpec::new(VmName::new(name).expect("good"), MachineSpec::process());
            let named = |name: &str| GroupName::new(name).expect("good");
            let mut spec = GroupSpec::new(named(name), vms.iter().map(vm).collect());
            spec.after = after.iter().map(|after| named(after)).collect();
            spec
        };
        TreeSpec { groups: groups.iter().map(group).collect(), ..TreeSpec::new("test") }
    }

    #[test]
    fn each_contradiction_is_named() {
        assert_eq!(check(&tree(&[("a", &[], &["x"]), ("b", &["a"], &["y"])])), Ok(()));
        for (spec, word) in [
            (tree(&[("a", &[], &[]), ("a", &[], &[])]), "duplicate group \"a\""),
            (tree(&[("a", &[], &["x"]), ("b", &[], &["x"])]), "group \"b\": duplicate vm \"x\""),
            (tree(&[("a", &["z"], &[])]), "no group of this tree"),
            (tree(&[("a", &["a"], &[])]), "wait for each other: a"),
            (
                tree(&[("a", &["c"], &[]), ("b", &["a"], &[]), ("c", &["b"], &[]), ("d", &["a"], &[])]),
                "a, b, c",
            ),
        ] {
            let error = check(&spec).expect_err(word).to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
