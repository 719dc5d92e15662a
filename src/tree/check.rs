//! Checks of a specification as a whole, for specifications that are made by a program. No actor, no I/O. A
//! configuration file was checked before, with line and column; these checks catch the remaining mistakes.

use crate::spec::consistency::Contradiction;
use crate::spec::{ReachMistake, StandbyMistake, TreeSpec};
use pepita_wire::port::PORTS_CAP;

/// A specification that contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Two groups have the same name.
    #[error("duplicate group {0:?}")]
    DuplicateGroup(String),
    /// Two VMs have the same name, in whichever groups.
    #[error("group {group:?}: duplicate vm {vm:?}")]
    DuplicateVm {
        /// The group of the second VM.
        group: String,
        /// The name of the VM.
        vm: String,
    },
    /// A group comes after a group that does not exist.
    #[error("group {group:?}: after = {after:?}, which is no group of this tree")]
    UnknownAfter {
        /// The name of the group.
        group: String,
        /// The group that does not exist.
        after: String,
    },
    /// A VM reaches a port of a VM that does not exist, or of itself.
    #[error("vm {vm:?}: reach = {reached:?}, which is no other vm of this tree")]
    UnknownReached {
        /// The name of the VM.
        vm: String,
        /// The VM that does not exist.
        reached: String,
    },
    /// More ports of a VM are published or reached than can be.
    #[error("vm {vm:?}: {count} ports are published or reached; there may be {PORTS_CAP}")]
    TooManyPorts {
        /// The name of the VM.
        vm: String,
        /// The number of ports.
        count: usize,
    },
    /// A VM waits for a client, and no client can connect to it.
    #[error(
        "vm {vm:?}: a vm that waits for a client (start.on, idle.after) needs a port that is published or reached"
    )]
    NoPort {
        /// The name of the VM.
        vm: String,
    },
    /// A VM has warm spares and cannot.
    #[error("vm {vm:?}: standby: {problem}")]
    Standby {
        /// The name of the VM.
        vm: String,
        /// The reason, as a sentence.
        problem: String,
    },
    /// Groups wait for each other.
    #[error("groups wait for each other: {}", .0.join(", "))]
    Circle(Vec<String>),
}

/// Checks the rules that concern several parts of a specification.
///
/// # Errors
/// Returns the first contradiction.
pub fn check(spec: &TreeSpec) -> Result<(), SpecError> {
    let group = |index: usize| spec.groups[index].name.to_string();
    let vm = |(group, vm): (usize, usize)| spec.groups[group].vms[vm].name.to_string();
    let error = |contradiction| match contradiction {
        Contradiction::DuplicateGroup { group: second, .. } => Some(SpecError::DuplicateGroup(group(second))),
        Contradiction::DuplicateVm { vm: second, .. } => {
            Some(SpecError::DuplicateVm { group: group(second.0), vm: vm(second) })
        }
        Contradiction::UnknownGroup { group: waits, entry } => {
            let after = spec.groups[waits].after[entry].to_string();
            Some(SpecError::UnknownAfter { group: group(waits), after })
        }
        Contradiction::WaitsForItself { group: waits, .. } => Some(SpecError::Circle(vec![group(waits)])),
        Contradiction::Circle(steps) => {
            Some(SpecError::Circle(steps.iter().map(|step| group(step.group)).collect()))
        }
        // The order of starting and stopping is the same.
        Contradiction::RepeatedEntry { .. } => None,
    };
    let reach = |mistake| match mistake {
        ReachMistake::NoSuchVm { vm: asks, name } => {
            SpecError::UnknownReached { vm: vm(asks), reached: name }
        }
        ReachMistake::Itself { vm: asks } => SpecError::UnknownReached { vm: vm(asks), reached: vm(asks) },
        ReachMistake::TooMany { vm: _, name, count } => {
            SpecError::TooManyPorts { vm: name.to_string(), count }
        }
    };
    let contradiction = spec.contradictions().into_iter().find_map(error);
    let mistake = || spec.reach_mistakes().into_iter().next().map(reach);
    let sleeper = || spec.unreachable_sleepers().first().map(|at| SpecError::NoPort { vm: vm(*at) });
    let standby = || {
        let StandbyMistake { name, problem, .. } = spec.standby_mistakes().into_iter().next()?;
        Some(SpecError::Standby { vm: name.to_string(), problem })
    };
    contradiction.or_else(mistake).or_else(sleeper).or_else(standby).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{GroupName, GroupSpec, MachineSpec, StartOn, VmName, VmSpec};

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
                "a, c, b",
            ),
        ] {
            let error = check(&spec).expect_err(word).to_string();
            assert!(error.contains(word), "{error}");
        }
        let mut asleep = tree(&[("a", &[], &["x"])]);
        asleep.groups[0].vms[0].start.on = StartOn::Connection;
        assert_eq!(check(&asleep), Err(SpecError::NoPort { vm: "x".into() }));
    }
}
