//! Finds contradictions in the groups of a tree as a whole: names that are taken twice, and groups that wait for each
//! other. The configuration file and a specification that was made by a program are checked here alike.

use super::{GroupName, GroupSpec, TreeSpec};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// The parts of a group that concern its consistency with the others.
#[derive(Debug, Clone, Default)]
pub struct GroupNames<'a> {
    /// The group's name; `None` while its name is missing or wrong.
    pub name: Option<&'a str>,
    /// The groups that it waits for.
    pub after: Vec<&'a str>,
    /// The names of its VMs; `None` for a VM whose name is missing or wrong.
    pub vms: Vec<Option<&'a str>>,
}

/// A contradiction. Groups, VMs and entries of `after` are given by their indices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contradiction {
    /// A group has the name of an earlier group.
    DuplicateGroup {
        /// The later group.
        group: usize,
        /// The earlier group.
        first: usize,
    },
    /// A VM has the name of an earlier VM, in whichever groups.
    DuplicateVm {
        /// The later VM: its group, and its index there.
        vm: (usize, usize),
        /// The earlier VM.
        first: (usize, usize),
    },
    /// A group waits for a group that does not exist.
    UnknownGroup {
        /// The index of the group in the tree.
        group: usize,
        /// The index of the entry in the group's `after`.
        entry: usize,
    },
    /// A group waits for itself.
    WaitsForItself {
        /// The index of the group in the tree.
        group: usize,
        /// The index of the entry in the group's `after`.
        entry: usize,
    },
    /// An entry of `after` is a repetition. Harmless, but probably not intended.
    RepeatedEntry {
        /// The index of the group in the tree.
        group: usize,
        /// The index of the entry in the group's `after`.
        entry: usize,
    },
    /// Groups wait for each other: each step waits for the next one, and the last step for the first.
    Circle(Vec<Step>),
}

/// A group of a circle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The index of the group in the tree.
    pub group: usize,
    /// The index of the entry of its `after` that names the next group of the circle.
    pub entry: usize,
}

impl TreeSpec {
    /// Returns every contradiction between the tree's groups and VMs.
    pub(crate) fn contradictions(&self) -> Vec<Contradiction> {
        fn names(group: &GroupSpec) -> GroupNames<'_> {
            GroupNames {
                name: Some(group.name.as_str()),
                after: group.after.iter().map(GroupName::as_str).collect(),
                vms: group.vms.iter().map(|vm| Some(vm.name.as_str())).collect(),
            }
        }
        contradictions(&self.groups.iter().map(names).collect::<Vec<_>>())
    }
}

/// Returns every contradiction between groups and their VMs.
pub fn contradictions(groups: &[GroupNames<'_>]) -> Vec<Contradiction> {
    let named = groups.iter().enumerate().filter_map(|(index, group)| Some((group.name?, index)));
    let vms = groups.iter().enumerate().flat_map(|(group, names)| {
        names.vms.iter().enumerate().filter_map(move |(vm, name)| Some(((*name)?, (group, vm))))
    });
    let mut all = Vec::new();
    for (group, first) in duplicates(named.clone()) {
        all.push(Contradiction::DuplicateGroup { group, first });
    }
    for (vm, first) in duplicates(vms) {
        all.push(Contradiction::DuplicateVm { vm, first });
    }
    // Of two groups with the same name the first counts; the other group is reported anyway.
    let places: HashMap<&str, usize> = named.rev().collect();
    let mut waits: Vec<Vec<Wait>> = Vec::new();
    for (group, names) in groups.iter().enumerate() {
        let mut mine = Vec::new();
        for (entry, name) in names.after.iter().enumerate() {
            match places.get(name) {
                _ if names.after[..entry].contains(name) => {
                    all.push(Contradiction::RepeatedEntry { group, entry });
                }
                Some(to) if *to == group => all.push(Contradiction::WaitsForItself { group, entry }),
                Some(to) => mine.push(Wait { entry, to: *to }),
                None => all.push(Contradiction::UnknownGroup { group, entry }),
            }
        }
        waits.push(mine);
    }
    all.extend(circles(&waits).into_iter().map(Contradiction::Circle));
    all
}

/// A group waits for the group `to`.
struct Wait {
    entry: usize,
    to: usize,
}

/// Returns each item whose name an earlier item has, together with the first item of that name.
fn duplicates<N: Eq + Hash, P: Copy>(items: impl Iterator<Item = (N, P)>) -> Vec<(P, P)> {
    let mut first: HashMap<N, P> = HashMap::new();
    let mut found = Vec::new();
    for (name, place) in items {
        match first.entry(name) {
            Entry::Occupied(taken) => found.push((place, *taken.get())),
            Entry::Vacant(free) => drop(free.insert(place)),
        }
    }
    found
}

/// Removes the groups that can start, until none is left or every group that is left waits for another of them.
fn circles(waits: &[Vec<Wait>]) -> Vec<Vec<Step>> {
    let mut found = Vec::new();
    let mut left: HashSet<usize> = (0..waits.len()).collect();
    loop {
        let able = |group: &usize| waits[*group].iter().all(|wait| !left.contains(&wait.to));
        let ready: Vec<usize> = left.iter().copied().filter(able).collect();
        if !ready.is_empty() {
            left.retain(|group| !ready.contains(group));
            continue;
        }
        let Some(mut group) = left.iter().copied().min() else { return found };
        // Every group that is left waits for a group that is left, so that a walk along the entries returns to a group
        // it has visited.
        let mut way: Vec<Step> = Vec::new();
        let circle = loop {
            if let Some(first) = way.iter().position(|step| step.group == group) {
                break way.split_off(first);
            }
            let Some(wait) = waits[group].iter().find(|wait| left.contains(&wait.to)) else { return found };
            way.push(Step { group, entry: wait.entry });
            group = wait.to;
        };
        left.retain(|group| circle.iter().all(|step| step.group != *group));
        found.push(circle);
    }
}
