//! The group restart under way (one_for_all, rest_for_one). Who takes part is noted with the children.
//!
//! It lasts from the failure until its members are down and its deadline is over; then they stand in the queue like at
//! the first start. How far it is need not be remembered: the phases of its members say so.

use std::time::Instant;

/// The one group restart that can be under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Round {
    /// Its members start then, or when all of them are down if that is later.
    pub(crate) deadline: Instant,
    /// It has its entry in the window. One that only makes room, behind a child that gave up, has none.
    pub(crate) counted: bool,
}

impl Round {
    /// This restart, after another failure has joined it.
    pub(crate) fn join(self, other: Self) -> Self {
        Self { deadline: self.deadline.max(other.deadline), counted: self.counted || other.counted }
    }
}
