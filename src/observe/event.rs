//! Events for the host: every change of a VM with the decision behind it (semantics 10).

use super::json;
use super::phase::VmPhase;
use crate::policy::{Decision, Ending, Exit, GroupEnd};
use crate::spec::{GroupName, Incarnation, VmName};
use pepita_wire::record::Timings;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A numbered event of a tree.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The number, which grows by one with each event of a tree, so that a reader can tell how many it missed.
    pub seq: u64,
    /// The time of the event, by the wall clock.
    pub time: SystemTime,
    /// The group that the event is about; `None` for the tree itself.
    pub group: Option<GroupName>,
    /// The content of the event, as data.
    pub kind: EventKind,
}

/// The content of an event, as data.
#[derive(Debug, Clone, PartialEq)]
pub enum EventKind {
    /// The phase of a VM changed.
    Vm(Change),
    /// The last VM of a group became Ready; without a group: the last group of the tree became Ready.
    GroupReady,
    /// All VMs of a group are down.
    GroupEnded(GroupEnd),
    /// The tree has ended.
    TreeEnded {
        /// The reason, as a sentence.
        reason: String,
        /// Whether the tree gave up, instead of being told to end.
        failed: bool,
    },
    /// A notice for people: an actor that failed, VMs that were found, a stop that takes long.
    Notice {
        /// The VM that the notice is about.
        vm: Option<VmName>,
        /// The notice, as a sentence.
        text: String,
    },
}

/// A change of the phase of a VM.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The VM's name.
    pub vm: VmName,
    /// The incarnation that the change is about.
    pub incarnation: Incarnation,
    /// The phase before the change.
    pub from: VmPhase,
    /// The phase after the change.
    pub to: VmPhase,
    /// How the incarnation ended, if the change is its end.
    pub ending: Option<Ending>,
    /// The decision on that end.
    pub decision: Option<Decision>,
    /// What the last probe has said, if the change follows from failed probes.
    pub probe: Option<Box<str>>,
    /// The parts of the start with the time that each took, if the change is that a VM has become Ready after its start.
    pub timings: Option<Box<Timings>>,
}

impl Change {
    /// Returns the exit of the VM, if the change is its end and the monitor recorded one.
    pub fn exit(&self) -> Option<&Exit> {
        self.ending.as_ref().and_then(Ending::exit)
    }
}

impl Event {
    /// Returns the event as JSON: data for programs, with words in kebab-case and times in milliseconds, and `text` for
    /// people.
    pub fn to_json(&self) -> Value {
        let mut json = json!({
            "seq": self.seq,
            "time_ms": json::milliseconds(self.time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)),
            "group": self.group.as_ref().map(GroupName::as_str),
            "text": self.to_string(),
        });
        let more = match &self.kind {
            EventKind::Vm(change) => json!({
                "event": "vm",
                "vm": change.vm.as_str(),
                "incarnation": change.incarnation.0,
                "from": change.from.word(),
                "to": change.to.word(),
                "ending": change.ending.as_ref().map(json::ending),
                "decision": change.decision.as_ref().map(json::decision),
                "probe": change.probe,
                "timings": change.timings,
            }),
            EventKind::GroupReady => json!({ "event": "group-ready" }),
            EventKind::GroupEnded(end) => {
                let mut json = json::group_end(end);
                json["event"] = json!("group-ended");
                json
            }
            EventKind::TreeEnded { reason, failed } => {
                json!({ "event": "tree-ended", "reason": reason, "failed": failed })
            }
            EventKind::Notice { vm, text } => {
                json!({ "event": "notice", "vm": vm.as_ref().map(VmName::as_str), "notice": text })
            }
        };
        json::merge(&mut json, more);
        json
    }
}
