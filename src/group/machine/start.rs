//! How a group comes up: what runs already is taken over, the rest is started in order.

use super::{Roster, Stage};
use crate::group::machine::child::{Child, Phase, Then};
use crate::group::order::{At, Found, Order};
use crate::journal::Wanted;
use crate::spec::VmName;
use crate::vm::Mode;
use std::collections::BTreeMap;

impl Roster {
    /// Brings the group up: takes over what runs already, starts the rest in order.
    pub fn start(&mut self, at: At, found: &BTreeMap<VmName, Found>) -> Vec<Order> {
        // One that gave up gets a new chance with its group, unless it was just now.
        self.come_up(at, found, |child| !found.contains_key(child.name()))
    }

    /// Goes on where a former actor of the group has failed: as a start, but what had given up stays down.
    pub fn succeed(&mut self, at: At, found: &BTreeMap<VmName, Found>) -> Vec<Order> {
        self.come_up(at, found, |_| false)
    }

    fn come_up(
        &mut self,
        at: At,
        found: &BTreeMap<VmName, Found>,
        failed_again: impl Fn(&Child) -> bool,
    ) -> Vec<Order> {
        self.stage = Stage::Up;
        self.ready_told = false;
        for index in 0..self.children.len() {
            // One that is live was taken over, or started by the operator, while the group waited.
            if let Some(found) = found.get(self.children[index].name())
                && !self.children[index].phase.is_live()
            {
                self.take_over(at, index, found);
            }
        }
        for index in 0..self.children.len() {
            let child = &mut self.children[index];
            let idle = match child.phase {
                Phase::Stopped => true,
                Phase::Failed { .. } => !std::mem::take(&mut child.gave_up_early) && failed_again(child),
                _ => false,
            };
            // The end of one that was found may have taken the group down already.
            if idle && child.wanted == Wanted::Up && self.stage == Stage::Up {
                child.first_start = true;
                self.enqueue(index, None);
            }
        }
        self.finish(at.now)
    }

    /// Brings the group up after it was escalated: no failures, empty window. All that is to be up is started, as a
    /// restarted supervisor of OTP does: what had given up, and what had ended cleanly, too.
    pub fn start_afresh(&mut self, at: At) -> Vec<Order> {
        self.window.clear();
        for index in 0..self.children.len() {
            self.children[index].attempts = 0;
            // The operator may have started one while the group was down.
            if !self.children[index].phase.is_live() {
                self.set(index, Phase::Stopped, None, None);
            }
        }
        self.start(at, &BTreeMap::new())
    }

    pub(super) fn take_over(&mut self, at: At, index: usize, found: &Found) {
        let child = &mut self.children[index];
        // What it is doing is not its start with this group, but it stands in the order like the others.
        (child.first_start, child.sequenced, child.ready_for) = (false, true, None);
        let judged = found.incarnation < child.incarnation;
        child.incarnation = child.incarnation.max(found.incarnation);
        match (&found.ended, child.wanted) {
            // It was judged when it ended, and stays down.
            (Some(_), _) if child.phase == Phase::Completed => {}
            (Some(_), Wanted::Down) => {}
            // It was judged, and its successor has a number, but did not come to be launched: it is now.
            (Some(_), Wanted::Up) if judged => {}
            (Some(ending), Wanted::Up) => {
                // It ended while nobody looked: judged like any other end, once.
                child.phase = Phase::Running;
                self.judge_end(at, index, ending.clone());
            }
            (None, wanted) => {
                self.set(index, Phase::Starting, None, None);
                self.spawn(index, Mode::Adopt);
                match wanted {
                    Wanted::Up if found.unchanged => {}
                    Wanted::Up => self.order_stop(at.now, index, Then::Start),
                    Wanted::Down => self.order_stop(at.now, index, Then::Stay),
                }
            }
        }
    }
}
