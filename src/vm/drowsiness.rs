//! Counts the time for which a VM is idle, and says when it may be put to sleep. No clock, no I/O.

use crate::spec::IdleSpec;
use pepita_wire::StatusRecord;
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
    /// Returns what is known of a VM that is idle since this moment.
    pub(super) fn since(since: Option<Instant>) -> Self {
        Self { since, is_told: false }
    }

    /// Notes that the group is told.
    pub(super) fn told(&mut self) {
        self.is_told = true;
    }

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
