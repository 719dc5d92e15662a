//! What the supervisor has told, over all its runs, with the check of what must hold.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The number of the last events that a failure shows.
const SHOWN: usize = 400;

#[derive(Debug, Default)]
pub(crate) struct Story {
    /// The newest incarnations that events named, and those that a status has shown: events are read later.
    told: BTreeMap<String, u64>,
    shown: BTreeMap<String, u64>,
    /// The incarnations whose end was told.
    ended: BTreeSet<(String, u64)>,
    last: VecDeque<String>,
}

impl Story {
    /// Adds what was told since, and asserts that incarnations only grow and that none ends twice.
    pub(crate) fn add(&mut self, events: Vec<Value>) {
        for event in events {
            self.last.push_back(event.to_string());
            if self.last.len() > SHOWN {
                self.last.pop_front();
            }
            let (Some(vm), Some(number)) = (event["vm"].as_str(), event["incarnation"].as_u64()) else {
                continue;
            };
            let before = self.told.insert(vm.to_owned(), number).unwrap_or_default();
            assert!(number >= before, "{vm} is #{number} after #{before}\n{}", self.tail());
            if event["to"] == "backoff" {
                // Earlier ones cannot come again: their numbers are too low.
                self.ended.retain(|(known, ended)| known != vm || *ended >= number);
                let first = self.ended.insert((vm.to_owned(), number));
                assert!(first, "{vm} #{number} ended twice\n{}", self.tail());
            }
        }
    }

    /// Adds the incarnation that a status shows.
    pub(crate) fn shows(&mut self, vm: &str, number: u64) {
        let before = self.shown.insert(vm.to_owned(), number).unwrap_or_default();
        assert!(number >= before, "{vm} is #{number} after #{before}\n{}", self.tail());
    }

    /// Returns the last events.
    pub(crate) fn tail(&self) -> String {
        self.last.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}
