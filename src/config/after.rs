//! Which groups wait for which: every name is known, and nobody waits for itself in the end.

use super::raw::RawGroup;
use super::table::Log;
use super::words::nearest;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Group `to` is to be Ready first.
struct Edge<'r> {
    to: usize,
    at: &'r Range<usize>,
    path: String,
}

/// Notes unknown groups, groups that wait for themselves and circles of groups.
pub(super) fn check(groups: &[RawGroup], log: &Log<'_>) {
    let mut places = HashMap::new();
    for (index, name) in groups.iter().enumerate().filter_map(|(i, g)| Some((i, g.name.as_deref()?))) {
        places.entry(name).or_insert(index);
    }
    let mut edges: Vec<Vec<Edge<'_>>> = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        let mut mine = Vec::new();
        let mut seen = HashSet::new();
        let after = group.keys.after.good();
        for (entry, (name, at)) in after.iter().flat_map(|after| after.value.iter().enumerate()) {
            let path = format!("{}: after[{entry}]", group.called);
            if !seen.insert(name) {
                let help = Some("name it once".to_owned());
                log.wrong(at.clone(), &path, format!("group {name:?} is named twice"), help);
                continue;
            }
            match places.get(name.as_str()) {
                Some(to) if *to == index => {
                    let help = Some("name the groups that it needs".to_owned());
                    log.wrong(at.clone(), &path, "the group would wait for itself", help);
                }
                Some(to) => mine.push(Edge { to: *to, at, path }),
                None => {
                    let near = nearest(name, groups.iter().filter_map(|group| group.name.as_deref()));
                    let help = match near {
                        Some(near) => format!("did you mean {near:?}?"),
                        None => "name a [[group]] of this file".to_owned(),
                    };
                    log.wrong(at.clone(), &path, format!("unknown group {name:?}"), Some(help));
                }
            }
        }
        edges.push(mine);
    }
    circles(groups, &edges, log);
}

/// Takes away the groups that can start, until none is left or all that are left wait in a circle, or for one.
fn circles(groups: &[RawGroup], edges: &[Vec<Edge<'_>>], log: &Log<'_>) {
    let mut left: HashSet<usize> = (0..groups.len()).collect();
    let name = |index: usize| groups[index].name.as_deref().unwrap_or_default();
    loop {
        let able = |index: &usize| edges[*index].iter().all(|edge| !left.contains(&edge.to));
        let ready: Vec<usize> = left.iter().copied().filter(able).collect();
        if !ready.is_empty() {
            left.retain(|index| !ready.contains(index));
            continue;
        }
        // Everyone who is left waits for someone who is left: walking along must come back.
        let Some(start) = left.iter().copied().min() else { return };
        let mut way: Vec<usize> = Vec::new();
        let mut here = start;
        let circle = loop {
            if let Some(first) = way.iter().position(|index| *index == here) {
                break way.split_off(first);
            }
            way.push(here);
            match edges[here].iter().find(|edge| left.contains(&edge.to)) {
                Some(edge) => here = edge.to,
                None => return,
            }
        };
        tell(&circle, edges, name, log);
        left.retain(|index| !circle.contains(index));
    }
}

/// Told at the entry that stands last in the file: it is the one that closed the circle.
fn tell<'r>(circle: &[usize], edges: &[Vec<Edge<'_>>], name: impl Fn(usize) -> &'r str, log: &Log<'_>) {
    let next = |place: usize| circle[(place + 1) % circle.len()];
    let steps = (0..circle.len()).filter_map(|place| {
        let edge = edges[circle[place]].iter().find(|edge| edge.to == next(place))?;
        Some((place, edge))
    });
    let Some((last, edge)) = steps.max_by_key(|(_, edge)| edge.at.start) else { return };
    let ring: Vec<&str> = (0..=circle.len()).map(|i| name(circle[(last + i) % circle.len()])).collect();
    let problem = format!("groups wait for each other: {}", ring.join(" -> "));
    log.wrong(edge.at.clone(), &edge.path, problem, Some("take one of them out of `after`".to_owned()));
}
