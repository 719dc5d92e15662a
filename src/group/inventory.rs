//! A look at what is there, taken by a group whose former actor has failed. Until all is known nothing is decided.
//!
//! Each VM is looked at through the executor, where calls about one VM are made one after the other: the answer comes
//! after every launch and every destroy that the former actor had ordered.

use crate::group::{Found, Goal, GroupMsg, Roster};
use crate::journal::Journal;
use crate::spec::{Incarnation, VmName};
use pepita_wire::StatusRecord;
use std::collections::{BTreeMap, BTreeSet};

/// A look under way.
#[derive(Debug)]
pub(crate) struct Inventory {
    pending: BTreeSet<VmName>,
    found: BTreeMap<VmName, Found>,
    traces: Vec<VmName>,
    /// What came meanwhile, to be done afterwards.
    pub(crate) held: Vec<GroupMsg>,
    pub(crate) then: Goal,
}

/// All that was to be known.
#[derive(Debug)]
pub(crate) struct Known {
    /// What runs, and what ended without anybody having heard of it.
    pub(crate) found: BTreeMap<VmName, Found>,
    /// Those that have ended: what is left of them is to be removed before anything starts.
    pub(crate) traces: Vec<VmName>,
    pub(crate) held: Vec<GroupMsg>,
    pub(crate) then: Goal,
}

impl Inventory {
    pub(crate) fn new(pending: BTreeSet<VmName>, then: Goal) -> Self {
        Self { pending, found: BTreeMap::new(), traces: Vec::new(), held: Vec::new(), then }
    }

    /// Takes in what is known of one VM.
    pub(crate) fn note(
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

    /// The end of the look, once everything was seen.
    pub(crate) fn finish(look: &mut Option<Self>) -> Option<Known> {
        let done = look.take_if(|look| look.pending.is_empty())?;
        Some(Known { found: done.found, traces: done.traces, held: done.held, then: done.then })
    }
}
