//! The errors of a tree, and how a tree ends.

use super::check::SpecError;
use crate::claim::ClaimError;
use crate::executor::{ExecutorError, NotFound};
use crate::group::Refused;
use crate::journal::JournalError;
use crate::spec::{GroupName, Removals, VmName};
use std::path::PathBuf;
use std::time::Duration;

/// The reason why a tree did not start. No VM was started, and nothing is left.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The specification contradicts itself.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// There is no launcher.
    #[error("the launcher is missing: {0}")]
    NotFound(#[from] NotFound),
    /// The launcher cannot be used.
    #[error("the launcher cannot be used: {0}")]
    Launcher(#[from] ExecutorError),
    /// The journal cannot be used, most often because another supervisor uses it.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The name of the supervisor cannot be claimed, most often because another supervisor of that name runs.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The specification says `orphans = "refuse"`, and a previous run left VMs.
    #[error("a previous run left {}; adopt or destroy them first", list(.0))]
    Orphans(Vec<VmName>),
    /// The specification lacks all or more than half of the VMs that a previous run left, and nobody has allowed that
    /// they are ended.
    #[error(
        "{0}, and those run: a file that was cut off looks like that. They were left running. If that is meant: \
         pepitad --allow-removal"
    )]
    Removal(Removals),
    /// VMs run in the directory of run directories that this supervisor used before.
    #[error(
        "{} run in {}, which was the run_dir of this supervisor until now: a second copy of each would start. Stop them \
         first, or set run_dir = {:?}",
        list(.vms), .run_dir.display(), .run_dir
    )]
    Elsewhere {
        /// The former directory of run directories.
        run_dir: PathBuf,
        /// The VMs that run there.
        vms: Vec<VmName>,
    },
    /// An actor could not be spawned.
    #[error("cannot start: {0}")]
    Actor(String),
}

/// The reason why a change of a running tree was refused. No part of it was applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The specification would contradict itself.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The change needs a new start of the supervisor.
    #[error("supervisor: {} cannot change while it runs; restart it", .0.join(", "))]
    Fixed(Vec<&'static str>),
    /// A VM would move to another group, or is still being removed from one.
    #[error(
        "VM {vm:?} is still in group {from:?}; remove it there first, and add it to {to:?} when it is gone"
    )]
    Moved {
        /// The name of the VM.
        vm: String,
        /// The group that it is in.
        from: String,
        /// The group that it would be in.
        to: String,
    },
    /// The change removes all VMs or more than half of them, and nobody has allowed that.
    #[error("{0}; nothing was changed. If that is meant: pepitactl reload --allow-removal")]
    Removal(Removals),
    /// The group or VM does not exist, or exists already, or the tree is stopping.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// The reason why a tree is not ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// Becoming ready took too long.
    #[error("not ready after {}: {waiting}", humantime::format_duration(*.after))]
    Timeout {
        /// The time that was waited.
        after: Duration,
        /// The VMs that are not ready, each with its phase.
        waiting: String,
    },
    /// A group has given up: the tree will not be ready.
    #[error("group {group:?} failed: {reason}")]
    Failed {
        /// The name of the group.
        group: String,
        /// The reason, for people.
        reason: String,
    },
    /// The tree is stopping or has ended.
    #[error("the supervisor is stopping")]
    Ending,
}

/// The end of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeEnd {
    /// The tree was told to stop, and none of its VMs runs.
    Stopped,
    /// The tree was told to leave: its VMs run on, and the next run adopts them.
    Left,
    /// The tree gave up.
    Failed {
        /// The reason, for people.
        reason: String,
    },
}

impl std::fmt::Display for TreeEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::Left => f.write_str("left its VMs running"),
            Self::Failed { reason } => f.write_str(reason),
        }
    }
}

/// The stage of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    Starting,
    Ready,
    Failed { group: GroupName, reason: String },
    Ending,
}

fn list(vms: &[VmName]) -> String {
    vms.iter().map(VmName::as_str).collect::<Vec<_>>().join(", ")
}
