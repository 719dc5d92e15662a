//! Reports where the groups and VMs of a file contradict each other: names and CIDs that are taken twice, and groups
//! that wait for an unknown group, for themselves or for each other.

use super::diagnostic::Log;
use super::file::Section;
use super::keywords::nearest;
use super::reader::Layer;
use super::value::Node;
use crate::spec::consistency::{Contradiction, GroupNames, Step, contradictions};
use std::collections::HashMap;
use std::ops::Range;

/// Notes every contradiction.
pub(super) fn check(groups: &[Section<'_>], log: &Log<'_>) {
    let names = groups.iter().map(|group| GroupNames {
        // A wrong name is reported already; the group is known by it nevertheless.
        name: group.name,
        after: after(group).into_iter().map(|entry| entry.name).collect(),
        vms: group.vms.iter().map(|vm| vm.layer.good("name")?.value.as_str()).collect(),
    });
    for contradiction in contradictions(&names.collect::<Vec<_>>()) {
        tell(&contradiction, groups, log);
    }
    let mut cids = HashMap::new();
    for vm in groups.iter().flat_map(|group| &group.vms) {
        let Some(written) = vm.layer.good("cid") else { continue };
        let first = *cids.entry(&written.value).or_insert(vm);
        if !std::ptr::eq(first, vm) {
            taken("cid", "CID", &vm.layer, (&first.called, &first.layer), log);
        }
    }
}

/// An entry of `after`.
struct Entry<'t> {
    name: &'t str,
    at: Range<usize>,
}

fn after<'t>(group: &Section<'t>) -> Vec<Entry<'t>> {
    let list = group.layer.good("after").and_then(|after| after.node.get_ref().as_array());
    let entry = |node: &'t Node<'t>| Some(Entry { name: node.get_ref().as_str()?, at: node.span() });
    list.into_iter().flat_map(|list| list.iter()).filter_map(entry).collect()
}

fn tell(contradiction: &Contradiction, groups: &[Section<'_>], log: &Log<'_>) {
    let wrong = |step: Step, problem: String, help: String| {
        let group = &groups[step.group];
        let path = format!("{}: after[{}]", group.called, step.entry);
        log.wrong(after(group)[step.entry].at.clone(), &path, problem, Some(help));
    };
    let name = |step: Step| after(&groups[step.group])[step.entry].name;
    match *contradiction {
        Contradiction::DuplicateGroup { group, first } => {
            let first = &groups[first];
            taken("name", "group", &groups[group].layer, (&first.called, &first.layer), log);
        }
        Contradiction::DuplicateVm { vm, first } => {
            let first = &groups[first.0].vms[first.1];
            taken("name", "vm", &groups[vm.0].vms[vm.1].layer, (&first.called, &first.layer), log);
        }
        Contradiction::RepeatedEntry { group, entry } => {
            let step = Step { group, entry };
            wrong(step, format!("group {:?} is named twice", name(step)), "name it once".into());
        }
        Contradiction::WaitsForItself { group, entry } => {
            let help = "name the groups that it needs".into();
            wrong(Step { group, entry }, "the group would wait for itself".into(), help);
        }
        Contradiction::UnknownGroup { group, entry } => {
            let step = Step { group, entry };
            let help = match nearest(name(step), groups.iter().filter_map(|group| group.name)) {
                Some(near) => format!("did you mean {near:?}?"),
                None => "name a [[group]] of this file".into(),
            };
            wrong(step, format!("unknown group {:?}", name(step)), help);
        }
        Contradiction::Circle(ref steps) => {
            // The circle is reported at its entry that stands last in the file: that entry closed the circle.
            let at = |step: &Step| after(&groups[step.group])[step.entry].at.start;
            let Some(last) = (0..steps.len()).max_by_key(|index| at(&steps[*index])) else { return };
            let ring = (0..=steps.len()).map(|index| &groups[steps[(last + index) % steps.len()].group]);
            let ring: Vec<&str> = ring.map(|group| group.name.unwrap_or_default()).collect();
            let problem = format!("groups wait for each other: {}", ring.join(" -> "));
            wrong(steps[last], problem, "take one of them out of `after`".into());
        }
    }
}

/// Notes that a key has the same value as the same key of an earlier group or VM.
fn taken(key: &str, what: &str, later: &Layer<'_>, (owner, first): (&str, &Layer<'_>), log: &Log<'_>) {
    if let (Some(written), Some(first)) = (later.good(key), first.good(key)) {
        let line = log.line(first.at());
        let help = format!("{owner} has it already, in line {line}; it must be unique in the whole tree");
        log.wrong(written.at(), &written.path, format!("duplicate {what} {}", written.value), Some(help));
    }
}
