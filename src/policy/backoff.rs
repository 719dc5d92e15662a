//! The delay before a restart. The curve is the exponential backoff with additive jitter of AWS and gRPC.

use crate::spec::Backoff;
use std::time::Duration;

impl Backoff {
    /// Returns the delay before restart number `attempt` (1 = the first); `draw` is a random number in `[0, 1)`
    /// (semantics 4.1).
    ///
    /// `min(initial * multiplier^(attempt-1), max) * (1 + jitter * draw)`. An attempt of 0 counts as 1.
    pub fn delay(&self, attempt: u32, draw: f64) -> Duration {
        let exponent = i32::try_from(attempt.max(1) - 1).unwrap_or(i32::MAX);
        let grown = self.initial.as_secs_f64() * self.multiplier.powi(exponent);
        // `min` also takes the infinity that a large exponent makes; 0 * infinity is NaN, and `min` drops that too.
        let capped = if self.initial.is_zero() { 0.0 } else { grown.min(self.max.as_secs_f64()) };
        Duration::try_from_secs_f64(capped * (1.0 + self.jitter * draw)).unwrap_or(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn delays_double_up_to_the_cap() {
        let backoff = Backoff { jitter: 0.0, ..Backoff::default() };
        let seconds: Vec<u64> = (1..=8).map(|n| backoff.delay(n, 0.9).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.delay(u32::MAX, 0.0), backoff.max);
    }

    #[test]
    fn jitter_comes_after_the_cap() {
        let backoff = Backoff { jitter: 0.5, ..Backoff::default() };
        assert_eq!(backoff.delay(100, 0.5), Duration::from_secs(75));
    }

    #[test]
    fn no_delay_stays_no_delay() {
        let backoff = Backoff { initial: Duration::ZERO, ..Backoff::default() };
        assert_eq!(backoff.delay(u32::MAX, 0.5), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn delays_never_shrink_and_never_pass_cap_and_jitter(
            initial in 0u64..100_000, max in 1u64..1_000_000, multiplier in 1.0f64..10.0, jitter in 0.0f64..1.0, draw in 0.0f64..1.0,
        ) {
            let backoff = Backoff {
                initial: Duration::from_millis(initial), max: Duration::from_millis(max), multiplier, jitter,
            };
            let mut before = Duration::ZERO;
            for attempt in 1..60 {
                let delay = backoff.delay(attempt, draw);
                prop_assert!(delay >= before);
                prop_assert!(delay <= backoff.max.mul_f64(1.0 + jitter) + Duration::from_nanos(2));
                before = delay;
            }
        }
    }
}
