//! What the VM actors report, and that one has failed.

use super::{Roster, Stage};
use crate::group::machine::child::{Phase, Then};
use crate::group::order::{At, Order};
use crate::observe::Action;
use crate::policy::Ending;
use crate::spec::VmName;
use crate::vm::{Mode, Transition};

impl Roster {
    /// Takes in what a VM actor reports; reports of former actors are dropped.
    pub fn news(&mut self, at: At, vm: &VmName, epoch: u64, news: Transition) -> Vec<Order> {
        let Some(index) = self.current(vm, epoch) else { return Vec::new() };
        let child = &mut self.children[index];
        let next = match (&child.phase, news) {
            // A paused VM is told about anew when its actor had lost it and has found it again.
            (Phase::Starting | Phase::Paused { .. }, Transition::Running)
            | (Phase::Paused { was_ready: false }, Transition::Resumed) => Phase::Running,
            (Phase::Starting | Phase::Running | Phase::Unhealthy | Phase::Paused { .. }, Transition::Ready)
            | (Phase::Unhealthy, Transition::Healthy)
            // Its probes start anew after a pause, also those of one that was unhealthy before.
            | (Phase::Paused { was_ready: true }, Transition::Resumed) => Phase::Ready { since: at.now },
            (Phase::Ready { .. }, Transition::Unhealthy) => Phase::Unhealthy,
            (Phase::Running, Transition::Paused) => Phase::Paused { was_ready: false },
            (Phase::Ready { .. } | Phase::Unhealthy, Transition::Paused) => Phase::Paused { was_ready: true },
            // Told again, or overtaken by a stop.
            (
                _,
                Transition::Running | Transition::Ready | Transition::Unhealthy | Transition::Healthy | Transition::Paused | Transition::Resumed,
            ) => {
                return Vec::new();
            }
        };
        child.note_ready(at.now);
        if let Phase::Ready { .. } = next {
            (child.sequenced, child.first_start) = (false, false);
        }
        self.set(index, next, None, None);
        self.finish(at.now)
    }

    /// Takes in that a VM is gone, confirmed.
    pub fn ended(&mut self, at: At, vm: &VmName, epoch: u64, ending: Ending) -> Vec<Order> {
        let Some(index) = self.current(vm, epoch) else { return Vec::new() };
        self.judge_end(at, index, ending);
        self.finish(at.now)
    }

    /// Takes in that a VM's actor has failed. The VM itself did not notice: a new actor takes it over.
    ///
    /// Each time counts in the window like a restart. When there is no room the new actor takes the VM down, and its
    /// end is a failure like any other: what exceeding the window leads to is decided in one place.
    pub fn actor_failed(&mut self, at: At, vm: &VmName, epoch: u64, why: &str) -> Vec<Order> {
        let Some(index) = self.current(vm, epoch) else { return Vec::new() };
        self.window.age(at.now, self.spec.intensity.period);
        self.children[index].note_ready(at.now);
        let ending = Some(Ending::ActorFailed);
        let stopping = matches!(self.children[index].phase, Phase::Stopping { .. });
        // What goes down anyway is nothing to count.
        let counts = !stopping && self.stage == Stage::Up;
        if counts && self.window.admit(at.now, self.spec.intensity).is_err() {
            self.spawn(index, Mode::Adopt);
            self.set(index, Phase::Stopping { then: Then::Judge }, ending, None);
            self.tell_to_stop(index);
            return self.finish(at.now);
        }
        let decision = self.decision(index, Action::Adopt, format!("its actor failed: {why}"));
        let phase = if stopping { self.children[index].phase.clone() } else { Phase::Starting };
        self.set(index, phase, ending, Some(decision));
        self.spawn(index, Mode::Adopt);
        if stopping {
            self.tell_to_stop(index);
        }
        self.finish(at.now)
    }
}
