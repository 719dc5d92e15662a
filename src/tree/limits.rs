//! The limits of the end of a tree: none of its steps is waited for without end (semantics 7.13). Knows no actors, no
//! clock and no I/O.

use crate::spec::TreeSpec;
use pepita_wire::monitor::{SILENT_REMOVAL, STATUS_PATIENCE};
use std::time::Duration;

/// The time in which VMs that are killed must be confirmed gone, beside the part for each VM. The monitors of the VMs may
/// be silent, and the launcher may be slow to begin.
const KILL: Duration = Duration::from_secs(SILENT_REMOVAL.as_secs() + 4);

/// The time that the launcher's last list and its removals may take, beside the part for each VM.
const LAST_LIST: Duration = Duration::from_secs(STATUS_PATIENCE.as_secs() + SILENT_REMOVAL.as_secs() + 1);

/// The part of both for each VM: two calls of the launcher, on a host of one core.
const PER_VM: Duration = Duration::from_millis(20);

/// Returns the time in which VMs that are killed must be confirmed gone. After that the tree ends without the confirmation.
pub(super) fn kill_limit(spec: &TreeSpec) -> Duration {
    KILL + for_each_vm(spec)
}

/// Returns the time that the launcher's last list and its removals may take in all.
pub(super) fn last_list_limit(spec: &TreeSpec) -> Duration {
    LAST_LIST + for_each_vm(spec)
}

/// Returns the longest time from the stop of a tree to its end, whatever fails: the ordered stop, the kill of what is left
/// then, and the launcher's last list (semantics 7.13).
pub fn longest_end(spec: &TreeSpec) -> Duration {
    spec.shutdown_timeout.saturating_add(kill_limit(spec)).saturating_add(last_list_limit(spec))
}

fn for_each_vm(spec: &TreeSpec) -> Duration {
    let vms: usize = spec.groups.iter().map(|group| group.vms.len()).sum();
    PER_VM.saturating_mul(u32::try_from(vms).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{GroupName, GroupSpec, MachineSpec, VmName, VmSpec};

    fn spec(vms: usize) -> TreeSpec {
        let vm = |n| VmSpec::new(VmName::new(&format!("v{n}")).expect("a good name"), MachineSpec::process());
        let group = GroupSpec::new(GroupName::new("web").expect("a good name"), (0..vms).map(vm).collect());
        TreeSpec { groups: vec![group], ..TreeSpec::new("edge") }
    }

    #[test]
    fn a_monitor_that_does_not_answer_fits_into_each_limit() {
        let (one, many) = (spec(1), spec(500));
        assert!(kill_limit(&one) > SILENT_REMOVAL);
        assert!(last_list_limit(&one) > STATUS_PATIENCE + SILENT_REMOVAL, "the list waits for it, too");
        assert_eq!(kill_limit(&many) - kill_limit(&one), PER_VM * 499);
        assert!(longest_end(&many) >= many.shutdown_timeout + kill_limit(&many) + last_list_limit(&many));
        let endless = TreeSpec { shutdown_timeout: Duration::MAX, ..spec(1) };
        assert_eq!(longest_end(&endless), Duration::MAX);
    }
}
