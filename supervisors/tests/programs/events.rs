//! Patterns for the output of `pepitad --json`: the events and notes that a test waits for, as values.

use serde_json::Value;

/// A pattern for one event or note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pattern<'a> {
    /// A VM's incarnation has reached a phase.
    Vm { vm: &'a str, incarnation: u64, to: &'a str },
    /// All VMs of the tree are ready.
    TreeReady,
    /// The tree has ended without a failure.
    TreeEnded,
    /// A note of the program itself, by its kind.
    Note(&'a str),
}

/// Returns the pattern for a VM that has reached a phase.
pub(crate) fn vm<'a>(vm: &'a str, incarnation: u64, to: &'a str) -> Pattern<'a> {
    Pattern::Vm { vm, incarnation, to }
}

impl Pattern<'_> {
    pub(crate) fn matches(&self, event: &Value) -> bool {
        match self {
            Self::Vm { vm, incarnation, to } => {
                event["event"] == "vm"
                    && event["vm"] == **vm
                    && event["incarnation"] == *incarnation
                    && event["to"] == **to
            }
            Self::TreeReady => event["event"] == "group-ready" && event["group"].is_null(),
            Self::TreeEnded => event["event"] == "tree-ended" && event["failed"] == false,
            Self::Note(kind) => event["event"] == "supervisor" && event["note"]["kind"] == **kind,
        }
    }
}

/// Returns a line as an event or note; `None` for other output.
pub(crate) fn parse(line: &str) -> Option<Value> {
    if line.starts_with('{') { serde_json::from_str(line).ok() } else { None }
}
