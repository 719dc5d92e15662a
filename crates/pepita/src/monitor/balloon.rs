//! How much memory a guest gives back for its sleep, and when it takes it again. Knows no clock and no sockets.

use super::control::ReplyTo;
use std::time::{Duration, Instant};

/// The time for a guest to give memory back.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// The time after the virtual CPUs were resumed in which the guest does not take its memory again: it serves a client.
const FIRST_CLIENT: Duration = Duration::from_millis(100);

/// The part of the memory that a guest keeps free, so that it can serve the next client.
const KEPT: u64 = 32;

/// The least memory that is worth the way, and that a guest keeps free, in bytes.
const LEAST: u64 = 4 << 20;

/// The way of a VM into its sleep, and out of it.
#[derive(Debug, Default)]
pub(super) struct Sleep {
    /// The way into the sleep, while the VM is on it.
    pub(super) falling: Option<Falling>,
    /// The time at which the guest is to have its whole memory again.
    pub(super) take_memory_at: Option<Instant>,
    /// Whether it was told why the guest gives no memory back.
    pub(super) is_told: bool,
}

/// A VM that is about to sleep.
#[derive(Debug)]
pub(super) struct Falling {
    /// The client that has ordered the sleep.
    pub(super) reply: ReplyTo,
    /// The time at which it sleeps at the latest.
    pub(super) until: Instant,
    /// The memory that the guest is to have in its sleep, in bytes; `None` until the guest has said what it can spare.
    pub(super) target: Option<u64>,
}

impl Sleep {
    /// Has the guest take its memory again soon.
    pub(super) fn take_memory_at(&mut self, resumed: Instant) {
        self.take_memory_at = Some(resumed + FIRST_CLIENT);
    }

    /// Returns the time at which something is due.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.falling.as_ref().map(|falling| falling.until).into_iter().chain(self.take_memory_at).min()
    }
}

/// Returns the memory that a guest is to have in its sleep, in bytes, when it has `memory` and says that `free` of it is free;
/// `None` when it has nothing to give.
pub(super) fn target(memory: u64, free: u64) -> Option<u64> {
    let kept = (memory / KEPT).max(LEAST);
    let given = free.min(memory).saturating_sub(kept);
    (given >= LEAST).then(|| memory - given)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_keeps_some_memory_free_and_nothing_that_it_says_makes_it_give_more_than_it_has() {
        const MIB: u64 = 1 << 20;
        assert_eq!(target(128 * MIB, 50 * MIB), Some((128 - 46) * MIB));
        assert_eq!(target(1024 * MIB, 800 * MIB), Some((1024 - 768) * MIB));
        assert_eq!(target(128 * MIB, 7 * MIB), None);
        assert_eq!(target(128 * MIB, 0), None);
        assert_eq!(target(128 * MIB, u64::MAX), Some(4 * MIB));
    }
}
