//! What a VM actor is told to do and what it tells its group. The group imports these words; not the other way round.

use crate::policy::Ending;
use crate::spec::{Cid, VmName};

/// How a VM actor comes to its VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It boots it.
    Launch,
    /// It takes over what runs already, or finds out how it ended.
    Adopt,
}

/// What a VM actor reports while its VM lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Its daemon runs.
    Running,
    /// It is Ready.
    Ready,
    /// Its probes fail.
    Unhealthy,
    /// Its probes succeed again.
    Healthy,
    /// Its virtual CPUs stand still.
    Paused,
    /// They run again.
    Resumed,
}

/// A VM actor's report. The group drops those of actors that no longer own the VM.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Which VM.
    pub vm: VmName,
    /// Which of its actors.
    pub epoch: u64,
    /// What.
    pub what: What,
}

/// What a report says.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// The VM lives, and something has changed.
    News(News),
    /// It holds this CID and runs as this process.
    Facts {
        /// Its CID.
        cid: Option<Cid>,
        /// Its VMM's process.
        vmm_pid: Option<u32>,
    },
    /// It is gone, confirmed. The last report of an actor.
    Ended(Ending),
    /// Something that a person should know.
    Notice(String),
}
