//! The inventory of a group whose former actor has failed: what is there of each VM. Until it is complete nothing is
//! decided, and messages to the group are held.
//!
//! The executor makes calls about one VM one after the other, so the launcher's answer about a VM comes after every
//! launch and every destroy that the former actor had ordered.

use crate::group::{Found, Goal, GroupMsg, Roster};
use crate::journal::Journal;
use crate::spec::{Incarnation, VmName};
use pepita_wire::StatusRecord;
use std::collections::{BTreeMap, BTreeSet};

/// An inventory.
#[derive(Debug)]
pub(crate) struct Inventory {
    /// The VMs about which the launcher has not answered yet.
    pending: BTreeSet<VmName>,
    /// VMs that run, and VMs that ended while the group had no actor.
    pub(crate) found: BTreeMap<VmName, Found>,
    /// VMs that have ended: what is left of them is to be removed before anything starts.
    pub(crate) traces: Vec<VmName>,
    /// Messages that came meanwhile, to be handled afterwards.
    pub(crate) held: Vec<GroupMsg>,
    /// What the group does when the inventory is complete.
    pub(crate) goal: Goal,
}

impl Inventory {
    pub(crate) fn new(pending: BTreeSet<VmName>, goal: Goal) -> Self {
        Self { pending, found: BTreeMap::new(), traces: Vec::new(), held: Vec::new(), goal }
    }

    /// Takes in the launcher's answer about one VM.
    pub(crate) fn record(
        &mut self,
        roster: &Roster,
        journal: &Journal,
        vm: &VmName,
        record: Result<Option<Box<StatusRecord>>, String>,
    ) {
        self.pending.remove(vm);
        let found = match record {
            Ok(None) => None,
            Ok(Some(record)) => {
                if record.state.is_terminal() {
                    self.traces.push(vm.clone());
                }
                roster.vm(vm).and_then(|spec| Found::of(&record, spec, journal.ended(vm)))
            }
            Err(_) => {
                let incarnation = roster.view(vm).map_or(Incarnation(0), |view| view.incarnation);
                Some(Found::perhaps(incarnation))
            }
        };
        if let Some(found) = found {
            self.found.insert(vm.clone(), found);
        }
    }

    /// Returns whether the launcher has answered about every VM.
    pub(crate) fn is_complete(&self) -> bool {
        self.pending.is_empty()
    }
}
