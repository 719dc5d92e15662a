//! What onlookers see of a group.

use super::{End, GroupState};
use crate::journal::Wanted;
use crate::observe::{VmPhase, VmStatus};
use crate::vm::Facts;
use std::fmt;
use std::time::Instant;

impl GroupState {
    /// Pins the group's status to the board.
    pub(super) fn publish_status(&self) {
        let name = self.name();
        let (window, ended, now) = (self.roster.window(), self.ended.clone(), super::at().now);
        self.shared.status_table.update(self.slot, &name, |status| {
            let former = std::mem::take(&mut status.vms);
            status.window = window;
            status.ended = ended;
            status.vms = self.vms(&former, now);
        });
    }

    fn vms(&self, former: &[VmStatus], now: Instant) -> Vec<VmStatus> {
        let mut vms = Vec::with_capacity(former.len());
        for (index, (name, phase, facts)) in self.roster.shown().enumerate() {
            let (incarnation, attempts, wanted, needs_restart) = facts;
            let wanted = wanted == Wanted::Up;
            let Facts { cid, vmm_pid } = self.facts.get(name).copied().unwrap_or_default();
            // A group that has not been started yet: what is to be up waits for another group.
            let phase = match phase {
                VmPhase::Stopped if self.hold.is_some() && self.ended.is_none() && wanted => VmPhase::Waiting,
                phase => phase,
            };
            // Most often it stands where it stood.
            let place = former.get(index).filter(|vm| vm.name == *name);
            let before = place.or_else(|| former.iter().find(|vm| vm.name == *name));
            let since = before
                .filter(|vm| vm.incarnation == incarnation && vm.phase == phase)
                .map_or(now, |vm| vm.since);
            vms.push(VmStatus {
                name: name.clone(),
                phase,
                incarnation,
                attempts,
                wanted,
                needs_restart,
                cid,
                vmm_pid,
                since,
            });
        }
        vms
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::AutoShutdown => f.write_str("its significant VMs have ended"),
            Self::Failed { reason } | Self::Escalated { reason } => f.write_str(reason),
        }
    }
}
