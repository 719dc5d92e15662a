//! Applies the reports of the VM actors about VMs that run.

use super::Roster;
use super::child::{AfterStop, BeforePause, Origin, Phase, Run, RunState, Start};
use crate::group::order::Order;
use crate::policy::At;
use crate::spec::VmName;
use crate::vm::Transition;
use std::time::Instant;

impl Roster {
    /// Applies the report of a VM actor; reports of former actors are dropped.
    pub fn transition(&mut self, at: At, vm: &VmName, epoch: u64, transition: Transition) -> Vec<Order> {
        let Some(index) = self.current(vm, epoch) else { return Vec::new() };
        if let Some(orders) = self.drowsiness(at, index, transition) {
            return orders;
        }
        let Phase::Live(run) = &self.children[index].phase else { return Vec::new() };
        let Some(state) = next(&run.state, transition, at.now) else { return Vec::new() };
        let mut run = run.clone();
        run.note_ready(at.now);
        let is_found = match transition {
            Transition::Unreachable | Transition::Reached | Transition::SpareReady => false,
            Transition::Running
            | Transition::Ready
            | Transition::Unhealthy
            | Transition::Healthy
            | Transition::Idle
            | Transition::StayedAwake
            | Transition::GoesToSleep
            | Transition::Asleep
            | Transition::Paused
            | Transition::Resumed => true,
        };
        // A VM that was sought is found, and its daemon runs.
        self.children[index].may_run_on &= !is_found;
        self.children[index].has_run |= is_found;
        self.children[index].is_drowsy &= !matches!(state, RunState::Ready { .. } | RunState::Paused { .. });
        self.set(index, Phase::Live(Run { state, ..run }), None, None);
        self.finish(at.now)
    }
}

/// Returns the state after a report. `None`: the same report was made before, or a stop has overtaken the report.
fn next(state: &RunState, transition: Transition, now: Instant) -> Option<RunState> {
    let ready = RunState::Ready { since: now };
    Some(match (state, transition) {
        (RunState::Starting { start, .. } | RunState::Unknown { start }, Transition::Running)
        // A pause is reported again when the actor had lost the VM and has found it again.
        | (RunState::Paused { before: BeforePause::Running { start }, .. }, Transition::Running | Transition::Resumed) => {
            RunState::Running { start: *start }
        }
        (RunState::Paused { before: BeforePause::Ready, .. }, Transition::Running) => {
            RunState::Running { start: Start::Alone }
        }
        (
            RunState::Starting { .. }
            | RunState::Running { .. }
            | RunState::Unhealthy
            | RunState::Paused { .. }
            | RunState::Unknown { .. },
            Transition::Ready,
        )
        | (RunState::Unhealthy, Transition::Healthy)
        // The probes start anew after a pause, also for a VM that was unhealthy before.
        | (RunState::Paused { before: BeforePause::Ready, .. }, Transition::Resumed) => ready,
        (RunState::Ready { .. }, Transition::Unhealthy) => RunState::Unhealthy,
        (RunState::Running { start }, Transition::Paused) => {
            RunState::Paused { before: BeforePause::Running { start: *start }, is_asleep: false }
        }
        (RunState::Ready { .. } | RunState::Unhealthy, Transition::Paused) => {
            RunState::Paused { before: BeforePause::Ready, is_asleep: false }
        }
        (RunState::Ready { .. } | RunState::Unhealthy | RunState::Paused { is_asleep: false, .. }, Transition::Asleep) => {
            RunState::Paused { before: BeforePause::Ready, is_asleep: true }
        }
        // An operator pauses a VM that is asleep.
        (RunState::Paused { before, is_asleep: true }, Transition::Paused) => {
            RunState::Paused { before: *before, is_asleep: false }
        }
        (RunState::Ready { .. }, Transition::GoesToSleep) => {
            RunState::Stopping { then: AfterStop::Sleep, start: Start::Alone }
        }
        (
            RunState::Starting { .. }
            | RunState::Running { .. }
            | RunState::Ready { .. }
            | RunState::Unhealthy
            | RunState::Paused { .. },
            Transition::Unreachable,
        ) => RunState::Unknown { start: state.start() },
        (RunState::Unknown { start }, Transition::Reached) => {
            RunState::Starting { origin: Origin::Adopted, start: *start }
        }
        // See `drowsiness`.
        (
            RunState::Starting { .. }
            | RunState::Running { .. }
            | RunState::Ready { .. }
            | RunState::Unhealthy
            | RunState::Paused { .. }
            | RunState::Stopping { .. }
            | RunState::Unknown { .. },
            Transition::Idle | Transition::StayedAwake,
        )
        | (
            RunState::Starting { .. }
            | RunState::Running { .. }
            | RunState::Stopping { .. }
            | RunState::Unknown { .. }
            | RunState::Paused { is_asleep: true, .. },
            Transition::Asleep,
        )
        | (
            RunState::Starting { .. }
            | RunState::Running { .. }
            | RunState::Unhealthy
            | RunState::Paused { .. }
            | RunState::Stopping { .. }
            | RunState::Unknown { .. },
            Transition::GoesToSleep,
        )
        | (
            RunState::Starting { .. },
            Transition::Unhealthy
            | Transition::Healthy
            | Transition::Paused
            | Transition::Resumed
            | Transition::Reached,
        )
        | (
            RunState::Running { .. },
            Transition::Running
            | Transition::Unhealthy
            | Transition::Healthy
            | Transition::Resumed
            | Transition::Reached,
        )
        | (
            RunState::Ready { .. },
            Transition::Running
            | Transition::Ready
            | Transition::Healthy
            | Transition::Resumed
            | Transition::Reached,
        )
        | (
            RunState::Unhealthy,
            Transition::Running | Transition::Unhealthy | Transition::Resumed | Transition::Reached,
        )
        | (
            RunState::Paused { .. },
            Transition::Unhealthy | Transition::Healthy | Transition::Reached,
        )
        | (RunState::Paused { is_asleep: false, .. }, Transition::Paused)
        | (
            RunState::Unknown { .. },
            Transition::Unhealthy
            | Transition::Healthy
            | Transition::Paused
            | Transition::Resumed
            | Transition::Unreachable,
        )
        | (
            RunState::Stopping { .. },
            Transition::Running
            | Transition::Ready
            | Transition::Unhealthy
            | Transition::Healthy
            | Transition::Paused
            | Transition::Resumed
            | Transition::Unreachable
            | Transition::Reached,
        )
        // A VM is no spare.
        | (_, Transition::SpareReady) => return None,
    })
}
