//! A VM's file in the journal.

use super::{Remembered, Wanted};
use crate::policy::Failure;
use crate::spec::{Cid, Incarnation};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The entry of a VM. A field that a file does not have, because an older program wrote it, has its default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Entry {
    /// The launcher's name for the VM. For people: the name of the file says which VM it belongs to.
    pub(super) vm_id: String,
    /// The newest incarnation.
    pub(super) incarnation: u64,
    /// Whether the VM is to be up.
    pub(super) wanted: bool,
    /// Whether an operator has decided that. Such a file is synced each time that it is written.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) said: bool,
    /// The number of consecutive failures.
    pub(super) attempts: u32,
    /// Whether the daemon of any incarnation has run.
    pub(super) has_run: bool,
    /// Whether the VM had ended cleanly and was not to be restarted.
    pub(super) completed: bool,
    /// Whether the VM was asleep, or being put to sleep.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) idle: bool,
    /// The CID of the VM, while it holds one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cid: Option<u32>,
    /// The directory of the run directories in which the VM was last started; absent when it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) run_dir: Option<PathBuf>,
    /// The fingerprint of the configuration that the VM was last started with.
    pub(super) config: String,
    /// The newest incarnation whose end was recorded: its exit record is no new event.
    pub(super) ended: u64,
    /// The reason why the supervisor had given the VM up. Not on the disk: a new run of the supervisor tries again.
    #[serde(skip)]
    pub(super) failed: Option<Failure>,
}

impl Entry {
    /// Returns whether an operator has decided whether a VM is to be up, when its entry is about to be written in place of
    /// `former`. A VM that is to be down was stopped, and a VM whose wish changes was told so. The first entry of a VM is
    /// written at the start of its group, before any operator can ask for something.
    pub(super) fn is_said(wanted: bool, former: Option<&Self>) -> bool {
        !wanted || former.is_some_and(|former| former.said || !former.wanted)
    }

    /// Returns what the group of the VM knows of it.
    pub(super) fn remembered(&self) -> Remembered {
        Remembered {
            incarnation: Incarnation(self.incarnation),
            wanted: if self.wanted { Wanted::Up } else { Wanted::Down },
            attempts: self.attempts,
            has_run: self.has_run,
            completed: self.completed,
            idle: self.idle,
            failed: self.failed.clone(),
        }
    }

    /// Returns the CID that the VM held.
    pub(super) fn cid(&self) -> Option<Cid> {
        Cid::new(self.cid?).ok()
    }
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            vm_id: String::new(),
            incarnation: 0,
            // A VM that no operator has stopped is to be up.
            wanted: true,
            said: false,
            attempts: 0,
            has_run: false,
            completed: false,
            idle: false,
            cid: None,
            run_dir: None,
            config: String::new(),
            ended: 0,
            failed: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_said_stays_said() {
        let entry = |wanted, former: Option<&Entry>| Entry {
            wanted,
            said: Entry::is_said(wanted, former),
            ..Entry::default()
        };
        let first = entry(true, None);
        assert!(!first.said && !entry(true, Some(&first)).said, "nobody has asked for anything");
        let stopped = entry(false, Some(&first));
        let started = entry(true, Some(&stopped));
        assert!(stopped.said && started.said && entry(true, Some(&started)).said);
        let read = serde_json::to_string(&started).expect("JSON");
        assert_eq!(
            serde_json::from_str::<Entry>(&read).expect("read"),
            started,
            "the next run knows it, too"
        );
        let older: Entry = serde_json::from_str("{\"wanted\": false}").expect("read");
        assert!(entry(true, Some(&older)).said, "a program that did not write it has stopped the VM");
    }
}
