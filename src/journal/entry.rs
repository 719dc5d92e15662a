//! A VM's file in the journal.

use crate::policy::Failure;
use serde::{Deserialize, Serialize};

/// The entry of a VM. A field that a file does not have, because an older program wrote it, has its default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Entry {
    /// The launcher's name for the VM. For people: the name of the file says which VM it belongs to.
    pub(super) vm_id: String,
    /// The newest incarnation.
    pub(super) incarnation: u64,
    /// Whether the VM is to be up.
    pub(super) wanted: bool,
    /// The number of consecutive failures.
    pub(super) attempts: u32,
    /// Whether the daemon of any incarnation has run.
    pub(super) has_run: bool,
    /// Whether the VM had ended cleanly and was not to be restarted.
    pub(super) completed: bool,
    /// The CID of the VM, while it holds one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cid: Option<u32>,
    /// The fingerprint of the configuration that the VM was last started with.
    pub(super) config: String,
    /// The newest incarnation whose end was recorded: its exit record is no new event.
    pub(super) ended: u64,
    /// The reason why the supervisor had given the VM up. Not on the disk: a new run of the supervisor tries again.
    #[serde(skip)]
    pub(super) failed: Option<Failure>,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            vm_id: String::new(),
            incarnation: 0,
            // A VM that no operator has stopped is to be up.
            wanted: true,
            attempts: 0,
            has_run: false,
            completed: false,
            cid: None,
            config: String::new(),
            ended: 0,
            failed: None,
        }
    }
}
