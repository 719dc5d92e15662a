//! The inventory of a group whose former actor has failed: the state of each VM on the host. Until the inventory is
//! complete no decision is made, and messages to the group are held.
//!
//! The executor makes calls about one VM one after the other, so the launcher's answer about a VM comes after every
//! launch and every destroy that the former actor had ordered.

use crate::group::{Found, FoundSpare, Goal, GroupMsg, Roster};
use crate::journal::Journal;
use crate::spec::{Incarnation, VmName};
use pepita_wire::StatusRecord;
use std::collections::{BTreeMap, BTreeSet};

/// The inventory of a group.
#[derive(Debug)]
pub(crate) struct Inventory {
    /// The VMs about which the launcher has not answered yet.
    pending: BTreeSet<VmName>,
    /// The VMs that run, and the VMs that ended while the group had no actor.
    pub(crate) found: BTreeMap<VmName, Found>,
    /// The warm spares that run.
    pub(crate) spares: Vec<FoundSpare>,
    /// VMs that have ended: their remains are removed before any VM starts.
    pub(crate) traces: Vec<VmName>,
    /// The messages that came meanwhile, to be handled afterwards.
    pub(crate) held: Vec<GroupMsg>,
    /// The goal of the group once the inventory is complete.
    pub(crate) goal: Goal,
}

impl Inventory {
    pub(crate) fn new(pending: BTreeSet<VmName>, goal: Goal) -> Self {
        Self {
            pending,
            found: BTreeMap::new(),
            spares: Vec::new(),
            traces: Vec::new(),
            held: Vec::new(),
            goal,
        }
    }

    /// Records the launcher's answer about one VM.
    pub(crate) fn record(
        &mut self,
        roster: &Roster,
        journal: &Journal,
        vm: &VmName,
        record: Result<Option<Box<StatusRecord>>, String>,
    ) {
        self.pending.remove(vm);
        if roster.vm(vm).is_none() {
            if let Ok(Some(record)) = record {
                match FoundSpare::of(vm, &record) {
                    Some(spare) => self.spares.push(spare),
                    None => self.traces.push(vm.clone()),
                }
            }
            return;
        }
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
