//! Decides how a tree ends once every group has ended its work: after a stop, the launcher's list shows whether any VM
//! is left; before the supervision leaves its VMs, calls that are under way come to their end. Knows no actors, no
//! clock and no I/O.
//!
//! ```text
//! after a stop:    Listing ── listed ──▶ Removing ── all answered ──▶ Ended
//!                     ▲                     │ a call failed
//!                     └─── a second later ──┘ (at most four times)
//! before leaving:  Leaving ── all answered ──▶ Ended
//! each of them ── its time is over ──▶ Ended (semantics 7.13)
//! ```

use super::error::TreeEnd;
use crate::executor::argv::OWNER_LABEL;
use crate::observe::{TreeStatus, VmPhase};
use crate::spec::VmName;
use pepita_wire::StatusRecord;
use std::sync::Arc;
use std::time::Duration;

/// The number of times that the list is requested before remaining VMs are only reported.
const LOOKS: u32 = 5;

/// The delay between two requests for the list.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// The end of a tree.
#[derive(Debug)]
pub(super) struct Shutdown {
    end: TreeEnd,
    /// The supervisor's mark on its VMs.
    owner: Arc<str>,
    /// The number of times that the list was requested.
    looks: u32,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The launcher was asked for the list, or will be asked after a pause.
    Listing,
    /// The remaining VMs are being removed.
    Removing { pending: usize, problems: Vec<String> },
    /// The launcher works on VMs that will run on.
    Leaving { pending: usize },
    /// No more work is to be done.
    Ended,
}

/// A step of the root.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// Ask the launcher for its list, and bring the answer to [`Shutdown::listed`].
    List,
    /// Have a VM destroyed, and bring the answer to [`Shutdown::answered`].
    Destroy(VmName),
    /// Let [`Shutdown::answered`] know when the calls about a VM that are under way have ended.
    AwaitCalls(VmName),
    /// Call [`Shutdown::look_again`] after this time.
    LookAgain(Duration),
    /// Tell the host a notice.
    Tell(String),
    /// End the tree.
    Finish(TreeEnd),
}

impl Shutdown {
    /// Begins the end of a tree whose groups are all down.
    pub(super) fn after_stop(end: TreeEnd, owner: Arc<str>) -> (Self, Vec<Action>) {
        (Self { end, owner, looks: 1, stage: Stage::Listing }, vec![Action::List])
    }

    /// Begins the end of a supervision that leaves its VMs running. No actor is left that could give the launcher
    /// further work.
    ///
    /// Calls that are under way are waited for: a launcher that is killed half-way, because this process ends, would
    /// leave an incomplete VM.
    pub(super) fn before_leaving(status: &TreeStatus, owner: Arc<str>) -> (Self, Vec<Action>) {
        let under_way = status.vms().filter(|vm| matches!(vm.phase, VmPhase::Starting | VmPhase::Stopping));
        let mut actions: Vec<Action> = under_way.map(|vm| Action::AwaitCalls(vm.name.clone())).collect();
        let stage = Stage::Leaving { pending: actions.len() };
        let mut shutdown = Self { end: TreeEnd::Left, owner, looks: LOOKS, stage };
        actions.extend(shutdown.proceed());
        (shutdown, actions)
    }

    /// Takes in the launcher's list: the traces of VMs that ended by themselves, and the VMs that a failed actor has
    /// lost.
    pub(super) fn listed(&mut self, list: Result<Vec<StatusRecord>, String>) -> Vec<Action> {
        if !matches!(self.stage, Stage::Listing) {
            return Vec::new();
        }
        let mut actions = Vec::new();
        let mut problems = Vec::new();
        match list {
            Ok(records) => {
                let left = records.iter().filter(|record| self.is_to_go(record));
                let left = left.filter_map(|record| VmName::from_id(&record.name));
                actions.extend(left.map(Action::Destroy));
            }
            Err(e) => problems.push(e),
        }
        self.stage = Stage::Removing { pending: actions.len(), problems };
        actions.extend(self.proceed());
        actions
    }

    /// Takes in the answer of one call, with the error if it failed.
    pub(super) fn answered(&mut self, problem: Option<String>) -> Vec<Action> {
        match &mut self.stage {
            Stage::Removing { pending, problems } => {
                *pending = pending.saturating_sub(1);
                problems.extend(problem);
            }
            Stage::Leaving { pending } => *pending = pending.saturating_sub(1),
            Stage::Listing | Stage::Ended => {}
        }
        self.proceed()
    }

    /// Asks for the list once more, after a pause.
    pub(super) fn look_again(&mut self) -> Vec<Action> {
        match self.stage {
            Stage::Listing => {
                self.looks += 1;
                vec![Action::List]
            }
            Stage::Removing { .. } | Stage::Leaving { .. } | Stage::Ended => Vec::new(),
        }
    }

    /// Ends the tree without the answers that have not come in time.
    pub(super) fn overdue(&mut self) -> Vec<Action> {
        let (mut problems, late) = match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Listing => (Vec::new(), "the launcher did not list what is left".to_owned()),
            Stage::Removing { pending, problems } => {
                (problems, format!("{pending} VMs could not be removed in time"))
            }
            Stage::Leaving { pending } => (
                Vec::new(),
                format!("the launcher is still at work on {pending} of the VMs that are left running"),
            ),
            Stage::Ended => return Vec::new(),
        };
        if self.end == TreeEnd::Stopped {
            self.end = TreeEnd::Failed { reason: late.clone() };
        }
        problems.push(late);
        let mut actions: Vec<Action> = problems.into_iter().map(Action::Tell).collect();
        actions.push(Action::Finish(self.end.clone()));
        actions
    }

    /// Continues once every call has been answered.
    fn proceed(&mut self) -> Vec<Action> {
        let problems = match &mut self.stage {
            Stage::Removing { pending: 0, problems } => std::mem::take(problems),
            Stage::Leaving { pending: 0 } => Vec::new(),
            Stage::Removing { .. } | Stage::Leaving { .. } | Stage::Listing | Stage::Ended => {
                return Vec::new();
            }
        };
        if !problems.is_empty() && self.looks < LOOKS {
            self.stage = Stage::Listing;
            return vec![Action::LookAgain(BETWEEN_LOOKS)];
        }
        self.stage = Stage::Ended;
        let mut actions: Vec<Action> = problems.into_iter().map(Action::Tell).collect();
        actions.push(Action::Finish(self.end.clone()));
        actions
    }

    /// Returns whether a VM in the launcher's list belongs to this supervisor and must be removed. A tree that gave up
    /// leaves the records of VMs that had ended: they give the reason.
    fn is_to_go(&self, record: &StatusRecord) -> bool {
        let ours = record.labels.get(OWNER_LABEL).is_some_and(|label| **label == *self.owner);
        ours && (self.end == TreeEnd::Stopped || !record.state.is_terminal())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pepita_wire::VmState;

    fn vm(name: &str) -> VmName {
        VmName::new(name).expect("a good name")
    }

    fn record(name: &str, owner: &str, state: VmState) -> StatusRecord {
        let mut record = StatusRecord { name: vm(name).id().to_string(), state, ..StatusRecord::default() };
        record.labels.insert(OWNER_LABEL.into(), owner.into());
        record
    }

    fn records() -> Vec<StatusRecord> {
        vec![
            record("up", "edge", VmState::Running),
            record("over", "edge", VmState::Failed),
            record("other", "core", VmState::Running),
        ]
    }

    #[test]
    fn a_stop_removes_what_is_left_of_ours_and_then_ends() {
        let (mut shutdown, actions) = Shutdown::after_stop(TreeEnd::Stopped, "edge".into());
        assert_eq!(actions, [Action::List]);
        assert_eq!(shutdown.listed(Ok(records())), [Action::Destroy(vm("up")), Action::Destroy(vm("over"))]);
        assert_eq!(shutdown.answered(None), []);
        assert_eq!(shutdown.answered(None), [Action::Finish(TreeEnd::Stopped)]);
        assert_eq!(shutdown.answered(None), [], "once");
    }

    #[test]
    fn a_tree_that_gave_up_leaves_the_records_of_what_had_ended() {
        let (mut shutdown, _) = Shutdown::after_stop(TreeEnd::Failed { reason: "x".into() }, "edge".into());
        assert_eq!(shutdown.listed(Ok(records())), [Action::Destroy(vm("up"))]);
    }

    #[test]
    fn what_takes_too_long_is_told_and_waited_for_no_longer() {
        let (mut shutdown, _) = Shutdown::after_stop(TreeEnd::Stopped, "edge".into());
        let late = shutdown.overdue();
        assert!(matches!(&late[..], [Action::Tell(_), Action::Finish(TreeEnd::Failed { .. })]), "{late:?}");
        assert_eq!(shutdown.listed(Ok(records())), [], "an answer that comes later changes nothing");
        assert_eq!(shutdown.overdue(), []);
        let (mut shutdown, _) = Shutdown::after_stop(TreeEnd::Stopped, "edge".into());
        shutdown.listed(Ok(records()));
        let late = shutdown.overdue();
        assert!(matches!(&late[..], [Action::Tell(_), Action::Finish(TreeEnd::Failed { .. })]), "{late:?}");
        let (mut shutdown, _) = Shutdown::after_stop(TreeEnd::Stopped, "edge".into());
        shutdown.listed(Ok(Vec::new()));
        assert_eq!(shutdown.overdue(), [], "it had ended in time");
    }

    #[test]
    fn what_cannot_be_removed_is_tried_again_and_at_last_told() {
        let (mut shutdown, _) = Shutdown::after_stop(TreeEnd::Stopped, "edge".into());
        let again = [Action::LookAgain(BETWEEN_LOOKS)];
        for _ in 1..LOOKS {
            assert_eq!(shutdown.listed(Err("no launcher".into())), again);
            assert_eq!(shutdown.look_again(), [Action::List]);
        }
        let last = shutdown.listed(Err("no launcher".into()));
        assert_eq!(last, [Action::Tell("no launcher".into()), Action::Finish(TreeEnd::Stopped)]);
    }
}
