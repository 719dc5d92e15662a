//! Applies the reports of the VM actors about VMs that run.

use super::Roster;
use super::child::{BeforePause, Phase, Run, RunState, Start};
use crate::group::order::Order;
use crate::policy::At;
use crate::spec::VmName;
use crate::vm::Transition;
use std::time::Instant;

impl Roster {
    /// Applies the report of a VM actor; reports of former actors are dropped.
    pub fn transition(&mut self, at: At, vm: &VmName, epoch: u64, transition: Transition) -> Vec<Order> {
        let Some(index) = self.current(vm, epoch) else { return Vec::new() };
        let Phase::Live(run) = &self.children[index].phase else { return Vec::new() };
        let Some(state) = next(&run.state, transition, at.now) else { return Vec::new() };
        let mut run = run.clone();
        run.note_ready(at.now);
        // Every report of an actor about a VM that starts says that the daemon runs.
        self.children[index].has_run = true;
        self.set(index, Phase::Live(Run { state, ..run }), None, None);
        self.finish(at.now)
    }
}

/// Returns the state after a report. `None`: the same report was made before, or a stop has overtaken the report.
fn next(state: &RunState, transition: Transition, now: Instant) -> Option<RunState> {
    let ready = RunState::Ready { since: now };
    Some(match (state, transition) {
        (RunState::Starting { start, .. }, Transition::Running)
        // A pause is reported again when the actor had lost the VM and has found it again.
        | (RunState::Paused { before: BeforePause::Running { start } }, Transition::Running | Transition::Resumed) => {
            RunState::Running { start: *start }
        }
        (RunState::Paused { before: BeforePause::Ready }, Transition::Running) => {
            RunState::Running { start: Start::Alone }
        }
        (
            RunState::Starting { .. } | RunState::Running { .. } | RunState::Unhealthy | RunState::Paused { .. },
            Transition::Ready,
        )
        | (RunState::Unhealthy, Transition::Healthy)
        // The probes start anew after a pause, also for a VM that was unhealthy before.
        | (RunState::Paused { before: BeforePause::Ready }, Transition::Resumed) => ready,
        (RunState::Ready { .. }, Transition::Unhealthy) => RunState::Unhealthy,
        (RunState::Running { start }, Transition::Paused) => {
            RunState::Paused { before: BeforePause::Running { start: *start } }
        }
        (RunState::Ready { .. } | RunState::Unhealthy, Transition::Paused) => {
            RunState::Paused { before: BeforePause::Ready }
        }
        (
            RunState::Starting { .. },
            Transition::Unhealthy | Transition::Healthy | Transition::Paused | Transition::Resumed,
        )
        | (
            RunState::Running { .. },
            Transition::Running | Transition::Unhealthy | Transition::Healthy | Transition::Resumed,
        )
        | (
            RunState::Ready { .. },
            Transition::Running | Transition::Ready | Transition::Healthy | Transition::Resumed,
        )
        | (RunState::Unhealthy, Transition::Running | Transition::Unhealthy | Transition::Resumed)
        | (RunState::Paused { .. }, Transition::Unhealthy | Transition::Healthy | Transition::Paused)
        | (
            RunState::Stopping { .. },
            Transition::Running
            | Transition::Ready
            | Transition::Unhealthy
            | Transition::Healthy
            | Transition::Paused
            | Transition::Resumed,
        ) => return None,
    })
}
