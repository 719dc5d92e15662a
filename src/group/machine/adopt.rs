//! Takes over VMs that run already: the VMs that a previous run of the supervisor, or a former actor, has left
//! (semantics 9).

use super::child::{AfterStop, Origin, Phase, Run, RunState, Start};
use super::stop::stopping;
use super::{Roster, Stage};
use crate::group::order::{Found, Order};
use crate::journal::Wanted;
use crate::policy::{Action, At, Decision, Ending, GroupEnd, Reason};
use crate::spec::VmName;
use crate::vm::Mode;
use std::collections::BTreeMap;

impl Roster {
    /// Takes over the running VMs that are to go on, and stops the running VMs that are not wanted. A group that waits
    /// for another group does not leave its VMs unwatched meanwhile. The rest of `found` is kept for [`Roster::start`].
    pub fn adopt(&mut self, at: At, found: BTreeMap<VmName, Found>) -> Vec<Order> {
        let (running, rest): (BTreeMap<_, _>, BTreeMap<_, _>) = found.into_iter().partition(|(vm, found)| {
            let unwanted = self.find(vm).is_some_and(|index| self.children[index].wanted == Wanted::Down);
            found.ended.is_none() && (unwanted || found.unchanged)
        });
        match &mut self.stage {
            Stage::Waiting { found, .. } => *found = rest,
            // No start is to come that would judge the rest. A VM of the rest is replaced when its successor is
            // launched.
            Stage::Up { .. } | Stage::GoingDown { .. } | Stage::Down { .. } => {}
        }
        self.take_over_all(at, &running);
        self.finish(at.now)
    }

    /// Takes over the VMs that run, starts none, and stops the group in order.
    pub fn adopt_and_stop(&mut self, at: At, found: &BTreeMap<VmName, Found>) -> Vec<Order> {
        self.stage = Stage::Up { ready_told: true };
        self.take_over_all(at, found);
        self.go_down(GroupEnd::Stopped);
        self.finish(at.now)
    }

    pub(super) fn take_over_all(&mut self, at: At, found: &BTreeMap<VmName, Found>) {
        for index in 0..self.children.len() {
            if let Some(found) = found.get(self.children[index].name()) {
                self.take_over(at, index, found);
            }
        }
    }

    /// Judges the end of a VM that was found, or orders an actor that takes the VM over. A takeover is no start with
    /// the group, but the VM has its place in the start order like the others.
    pub(super) fn take_over(&mut self, at: At, index: usize, found: &Found) {
        let child = &mut self.children[index];
        // A later incarnation has been numbered, so that the end of this incarnation was judged before.
        let judged = found.incarnation < child.newest || child.phase == Phase::Completed;
        // What runs has its own number, also when a later one was given and not used.
        if found.ended.is_none() || found.incarnation > child.newest {
            child.number(found.incarnation);
        }
        child.has_run |= found.ended.as_ref().is_some_and(Ending::shows_that_the_daemon_ran);
        match (&found.ended, child.wanted) {
            (Some(_), Wanted::Down) => {}
            (Some(_), Wanted::Up) if judged => {}
            // Nobody needs it: the next client starts it.
            (Some(_), Wanted::Up) if child.is_drowsy && child.may_be_idle() => {}
            // The VM ended while no supervisor watched: the end is judged like any other, once.
            (Some(ending), Wanted::Up) => self.judge(at, index, ending.clone(), false),
            (None, wanted) => {
                let epoch = self.next_epoch();
                let state = match found.reachable {
                    true => RunState::Starting { origin: Origin::Adopted, start: Start::InTurn },
                    // The VM holds up no other VM until it answers.
                    false => RunState::Unknown { start: Start::InTurn },
                };
                let run = Run { epoch, state, ready_for: None, outdated: false };
                self.set(index, Phase::Live(run), None, None);
                self.spawn(index, Mode::Adopt);
                match wanted {
                    Wanted::Up if found.unchanged => {}
                    Wanted::Up => self.order_stop(at.now, index, AfterStop::Start),
                    Wanted::Down => self.order_stop(at.now, index, AfterStop::StayDown),
                }
            }
        }
    }

    /// Records that a VM's actor has failed. The VM itself is not affected: a new actor takes the VM over.
    ///
    /// Each failure counts in the window like a restart. When the window has no room, the new actor takes the VM down,
    /// and that end is a failure like any other: the consequence of exceeding the window is decided in one place.
    pub fn actor_failed(&mut self, at: At, vm: &VmName, epoch: u64, why: &str) -> Vec<Order> {
        let Some(index) = self.current(vm, epoch) else { return Vec::new() };
        let epoch = self.next_epoch();
        let up = self.is_up();
        let child = &mut self.children[index];
        let Phase::Live(run) = &mut child.phase else { return Vec::new() };
        run.note_ready(at.now);
        let was_stopping = run.state.is_stopping();
        let ending = Some(Ending::ActorFailed { message: why.to_owned() });
        // The failure of an actor is not counted when its VM is going down anyway.
        let counts = up && !was_stopping;
        if counts && self.window.enter(at.now, self.spec.intensity).is_err() {
            let then = AfterStop::Fail { message: why.to_owned() };
            let run = Run { epoch, ..stopping(run, at.now, then) };
            self.set(index, Phase::Live(run), ending, None);
            self.spawn(index, Mode::Adopt);
            self.tell_to_stop(index);
            return self.finish(at.now);
        }
        let state = match &run.state {
            state @ (RunState::Stopping { .. } | RunState::Starting { origin: Origin::Sought, .. }) => {
                state.clone()
            }
            state @ (RunState::Starting { .. }
            | RunState::Running { .. }
            | RunState::Ready { .. }
            | RunState::Unhealthy
            | RunState::Paused { .. }
            | RunState::Unknown { .. }) => {
                RunState::Starting { origin: Origin::Adopted, start: state.start() }
            }
        };
        let run = Run { epoch, state, ..run.clone() };
        let decision = Decision {
            action: Action::Adopt,
            reason: Reason::ActorFailed,
            delay: None,
            attempt: child.attempts,
            max_attempts: child.spec.restart.max_retries,
            window: self.window.count(at.now, self.spec.intensity),
            joined: false,
        };
        self.set(index, Phase::Live(run), ending, Some(decision));
        self.spawn(index, Mode::Adopt);
        if was_stopping {
            self.tell_to_stop(index);
        }
        self.finish(at.now)
    }
}
