//! Finds the VMs that the targets of a command mean: names of VMs, their ids, names of groups, `all`.

use super::view::{list, text};
use pepita_supervisor::VmName;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::fmt;

/// The target that means every VM.
pub(super) const ALL: &str = "all";

/// What stands before the name of a group that is also the name of a VM.
const GROUP: &str = "group:";

/// The VMs that the targets of a command mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// The names of the VMs, without repetition: those that were named themselves as they were named, all others in start
    /// order.
    pub(super) vms: Vec<String>,
    /// Whether each VM was named itself.
    pub(super) by_name: bool,
    /// The groups that were named, or all of them.
    pub(super) groups: HashSet<String>,
}

/// A target that means nothing in this tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unknown {
    target: String,
    near: Option<String>,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no VM or group {:?} in this tree", self.target)?;
        match &self.near {
            Some(near) => write!(f, "; did you mean {near:?}?"),
            None => Ok(()),
        }
    }
}

/// Returns the names by which a supervisor is asked for the part of the status that the targets need; none for all of it.
pub(super) fn names(targets: &[String]) -> Vec<String> {
    if targets.iter().any(|target| target == ALL) {
        return Vec::new();
    }
    targets.iter().map(|target| target.strip_prefix(GROUP).unwrap_or(target).to_owned()).collect()
}

/// Finds the targets in a status.
///
/// # Errors
/// Returns the first target that means nothing there, with the name that was probably meant.
pub(super) fn resolve(status: &Value, targets: &[String]) -> Result<Found, Unknown> {
    let groups = list(&status["groups"]);
    let names = |group: &'_ Value| -> Vec<String> {
        list(&group["vms"]).iter().map(|vm| text(&vm["name"]).to_owned()).collect()
    };
    let all: Vec<String> = groups.iter().flat_map(names).collect();
    let vms: HashSet<&str> = all.iter().map(String::as_str).collect();
    let by_group: HashMap<&str, &Value> = groups.iter().map(|group| (text(&group["name"]), group)).collect();
    let mut found = Found { vms: Vec::new(), by_name: true, groups: HashSet::new() };
    let mut seen = HashSet::new();
    let mut add =
        |vms: Vec<String>| -> Vec<String> { vms.into_iter().filter(|vm| seen.insert(vm.clone())).collect() };
    for target in targets {
        let named = VmName::from_id(target).map(|vm| vm.to_string());
        let of_group = |name: &str| by_group.get(name).map(|group| names(group));
        if let Some(vms_of) = target.strip_prefix(GROUP).and_then(of_group) {
            found.by_name = false;
            found.groups.extend(target.strip_prefix(GROUP).map(str::to_owned));
            found.vms.extend(add(vms_of));
        } else if vms.contains(target.as_str()) {
            found.vms.extend(add(vec![target.clone()]));
        } else if let Some(named) = named.filter(|named| vms.contains(named.as_str())) {
            found.vms.extend(add(vec![named]));
        } else if let Some(vms_of) = of_group(target) {
            found.by_name = false;
            found.groups.insert(target.clone());
            found.vms.extend(add(vms_of));
        } else if target == ALL {
            found.by_name = false;
            found.groups.extend(by_group.keys().map(|name| (*name).to_owned()));
            found.vms.extend(add(all.clone()));
        } else {
            let known = vms.iter().chain(by_group.keys()).copied().chain([ALL]);
            return Err(Unknown { target: target.clone(), near: nearest(target, known) });
        }
    }
    Ok(found)
}

/// Returns the word nearest to what was written, if one is near enough to have been meant.
fn nearest<'w>(written: &str, words: impl Iterator<Item = &'w str>) -> Option<String> {
    // A text of this length is no typing mistake, and the time to compute the distance grows with the product of the
    // lengths.
    if written.len() > 64 {
        return None;
    }
    let bare = written.strip_prefix("duende-vm-").unwrap_or(written).to_ascii_lowercase();
    let distances = words.map(|word| (strsim::damerau_levenshtein(&bare, word), word));
    let (distance, nearest) = distances.min()?;
    (distance <= (bare.chars().count() / 3).max(1)).then(|| nearest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status() -> Value {
        let vms = |names: &[&str]| names.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>();
        json!({ "groups": [
            { "name": "storage", "vms": vms(&["db", "cache"]) },
            { "name": "web", "vms": vms(&["api", "web", "duende-vm-x"]) },
            { "name": "empty", "vms": [] },
        ] })
    }

    fn found(targets: &[&str]) -> Result<Vec<String>, String> {
        let targets: Vec<String> = targets.iter().map(|target| (*target).to_owned()).collect();
        resolve(&status(), &targets).map(|found| found.vms).map_err(|unknown| unknown.to_string())
    }

    #[test]
    fn vms_ids_groups_and_all_are_targets() {
        for (targets, vms) in [
            (&["api"][..], &["api"][..]),
            (&["duende-vm-api"], &["api"]),
            (&["duende-vm-x", "duende-vm-duende-vm-x"], &["duende-vm-x"]),
            (&["storage"], &["db", "cache"]),
            // A VM comes before a group of its name.
            (&["web"], &["web"]),
            (&["group:web"], &["api", "web", "duende-vm-x"]),
            (&["cache", "storage", "cache"], &["cache", "db"]),
            (&["empty"], &[]),
            (&["all"], &["db", "cache", "api", "web", "duende-vm-x"]),
        ] {
            let vms: Vec<String> = vms.iter().map(|vm| (*vm).to_owned()).collect();
            assert_eq!(found(targets), Ok(vms), "{targets:?}");
        }
    }

    #[test]
    fn what_was_probably_meant_is_offered() {
        for (target, near) in [
            ("apii", Some("api")),
            ("duende-vm-apii", Some("api")),
            ("Storage", Some("storage")),
            ("al", Some("all")),
            ("sotrage", Some("storage")),
            ("nope", None),
            ("", None),
            ("group:wbe", None),
        ] {
            let expected = near.map_or(String::new(), |near| format!("; did you mean {near:?}?"));
            assert_eq!(
                found(&[target]),
                Err(format!("no VM or group {target:?} in this tree{expected}")),
                "{target}"
            );
        }
        assert!(found(&[&"x".repeat(100_000)]).is_err());
    }
}
