//! The facts that a group keeps about the warm spares of its VMs. No decisions are made here.

use crate::spec::{VmName, VmSpec};
use std::collections::BTreeMap;
use std::time::Instant;

/// A warm spare, and the actor that owns it.
#[derive(Debug, Clone)]
pub(super) struct Spare {
    pub(super) name: VmName,
    /// The VM whose place it can take.
    pub(super) of: VmName,
    /// The number of its actor; actors of spares and of VMs share their numbers.
    pub(super) epoch: u64,
    pub(super) state: SpareState,
    /// The fingerprint of the configuration that it was launched with.
    pub(super) config: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpareState {
    Booting,
    Ready,
    Ending,
}

/// What a group knows of the spares of its VMs.
#[derive(Debug, Clone, Default)]
pub(super) struct Spares {
    pub(super) all: Vec<Spare>,
    /// The VMs whose last spares have ended by themselves: their number in a row, and the moment of the next one.
    pub(super) failures: BTreeMap<VmName, (u32, Instant)>,
    /// The names of the spares that VMs were promoted from. They are taken as long as those VMs run.
    pub(super) lent: BTreeMap<VmName, VmName>,
}

impl Spares {
    pub(super) fn of<'s>(&'s self, vm: &'s VmName) -> impl Iterator<Item = &'s Spare> {
        self.all.iter().filter(move |spare| spare.of == *vm)
    }

    /// Returns whether no spare is left.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Returns a name that no spare has.
    pub(super) fn free_name(&self, spec: &VmSpec) -> Option<VmName> {
        let is_taken = |name: &VmName| {
            self.all.iter().any(|spare| spare.name == *name) || self.lent.get(&spec.name) == Some(name)
        };
        // The names take turns: the last one may belong to a spare that is unknown here.
        let failed = self.failures.get(&spec.name).map_or(0, |(count, _)| *count);
        let mut slots: Vec<VmName> = spec.slots().collect();
        let first = usize::try_from(failed).unwrap_or(usize::MAX) % slots.len().max(1);
        slots.rotate_left(first);
        slots.into_iter().find(|name| !is_taken(name))
    }
}
