//! Decides the state in which the successor of a failed actor begins: an actor fails, its VMs do not. Knows no actors,
//! no clock and no I/O.
//!
//! ```text
//! group's actor fails ──▶ Schedule: what is the group at? ── up, waiting, going down ──▶ Recovery: its successor
//!                                      └── gone, or failed too often while going down ──▶ no successor
//! ```

use crate::cid::Pool;
use crate::group::{Goal, GroupEnd};
use crate::observe::TreeStatus;
use crate::spec::{Cid, GroupName, GroupSpec, TreeSpec, VmName};

/// The state in which the successor of a group's actor begins.
#[derive(Debug, PartialEq)]
pub(super) struct Recovery {
    pub(super) spec: GroupSpec,
    pub(super) goal: Goal,
    /// How the group ended, if it was down.
    pub(super) ended: Option<GroupEnd>,
    /// VMs that were being removed from the group. They are in no configuration any more, so that the successor would
    /// not end them.
    pub(super) abandoned: Vec<VmName>,
}

impl Recovery {
    /// Returns the state in which the successor begins. `goal` is the goal of the group according to the schedule.
    pub(super) fn of(group: &GroupName, goal: Goal, spec: &TreeSpec, status: &TreeStatus) -> Option<Self> {
        let known = spec.groups.iter().find(|known| known.name == *group).cloned();
        let spec = match goal {
            // A group that is being removed from the configuration goes down without VMs of its own.
            Goal::Down => known.unwrap_or_else(|| GroupSpec::new(group.clone(), Vec::new())),
            Goal::Up | Goal::Wait => known?,
        };
        let shown = status.groups.iter().find(|shown| shown.name == *group);
        let vms = shown.into_iter().flat_map(|shown| &shown.vms).map(|vm| vm.name.clone());
        let abandoned = vms.filter(|vm| !spec.vms.iter().any(|known| known.name == *vm)).collect();
        Some(Self { spec, goal, ended: shown.and_then(|shown| shown.ended.clone()), abandoned })
    }
}

/// Returns all CIDs that are known to be held: first the CIDs of VMs that run, then the CIDs of VMs that the journal
/// knows. Also returns the CIDs that cannot be reserved, with the reason; the launcher, which claims each CID of the
/// host, detects those as well.
pub(super) fn held_cids(
    supervisor: &str,
    running: &[(VmName, Cid)],
    remembered: Vec<(VmName, Cid)>,
) -> (Pool, Vec<String>) {
    let (mut pool, mut conflicts) = (Pool::new(supervisor), Vec::new());
    for (vm, cid) in running.iter().cloned().chain(remembered) {
        let held = pool.holders().any(|(holder, _)| *holder == vm);
        if !held && let Err(e) = pool.reserve(&vm, cid) {
            conflicts.push(format!("{vm}: {e}"));
        }
    }
    (pool, conflicts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{MachineSpec, VmSpec};

    fn vm(name: &str) -> VmName {
        VmName::new(name).expect("a good name")
    }

    fn spec() -> TreeSpec {
        let web = GroupName::new("web").expect("a good name");
        let vms = vec![VmSpec::new(vm("a"), MachineSpec::process())];
        TreeSpec { groups: vec![GroupSpec::new(web, vms)], ..TreeSpec::new("edge") }
    }

    #[test]
    fn a_group_that_is_no_longer_configured_has_a_successor_only_to_go_down() {
        let (gone, status) =
            (GroupName::new("gone").expect("a good name"), TreeStatus { groups: Vec::new() });
        assert_eq!(Recovery::of(&gone, Goal::Up, &spec(), &status), None);
        let recovery = Recovery::of(&gone, Goal::Down, &spec(), &status).expect("a successor");
        assert_eq!(recovery.spec, GroupSpec::new(gone, Vec::new()));
    }

    #[test]
    fn the_cid_of_a_vm_that_runs_counts_before_what_is_remembered() {
        let cid = |cid| Cid::new(cid).expect("good");
        let remembered = vec![(vm("a"), cid(7)), (vm("b"), cid(5)), (vm("c"), cid(8))];
        let (pool, conflicts) = held_cids("edge", &[(vm("a"), cid(5))], remembered);
        assert_eq!(pool.holders().collect::<Vec<_>>(), [(&vm("a"), cid(5)), (&vm("c"), cid(8))]);
        assert_eq!(conflicts.len(), 1);
    }
}
