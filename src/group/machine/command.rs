//! Carries out the commands of an operator for a VM (semantics 5).

use super::child::{AfterStop, Phase, RunState, Start};
use super::{Roster, Stage};
use crate::group::order::{Command, Order, Refused};
use crate::journal::Wanted;
use crate::policy::At;
use crate::spec::VmName;
use std::time::Instant;

impl Roster {
    /// Carries out a command of an operator. In a group that has ended, a start brings the group back, with this VM
    /// alone.
    ///
    /// # Errors
    /// Returns a refusal when there is no such VM or the group is going down.
    pub fn command(&mut self, at: At, vm: &VmName, command: Command) -> Result<Vec<Order>, Refused> {
        // A VM that is being removed from the configuration counts as absent.
        let index = self.find(vm).filter(|index| !self.children[*index].phase.is_leaving());
        let index = index.ok_or_else(|| Refused::NoSuchVm(vm.to_string()))?;
        match (&self.stage, command) {
            (Stage::GoingDown { .. }, Command::Start | Command::Restart | Command::Reset) => {
                return Err(Refused::Stopping);
            }
            (Stage::GoingDown { .. }, Command::Stop)
            | (
                Stage::Waiting { .. } | Stage::Up { .. } | Stage::Down { .. },
                Command::Start | Command::Stop | Command::Restart | Command::Reset,
            ) => {}
        }
        match command {
            Command::Start => self.operator_start(at.now, index),
            Command::Stop => self.operator_stop(at, index),
            Command::Restart => {
                self.order_stop(at.now, index, AfterStop::Start);
                self.operator_start(at.now, index);
                if self.children[index].may_run_on {
                    // A VM that was given up and runs on is taken over first, to be stopped.
                    self.order_stop(at.now, index, AfterStop::Start);
                }
            }
            Command::Reset => {
                self.children[index].attempts = 0;
                if matches!(self.children[index].phase, Phase::Failed(_)) {
                    self.operator_start(at.now, index);
                }
            }
        }
        Ok(self.finish(at.now))
    }

    fn operator_start(&mut self, now: Instant, index: usize) {
        match self.stage {
            Stage::Down { .. } => {
                self.stage = Stage::Up { ready_told: false };
                self.orders.push(Order::BroughtBack);
            }
            Stage::Waiting { .. } | Stage::Up { .. } | Stage::GoingDown { .. } => {}
        }
        let restarting = self.is_restarting(&self.children[index]);
        let child = &mut self.children[index];
        child.wanted = Wanted::Up;
        child.attempts = 0;
        match &mut child.phase {
            Phase::Live(run) => {
                if let RunState::Stopping { then, .. } = &mut run.state {
                    *then = AfterStop::Start;
                }
                run.leave_first_start();
                self.wake(index);
            }
            // The VM waits for its turn already.
            Phase::AwaitingTurn { first_start } => *first_start = false,
            // The command cuts the delay of the whole group restart short; the order of the group restart still holds.
            Phase::Backoff { .. } if restarting => {
                if let Some(restart) = &mut self.group_restart {
                    restart.deadline = now;
                }
                self.enqueue(index, false);
            }
            Phase::Stopped
            | Phase::AwaitingGroup
            | Phase::Idle { .. }
            | Phase::Backoff { .. }
            | Phase::Completed
            | Phase::Failed(_) => self.start_or_queue(index, Start::Alone),
        }
    }

    fn operator_stop(&mut self, at: At, index: usize) {
        self.children[index].wanted = Wanted::Down;
        self.children[index].is_drowsy = false;
        // A VM that was found running and waits for its group to judge it is not down: an actor stops it.
        let found = match &mut self.stage {
            Stage::Waiting { found, .. } => found.remove(self.children[index].name()),
            Stage::Up { .. } | Stage::GoingDown { .. } | Stage::Down { .. } => None,
        };
        if let Some(found) = found.filter(|found| found.ended.is_none()) {
            return self.take_over(at, index, &found);
        }
        let goes_on = match self.stage {
            Stage::Up { .. } | Stage::Waiting { .. } => true,
            Stage::GoingDown { .. } | Stage::Down { .. } => false,
        };
        if self.children[index].may_run_on && !self.children[index].phase.is_live() && goes_on {
            // A VM that was given up is not down: it is taken over to be stopped.
            self.seek(index, Start::Alone);
        }
        if self.children[index].phase.is_live() {
            self.order_stop(at.now, index, AfterStop::StayDown);
        } else {
            self.set(index, Phase::Stopped, None, None);
        }
    }
}
