//! The answer to a question for the status: a line that is made in pieces, while the client reads it. At each moment one
//! group and one piece of the line are in memory, however many VMs there are and however slowly the client reads.

use super::call::StatusPart;
use crate::observe::{Detail, GroupStatus, VmPhase, VmStatus};
use crate::spec::{GroupName, VmName};
use crate::tree::Tree;
use serde_json::{Value, json};
use std::collections::HashSet;

/// The length at which a piece of the line is handed out, in bytes.
const PIECE: usize = 64 << 10;

/// The line of an answer, in the making.
#[derive(Debug)]
pub(super) struct StatusLine {
    tree: Tree,
    detail: Detail,
    /// The VMs and groups that are asked for; all when it is empty.
    of: HashSet<String>,
    progress: Progress,
    /// The slot of the last group in the line.
    slot: Option<usize>,
    /// The groups in the line: a group that a reload moves to a later slot meanwhile does not come twice.
    told: HashSet<GroupName>,
}

#[derive(Debug)]
enum Progress {
    /// Nothing was handed out.
    Begin { id: u64 },
    /// The next group comes.
    BetweenGroups,
    /// The VMs of a group come; `next` is the index of the next one.
    InGroup { vms: Vec<VmStatus>, next: usize },
    /// Everything was handed out.
    Done,
}

impl StatusLine {
    /// Begins the answer to the request of this number.
    pub(super) fn new(id: u64, tree: Tree, part: StatusPart) -> Self {
        let name = |name: String| VmName::from_id(&name).map_or(name, |vm| vm.to_string());
        // A VM may be called by its id, and a VM of the configuration may have a name that looks like an id.
        let of = part.of.into_iter().flat_map(|asked| [asked.clone(), name(asked)]).collect();
        let detail = if part.brief { Detail::Brief } else { Detail::Full };
        let progress = Progress::Begin { id };
        Self { tree, detail, of, progress, slot: None, told: HashSet::new() }
    }

    /// Returns the next piece of the line; `None` after the last one.
    pub(super) fn next_piece(&mut self) -> Option<Vec<u8>> {
        let mut piece = Vec::new();
        while piece.len() < PIECE {
            match &mut self.progress {
                Progress::Begin { id } => {
                    piece.extend(format!("{{\"id\":{id},\"ok\":").into_bytes());
                    open(&mut piece, &self.head(), "groups");
                    self.progress = Progress::BetweenGroups;
                }
                Progress::BetweenGroups => {
                    if let Some(group) = self.next_group() {
                        if self.told.len() > 1 {
                            piece.push(b',');
                        }
                        open(&mut piece, &group.head(self.detail), "vms");
                        self.progress = Progress::InGroup { vms: group.vms, next: 0 };
                    } else {
                        piece.extend(b"]}}\n");
                        self.progress = Progress::Done;
                    }
                }
                Progress::InGroup { vms, next } => match vms.get(*next) {
                    Some(vm) => {
                        if *next > 0 {
                            piece.push(b',');
                        }
                        let ports = match self.of.contains(vm.name.as_str()) && self.detail == Detail::Full {
                            true => self.tree.runner().waiting_clients(&vm.name),
                            false => Vec::new(),
                        };
                        serde_json::to_writer(&mut piece, &vm.row(self.detail).with_ports(ports))
                            .expect("a row holds only texts, numbers and JSON values");
                        *next += 1;
                    }
                    None => {
                        piece.extend(b"]}");
                        self.progress = Progress::BetweenGroups;
                    }
                },
                Progress::Done => break,
            }
        }
        (!piece.is_empty()).then_some(piece)
    }

    fn head(&self) -> Value {
        // The number is taken before the first group: a client that asks for later events then gets an event twice rather
        // than never.
        json!({
            "seq": self.tree.newest_event(),
            "name": self.tree.name(),
            "pid": std::process::id(),
            "unsaved": self.tree.unsaved(),
        })
    }

    fn next_group(&mut self) -> Option<GroupStatus> {
        let (of, told) = (&self.of, &self.told);
        let (slot, group) = self.tree.next_group(self.slot, |group| {
            if told.contains(&group.name) { None } else { Some(part_of(group, of)) }
        })?;
        self.slot = Some(slot);
        self.told.insert(group.name.clone());
        Some(group)
    }
}

/// Returns a group with the VMs that are asked for.
fn part_of(group: &GroupStatus, of: &HashSet<String>) -> GroupStatus {
    let is_asked_for = of.is_empty()
        || of.contains(group.name.as_str())
        || group.vms.iter().any(|vm| of.contains(vm.name.as_str()));
    if is_asked_for {
        return group.clone();
    }
    let failed = group.vms.iter().filter(|vm| matches!(vm.phase, VmPhase::Failed(_)));
    GroupStatus {
        name: group.name.clone(),
        strategy: group.strategy,
        after: group.after.clone(),
        window: group.window,
        ended: group.ended.clone(),
        vms: failed.cloned().collect(),
    }
}

/// Writes an object that is left open in its last member, a list.
fn open(piece: &mut Vec<u8>, object: &Value, list: &str) {
    let object = object.to_string();
    let members = object.strip_suffix('}').unwrap_or(&object);
    piece.extend(format!("{members},\"{list}\":[").into_bytes());
}
