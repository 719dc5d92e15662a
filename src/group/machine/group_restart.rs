//! Restarts several VMs together (one_for_all, rest_for_one; semantics 5).
//!
//! A group restart lasts from the failure until its members are down and its deadline is over; then the members stand
//! in the queue as at the first start. Its progress is not stored: the phases of its members show it.
//!
//! ```text
//!   failure ──▶ members are stopped, last first ──▶ all down, deadline over ──▶ members await their turn
//!      ▲              │                                       │
//!      └──────────────┴── another failure joins: the later ───┘
//!                         deadline counts, the set may grow
//! ```

use super::child::{AfterStop, Child, Phase};
use super::{GroupRestart, Roster};
use std::collections::BTreeSet;
use std::time::Instant;

impl Roster {
    /// Returns whether the child takes part in the group restart that is under way.
    pub(super) fn is_restarting(&self, child: &Child) -> bool {
        self.group_restart.as_ref().is_some_and(|restart| restart.members.contains(child.name()))
    }

    /// Adds all children from `first` on to the group restart that is under way, or to a new one if there is none. Two
    /// group restarts never run at the same time.
    pub(super) fn take_along(&mut self, first: usize, deadline: Instant, counted: bool) {
        let new = GroupRestart { deadline, counted, members: BTreeSet::new() };
        let restart = self.group_restart.get_or_insert(new);
        restart.deadline = restart.deadline.max(deadline);
        restart.counted |= counted;
        for child in self.children.iter().skip(first) {
            restart.members.insert(child.name().clone());
            // A child in backoff joins: its deadline counts for the whole group restart, and its own timer no longer
            // does.
            if let Phase::Backoff { until, .. } = child.phase {
                restart.deadline = restart.deadline.max(until);
            }
        }
    }

    /// Stops the members of the group restart, waits for its deadline, and puts them in the queue.
    pub(super) fn advance_group_restart(&mut self, now: Instant) {
        let Some(restart) = self.group_restart.clone() else { return };
        let member = |child: &Child| restart.members.contains(child.name());
        if !self.stop_last(now, member, &AfterStop::AwaitTurn) || now < restart.deadline {
            return;
        }
        let coming: Vec<usize> =
            (0..self.children.len()).filter(|index| self.comes_back(&self.children[*index])).collect();
        self.group_restart = None;
        for index in coming {
            self.enqueue(index, false);
        }
    }

    /// Returns whether the group restart that is under way starts the child, which has ended by itself.
    pub(super) fn comes_back(&self, child: &Child) -> bool {
        self.is_restarting(child)
            && match child.phase {
                Phase::Backoff { .. } => true,
                // A child that had ended cleanly comes back with its siblings, if its policy ever restarts it.
                Phase::Completed => child.spec.restart.policy.ever_restarts(),
                // The children that were stopped for the group restart wait for their turn already. Children that the
                // operator had stopped, that sleep, or that gave up, stay down.
                Phase::Stopped
                | Phase::Idle { .. }
                | Phase::AwaitingGroup
                | Phase::AwaitingTurn { .. }
                | Phase::Live(_)
                | Phase::Failed(_) => false,
            }
    }
}
