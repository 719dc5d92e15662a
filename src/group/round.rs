//! A group restart under way (one_for_all, rest_for_one): who takes part, and how far it is.

use std::time::Instant;

/// The one group restart that can be under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Round {
    /// The first child that takes part; all after it do too.
    pub(crate) first: usize,
    /// Not before.
    pub(crate) deadline: Instant,
    pub(crate) stage: Stage,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its members are being stopped, last first.
    Stopping,
    /// All are down; the delay runs.
    Delay,
    /// They start, first first, each after the one before is Ready.
    Starting,
}

impl Round {
    pub(crate) fn new(first: usize, deadline: Instant) -> Self {
        Self { first, deadline, stage: Stage::Stopping }
    }

    /// Takes in another failure: the later deadline counts, and an earlier child makes the set larger.
    pub(crate) fn join(&mut self, first: usize, deadline: Instant) {
        self.deadline = self.deadline.max(deadline);
        if first < self.first {
            self.first = first;
            self.stage = Stage::Stopping;
        }
    }

    /// This failure belongs to the restart under way rather than to a new one.
    pub(crate) fn takes_in_failures(&self) -> bool {
        match self.stage {
            Stage::Stopping | Stage::Delay => true,
            Stage::Starting => false,
        }
    }

    /// This child must not start yet.
    pub(crate) fn holds_back(&self, index: usize) -> bool {
        index >= self.first && self.takes_in_failures()
    }
}
