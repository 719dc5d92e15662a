//! What an operator asks of a VM.

use super::{Roster, Stage};
use crate::group::machine::child::{Phase, Then};
use crate::group::machine::group_restart::Round;
use crate::group::order::{At, Command, Order, Refused};
use crate::journal::Wanted;
use crate::spec::VmName;
use std::time::Instant;

impl Roster {
    /// Does what an operator asks. In a group that has ended, a start brings the group back, with this VM alone.
    ///
    /// # Errors
    /// When there is no such VM or the group is going down.
    pub fn command(&mut self, at: At, vm: &VmName, command: Command) -> Result<Vec<Order>, Refused> {
        let leaves = |index: &usize| self.children[*index].phase == Phase::Stopping { then: Then::Forget };
        // One that is on its way out of the configuration is not there any more.
        let index = self.find(vm).filter(|index| !leaves(index));
        let index = index.ok_or_else(|| Refused::NoSuchVm(vm.to_string()))?;
        match (&self.stage, command) {
            (Stage::GoingDown(_), Command::Start | Command::Restart | Command::Reset) => {
                return Err(Refused::Stopping);
            }
            (Stage::GoingDown(_), Command::Stop) | (Stage::Up | Stage::Down, _) => {}
        }
        match command {
            Command::Start => self.operator_start(at.now, index),
            Command::Stop => self.operator_stop(at.now, index),
            Command::Restart => {
                if self.children[index].phase.is_live() {
                    self.order_stop(at.now, index, Then::Start);
                }
                self.operator_start(at.now, index);
            }
            Command::Reset => {
                self.children[index].attempts = 0;
                if matches!(self.children[index].phase, Phase::Failed { .. }) {
                    self.operator_start(at.now, index);
                }
            }
        }
        Ok(self.finish(at.now))
    }

    fn operator_start(&mut self, now: Instant, index: usize) {
        if self.stage == Stage::Down {
            self.stage = Stage::Up;
            self.ready_told = false;
        }
        let child = &mut self.children[index];
        child.wanted = Wanted::Up;
        child.attempts = 0;
        // Whether it succeeds is no longer a matter of the group's start.
        child.first_start = false;
        match child.phase {
            Phase::Stopping { .. } => child.phase = Phase::Stopping { then: Then::Start },
            _ if child.phase.is_live() => {}
            // Its turn comes.
            Phase::Waiting => {}
            // The delay that is cut short is that of the whole group restart, whose order holds.
            Phase::Backoff { .. } if child.in_round => {
                self.round = self.round.map(|round| Round { deadline: now, ..round });
                self.enqueue(index, None);
            }
            _ => {
                child.sequenced = false;
                self.start_or_queue(index);
            }
        }
    }

    fn operator_stop(&mut self, now: Instant, index: usize) {
        let child = &mut self.children[index];
        child.wanted = Wanted::Down;
        if child.phase.is_live() {
            self.order_stop(now, index, Then::Stay);
        } else {
            self.set(index, Phase::Stopped, None, None);
        }
    }
}
