//! An allowance of bytes for each second (a token bucket), by which a host reads from a guest no faster than it wants to.
//! The time comes in as an argument.

use std::time::{Duration, Instant};

/// The bytes of a peer that may be read now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Allowance {
    /// The bytes that are added in each second.
    rate: f64,
    /// The most bytes that are saved up in a quiet time.
    burst: f64,
    left: f64,
    filled_at: Instant,
}

impl Allowance {
    /// Returns a full allowance of `rate` bytes in each second, and `burst` bytes after a quiet time.
    pub fn new(rate: u32, burst: u32, now: Instant) -> Self {
        Self { rate: rate.into(), burst: burst.into(), left: burst.into(), filled_at: now }
    }

    /// Takes away the bytes that were read. More bytes than are left may be taken; then [`Allowance::pause`] tells how
    /// long the peer has to wait.
    pub fn take(&mut self, now: Instant, bytes: usize) {
        let seconds = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.filled_at = self.filled_at.max(now);
        self.left = (self.left + seconds * self.rate).min(self.burst) - bytes as f64;
    }

    /// Returns the time until which nothing more may be read; `None` when bytes are left.
    pub fn pause(&self) -> Option<Instant> {
        (self.left < 0.0).then(|| self.filled_at + Duration::from_secs_f64(-self.left / self.rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_sends_faster_than_it_may_has_to_wait_for_the_rest() {
        let now = Instant::now();
        let mut allowance = Allowance::new(1000, 4000, now);
        allowance.take(now, 4000);
        assert_eq!(allowance.pause(), None);
        allowance.take(now, 500);
        assert_eq!(allowance.pause(), Some(now + Duration::from_millis(500)));
        allowance.take(now + Duration::from_secs(1), 500);
        assert_eq!(allowance.pause(), None);
        // A quiet hour saves up no more than the burst.
        allowance.take(now + Duration::from_secs(3600), 5000);
        assert_eq!(allowance.pause(), Some(now + Duration::from_secs(3601)));
    }
}
