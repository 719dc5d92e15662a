//! A VM that is idle: when its group is told, and how the monitor is asked to put it to sleep. The group decides, and the
//! monitor refuses when a client has come meanwhile.

use super::end::STOP_SLACK;
use super::{Effect, Life, Phase, Stage};
use crate::spec::IdleAction;
use crate::vm::drowsiness::Drowsiness;
use crate::vm::report::Transition;
use pepita_wire::{Exit, MonitorRequest};
use std::time::Instant;

impl Life {
    /// Tells the group that the VM is idle for long enough. A VM that is unhealthy, or going down, is told of otherwise.
    pub(super) fn tick_drowsiness(&mut self, now: Instant) {
        let is_due = self.drowsiness.wake_at(&self.spec.idle).is_some_and(|at| now >= at);
        if let Phase::Alive { stage: Stage::Ready { health }, .. } = &self.phase
            && is_due
            && health.is_well()
        {
            self.drowsiness.told();
            self.effects.push(Effect::Tell(Transition::Idle));
        }
    }

    pub(super) fn sleep(&mut self) {
        let request = match self.spec.idle.action {
            IdleAction::Pause => MonitorRequest::Sleep,
            IdleAction::Stop => MonitorRequest::Stop {
                signal: self.stop_signal(),
                timeout_ms: u64::try_from(self.spec.stop.timeout.as_millis()).unwrap_or(u64::MAX),
                force: false,
                if_idle: true,
            },
        };
        match self.phase {
            Phase::Alive { stage: Stage::Ready { .. }, .. } => self.effects.push(Effect::Sleep(request)),
            Phase::Alive {
                stage: Stage::Spare | Stage::Booting { .. } | Stage::Running { .. } | Stage::Paused(_),
                ..
            }
            | Phase::Created
            | Phase::Leasing { .. }
            | Phase::Launching(_)
            | Phase::Undoing
            | Phase::Adopting(_)
            | Phase::Stopping { .. }
            | Phase::Removing { .. }
            | Phase::Gone => self.stay_awake(None),
        }
    }

    /// Takes in the answer of the monitor. A refusal means that a client has come; the time begins anew.
    pub(super) fn sleep_answered(&mut self, now: Instant, result: Result<(), String>) {
        match (result, self.spec.idle.action, &self.phase) {
            (Ok(()), IdleAction::Stop, Phase::Alive { .. }) => {
                let deadline = now + self.spec.stop.timeout + STOP_SLACK;
                self.phase = Phase::Stopping { deadline, ending: Exit::StopRequested.into() };
                self.effects.push(Effect::Tell(Transition::GoesToSleep));
            }
            // The status tells that the VM sleeps, or has ended.
            (Ok(()), IdleAction::Stop | IdleAction::Pause, _) => self.drowsiness.begin_anew(),
            (Err(_), IdleAction::Stop | IdleAction::Pause, _) => self.stay_awake(Some(now)),
        }
    }

    fn stay_awake(&mut self, since: Option<Instant>) {
        self.drowsiness = Drowsiness::since(since);
        self.effects.push(Effect::Tell(Transition::StayedAwake));
    }
}
