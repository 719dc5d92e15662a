//! Computes the changes between a running tree and a new configuration: the plan of a reload. Carries no change out.
//!
//! The keys, and whether each applies at once or with a new start, come from the rows of `spec::keys`.

use super::keys::{Effect, Keyed};
use super::{GroupName, GroupSpec, TreeSpec, VmName, VmSpec};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::fmt;

/// The keys that differ, as the configuration calls them.
type Keys = Vec<&'static str>;

/// The differences between two trees. `Display` writes a line for the supervisor's keys, each group and each VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Keys of the supervisor that apply at once.
    pub live: Keys,
    /// Keys of the supervisor that apply only when the supervisor is restarted.
    pub fixed: Keys,
    /// The groups in their new order, then the groups that are removed.
    pub groups: Vec<GroupPlan>,
}

/// The differences of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPlan {
    /// The group's name.
    pub name: GroupName,
    /// How the group's own keys differ, with `order` when VMs have changed places. Never [`Change::Restart`].
    pub change: Change,
    /// The VMs of the group in their new order, then the VMs that are removed.
    pub vms: Vec<VmPlan>,
}

/// The difference of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmPlan {
    /// The VM's name.
    pub name: VmName,
    /// How the VM differs.
    pub change: Change,
    /// Whether the VM runs with an older configuration than the new one, because of this change or an earlier one: a
    /// reload with `restart` restarts it. [`TreeSpec::diff`] knows of no VM that runs.
    pub outdated: bool,
}

/// The kind of a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The group or VM is new.
    Added {
        /// The group that the VM is taken from: the VM must be gone there before it can start here.
        from: Option<GroupName>,
    },
    /// The group or VM is removed.
    Removed,
    /// These keys apply at once and touch no running VM.
    Live(Keys),
    /// A running VM goes on unchanged until its next start.
    Restart {
        /// The keys that wait for the start.
        keys: Keys,
        /// The keys that apply at once.
        live: Keys,
    },
    /// There is no difference.
    Unchanged,
}

/// The VMs that a change removes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removals {
    /// The VMs that are removed.
    pub vms: Vec<VmName>,
    /// The number of VMs before the change.
    pub of: usize,
}

/// The number of VMs that a sentence names.
const NAMED: usize = 5;

impl Removals {
    /// Returns whether all VMs are removed, or more than half of them.
    pub fn are_grave(&self) -> bool {
        !self.vms.is_empty() && (self.vms.len() == self.of || self.vms.len() > self.of / 2)
    }
}

impl fmt::Display for Removals {
    /// Writes `the new configuration removes 3 of 4 VMs (a, b, c)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = in_words(self.vms.iter());
        match self.vms.len() {
            all if all == self.of => write!(f, "the new configuration removes every VM ({names})"),
            some => write!(f, "the new configuration removes {some} of {} VMs ({names})", self.of),
        }
    }
}

/// Returns the first names, and how many there are more.
fn in_words<'v>(mut vms: impl Iterator<Item = &'v VmName>) -> String {
    let names: Vec<&str> = vms.by_ref().take(NAMED).map(VmName::as_str).collect();
    let names = names.join(", ");
    match vms.count() {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

impl TreeSpec {
    /// Returns the changes that a reload from this tree to `new` makes. Groups and VMs are identified by their names.
    pub fn diff(&self, new: &Self) -> Plan {
        let homes: HashMap<&VmName, &GroupName> =
            self.groups.iter().flat_map(|group| group.vms.iter().map(|vm| (&vm.name, &group.name))).collect();
        let old: HashMap<&GroupName, &GroupSpec> =
            self.groups.iter().map(|group| (&group.name, group)).collect();
        let kept = new.groups.iter().map(|group| group_plan(old.get(&group.name).copied(), group, &homes));
        let stays: HashSet<&GroupName> = new.groups.iter().map(|group| &group.name).collect();
        let gone = self.groups.iter().filter(|group| !stays.contains(&group.name));
        Plan {
            live: differing(self, new, Effect::Live),
            fixed: differing(self, new, Effect::Fixed),
            groups: kept.chain(gone.map(removed)).collect(),
        }
    }
}

fn group_plan(old: Option<&GroupSpec>, new: &GroupSpec, homes: &HashMap<&VmName, &GroupName>) -> GroupPlan {
    let former = old.map_or(&[][..], |old| &old.vms);
    let by_name: HashMap<&VmName, &VmSpec> = former.iter().map(|vm| (&vm.name, vm)).collect();
    let stays: HashSet<&VmName> = new.vms.iter().map(|vm| &vm.name).collect();
    let kept = new.vms.iter().map(|vm| {
        let change = match by_name.get(&vm.name).copied() {
            // Most VMs are the same; comparing key by key takes longer.
            Some(old) if old == vm => Change::Unchanged,
            Some(old) => Change::of(differing(old, vm, Effect::NextStart), differing(old, vm, Effect::Live)),
            None => Change::Added { from: homes.get(&vm.name).map(|&home| home.clone()) },
        };
        VmPlan { name: vm.name.clone(), change, outdated: false }
    });
    let gone = former.iter().filter(|old| !stays.contains(&old.name));
    let gone = gone.map(gone_vm);
    let change = match old {
        None => Change::Added { from: None },
        Some(old) => {
            let mut live = differing(old, new, Effect::Live);
            if order(&old.vms, &new.vms) != order(&new.vms, &old.vms) {
                live.push("order");
            }
            Change::of(Keys::new(), live)
        }
    };
    GroupPlan { name: new.name.clone(), change, vms: kept.chain(gone).collect() }
}

fn removed(group: &GroupSpec) -> GroupPlan {
    let vms = group.vms.iter().map(gone_vm).collect();
    GroupPlan { name: group.name.clone(), change: Change::Removed, vms }
}

fn gone_vm(vm: &VmSpec) -> VmPlan {
    VmPlan { name: vm.name.clone(), change: Change::Removed, outdated: false }
}

/// Returns the order of the VMs that the other list has, too: VMs that are added or removed are reported by themselves.
fn order<'v>(vms: &'v [VmSpec], other: &[VmSpec]) -> Vec<&'v VmName> {
    let other: HashSet<&VmName> = other.iter().map(|vm| &vm.name).collect();
    vms.iter().map(|vm| &vm.name).filter(|name| other.contains(name)).collect()
}

/// Returns the keys of this effect whose values differ.
fn differing<S: Keyed>(old: &S, new: &S, effect: Effect) -> Keys {
    let rows = S::ROWS.iter().filter(|row| row.effect == effect && row.get(old) != row.get(new));
    rows.map(|row| row.name).collect()
}

impl Change {
    fn of(keys: Keys, live: Keys) -> Self {
        match (keys.is_empty(), live.is_empty()) {
            (true, true) => Self::Unchanged,
            (true, false) => Self::Live(live),
            (false, true | false) => Self::Restart { keys, live },
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Added { from: None } => json!({ "change": "added" }),
            Self::Added { from: Some(from) } => json!({ "change": "added", "from": from.as_str() }),
            Self::Removed => json!({ "change": "removed" }),
            Self::Live(keys) => json!({ "change": "live", "live": keys }),
            Self::Restart { keys, live } => json!({ "change": "restart", "restart": keys, "live": live }),
            Self::Unchanged => json!({ "change": "unchanged" }),
        }
    }
}

impl Plan {
    /// Returns whether the two trees are equal.
    pub fn is_empty(&self) -> bool {
        let same = |change: &Change| *change == Change::Unchanged;
        let group = |group: &GroupPlan| same(&group.change) && group.vms.iter().all(|vm| same(&vm.change));
        self.live.is_empty() && self.fixed.is_empty() && self.groups.iter().all(group)
    }

    /// Returns the VMs that are removed. A VM that is taken to another group is not removed.
    pub fn removals(&self) -> Removals {
        let vms = || self.groups.iter().flat_map(|group| &group.vms);
        let moved: HashSet<&VmName> = vms()
            .filter(|vm| matches!(vm.change, Change::Added { from: Some(_) }))
            .map(|vm| &vm.name)
            .collect();
        let was = |vm: &&VmPlan| !matches!(vm.change, Change::Added { from: None });
        let gone = vms().filter(|vm| vm.change == Change::Removed && !moved.contains(&vm.name));
        // A VM that is taken to another group stands in both.
        Removals {
            vms: gone.map(|vm| vm.name.clone()).collect(),
            of: vms().filter(was).count() - moved.len(),
        }
    }

    /// Returns the VMs that are removed, if these are all VMs or more than half of them: a reload asks before it does
    /// that (semantics 11.8).
    pub fn grave_removals(&self) -> Option<Removals> {
        Some(self.removals()).filter(Removals::are_grave)
    }

    /// Returns the VMs that must be started anew before all of the new configuration holds.
    pub fn needs_restart(&self) -> impl Iterator<Item = &VmName> {
        let vms = self.groups.iter().flat_map(|group| &group.vms);
        vms.filter(|vm| matches!(vm.change, Change::Restart { .. })).map(|vm| &vm.name)
    }

    /// Marks the VMs that run with an older configuration than the new one. Of a VM that runs, and is not being stopped,
    /// `waits` tells whether an earlier change waits for its restart; of any other VM it returns `None`.
    #[must_use]
    pub(crate) fn marked(mut self, waits: impl Fn(&VmName) -> Option<bool>) -> Self {
        for vm in self.groups.iter_mut().flat_map(|group| &mut group.vms) {
            vm.outdated = match vm.change {
                Change::Restart { .. } => waits(&vm.name).is_some(),
                Change::Live(_) | Change::Unchanged => waits(&vm.name) == Some(true),
                Change::Added { .. } | Change::Removed => false,
            };
        }
        self
    }

    /// Returns the VMs that run with an older configuration than the new one, in words; `None` when there are none.
    pub fn outdated(&self) -> Option<String> {
        let vms = self.groups.iter().flat_map(|group| &group.vms);
        let names = in_words(vms.filter(|vm| vm.outdated).map(|vm| &vm.name));
        (!names.is_empty()).then_some(names)
    }

    /// Returns `{supervisor: {live, fixed}, groups: [{name, change, .., vms: [{name, change, outdated, ..}]}]}`.
    pub fn to_json(&self) -> Value {
        let named = |name: &str, change: &Change| {
            let mut object = change.to_json();
            object["name"] = json!(name);
            object
        };
        let groups = self.groups.iter().map(|group| {
            let vms = group.vms.iter().map(|vm| {
                let mut object = named(vm.name.as_str(), &vm.change);
                object["outdated"] = vm.outdated.into();
                object
            });
            let mut object = named(group.name.as_str(), &group.change);
            object["vms"] = vms.collect();
            object
        });
        let removals = self.removals();
        json!({
            "supervisor": { "live": self.live, "fixed": self.fixed },
            "groups": groups.collect::<Vec<_>>(),
            "removed": { "vms": removals.vms.len(), "of": removals.of, "needs_permission": removals.are_grave() },
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added { from: None } => f.write_str("added"),
            Self::Added { from: Some(from) } => write!(f, "added, taken from group \"{from}\""),
            Self::Removed => f.write_str("removed"),
            Self::Live(keys) => write!(f, "at once: {}", keys.join(", ")),
            Self::Restart { keys, live } => {
                write!(f, "needs a restart: {}", keys.join(", "))?;
                if live.is_empty() { Ok(()) } else { write!(f, "; at once: {}", live.join(", ")) }
            }
            Self::Unchanged => f.write_str("unchanged"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Vec::new();
        if !self.live.is_empty() {
            lines.push(format!("supervisor: at once: {}", self.live.join(", ")));
        }
        if !self.fixed.is_empty() {
            let keys = self.fixed.join(", ");
            lines.push(format!("supervisor: only with a restart of the supervisor: {keys}"));
        }
        for GroupPlan { name: group, change, vms } in &self.groups {
            lines.push(format!("group \"{group}\": {change}"));
            let vm = |VmPlan { name, change, outdated }: &VmPlan| {
                let waits = match change {
                    Change::Live(_) | Change::Unchanged if *outdated => "; an earlier change needs a restart",
                    Change::Live(_)
                    | Change::Unchanged
                    | Change::Restart { .. }
                    | Change::Added { .. }
                    | Change::Removed => "",
                };
                format!("group \"{group}\" vm \"{name}\": {change}{waits}")
            };
            lines.extend(vms.iter().map(vm));
        }
        f.write_str(&lines.join("\n"))
    }
}
