//! The status of a group, as observers see it.

use super::GroupState;
use crate::actor::now;
use crate::group::SpareView;
use crate::journal::Wanted;
use crate::observe::{SpareStatus, VmStatus};
use crate::spec::{Cid, VmName};
use crate::vm::Facts;
use std::time::Instant;

impl GroupState {
    /// Writes the group's status into its slot of the status table.
    pub(super) fn publish_status(&self) {
        let (name, now) = (self.name(), now());
        self.shared.status_table.update(self.slot, &name, |status| {
            let former = std::mem::take(&mut status.vms);
            (status.strategy, status.after) = (self.roster.strategy(), self.roster.after().to_vec());
            status.window = self.roster.window(now);
            status.ended = self.roster.end().cloned();
            status.vms = self.vms(&former, now);
        });
    }

    fn vms(&self, former: &[VmStatus], now: Instant) -> Vec<VmStatus> {
        let mut vms = Vec::with_capacity(former.len());
        for (index, view) in self.roster.views().enumerate() {
            let Facts { cid, vmm_pid, awaits_descriptors } =
                self.facts.get(view.name).copied().unwrap_or_default();
            // In most cases the VM has the same place as before.
            let same = former.get(index).filter(|vm| vm.name == *view.name);
            let before = same.or_else(|| former.iter().find(|vm| vm.name == *view.name));
            let since = before
                .filter(|vm| vm.incarnation == view.incarnation && vm.phase == view.phase)
                .map_or(now, |vm| vm.since);
            let probe = self.probes.get(view.name);
            let probe = probe.filter(|probe| view.phase.has_daemon() || !probe.healthy).cloned();
            vms.push(VmStatus {
                name: view.name.clone(),
                phase: view.phase,
                incarnation: view.incarnation,
                attempts: view.attempts,
                wanted: view.wanted == Wanted::Up,
                needs_restart: view.needs_restart,
                vmm: view.vmm,
                cid,
                vmm_pid,
                awaits_descriptors,
                since,
                probe,
                standby: self.roster.vm(view.name).map_or(0, |spec| spec.standby),
                spares: self.spares(view.name),
            });
        }
        vms
    }

    fn spares(&self, vm: &VmName) -> Vec<SpareStatus> {
        let spares = self.roster.spares().filter(|spare| spare.of == vm);
        let status = |spare: SpareView<'_>| {
            let facts = self.facts.get(spare.name).copied().unwrap_or_default();
            SpareStatus {
                id: spare.name.id().to_string(),
                ready: spare.is_ready,
                cid: facts.cid.map(Cid::get),
                vmm_pid: facts.vmm_pid,
            }
        };
        spares.map(status).collect()
    }
}
