//! A VM that is idle: when its group is told, and how the monitor is asked to put it to sleep. The group decides, and the
//! monitor refuses when a client has come meanwhile.

use super::end::STOP_SLACK;
use super::{Effect, Life, Phase, Stage};
use crate::spec::{IdleAction, IdleSpec};
use crate::vm::report::Transition;
use pepita_wire::{Exit, MonitorRequest, StatusRecord};
use std::time::{Duration, Instant};

/// What is known of the time for which a VM is idle.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Drowsiness {
    /// Since when the VM is idle; `None`: it is in use, or that is not known.
    since: Option<Instant>,
    /// Whether the group was told, and the VM neither sleeps nor stayed awake since.
    is_told: bool,
}

impl Drowsiness {
    /// Takes in what the monitor tells of the use of the VM.
    pub(super) fn heard(&mut self, now: Instant, record: &StatusRecord) {
        let ago = record.idle_ms.map(Duration::from_millis);
        self.since = ago.map(|ago| now.checked_sub(ago).unwrap_or(now));
    }

    /// Forgets that the group was told: what was agreed does not hold any more.
    pub(super) fn begin_anew(&mut self) {
        self.is_told = false;
    }

    /// Returns the moment at which the VM is idle for long enough.
    pub(super) fn wake_at(&self, spec: &IdleSpec) -> Option<Instant> {
        self.since.filter(|_| spec.is_set() && !self.is_told)?.checked_add(spec.after)
    }
}

impl Life {
    /// Tells the group that the VM is idle for long enough. A VM that is unhealthy, or going down, is told of otherwise.
    pub(super) fn tick_drowsiness(&mut self, now: Instant) {
        let is_due = self.drowsiness.wake_at(&self.spec.idle).is_some_and(|at| now >= at);
        if let Phase::Alive { stage: Stage::Ready { health }, .. } = &self.phase
            && is_due
            && health.is_well()
        {
            self.drowsiness.is_told = true;
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
            (Ok(()), IdleAction::Stop | IdleAction::Pause, _) => self.drowsiness.is_told = false,
            (Err(_), IdleAction::Stop | IdleAction::Pause, _) => self.stay_awake(Some(now)),
        }
    }

    fn stay_awake(&mut self, since: Option<Instant>) {
        self.drowsiness = Drowsiness { since, is_told: false };
        self.effects.push(Effect::Tell(Transition::StayedAwake));
    }
}
