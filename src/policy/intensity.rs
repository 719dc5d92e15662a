//! How often is too often: a sliding window of restart decisions (OTP's intensity and period), on the monotonic clock.

use crate::spec::Intensity;
use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

/// The restart decisions that still count, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Window {
    entries: VecDeque<Instant>,
}

/// One more restart would have been too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// How many there would have been.
    pub count: u32,
    /// What was allowed.
    pub intensity: Intensity,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} restarts in {}", self.count, window(self.count, self.intensity))
    }
}

fn window(count: u32, intensity: Intensity) -> String {
    format!("{count}/{} in {}", intensity.max_restarts, humantime::format_duration(intensity.period))
}

impl Window {
    /// Nothing has been restarted yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters a restart decision made at `now`, if there is room.
    ///
    /// An entry exactly `period` old still counts, as in OTP's `supervisor:in_period/3`.
    ///
    /// # Errors
    /// When the new entry would make more than the intensity; then nothing is entered.
    pub fn admit(&mut self, now: Instant, intensity: Intensity) -> Result<u32, Exceeded> {
        self.age(now, intensity.period);
        let count = self.count().saturating_add(1);
        if count > intensity.max_restarts {
            return Err(Exceeded { count, intensity });
        }
        self.enter(now);
        Ok(count)
    }

    /// Enters a decision as of the earliest moment, `now` or later, at which there is room, and tells that moment.
    /// `None` when there never is: an intensity of 0.
    pub fn admit_later(&mut self, now: Instant, intensity: Intensity) -> Option<Instant> {
        self.age(now, intensity.period);
        let allowed = usize::try_from(intensity.max_restarts).unwrap_or(usize::MAX);
        let at = match self.entries.len().checked_sub(allowed) {
            None => now,
            // The entry that must have left; it counts until it is strictly older than the period.
            Some(index) => *self.entries.get(index)? + intensity.period + Duration::from_nanos(1),
        };
        let at = at.max(now);
        self.enter(at);
        Some(at)
    }

    /// Keeps them in order: those to come stay behind the present one, which a raised intensity may let in before them.
    fn enter(&mut self, at: Instant) {
        let place = self.entries.partition_point(|entry| *entry <= at);
        self.entries.insert(place, at);
    }

    /// `3/5 in 60s`, for people.
    pub fn describe(&self, intensity: Intensity) -> String {
        window(self.count(), intensity)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    fn count(&self) -> u32 {
        u32::try_from(self.entries.len()).unwrap_or(u32::MAX)
    }

    /// Forgets what no longer counts at `now`.
    pub fn age(&mut self, now: Instant, period: Duration) {
        while self.entries.front().is_some_and(|entry| now.saturating_duration_since(*entry) > period) {
            self.entries.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INTENSITY: Intensity = Intensity { max_restarts: 2, period: Duration::from_secs(10) };

    #[test]
    fn exactly_the_intensity_is_allowed_and_one_more_is_not() {
        let (mut window, now) = (Window::new(), Instant::now());
        assert_eq!(window.admit(now, INTENSITY), Ok(1));
        assert_eq!(window.admit(now, INTENSITY), Ok(2));
        assert_eq!(window.admit(now, INTENSITY), Err(Exceeded { count: 3, intensity: INTENSITY }));
        assert_eq!(window.describe(INTENSITY), "2/2 in 10s");
    }

    #[test]
    fn an_entry_exactly_one_period_old_still_counts() {
        let (mut window, now) = (Window::new(), Instant::now());
        assert!(window.admit(now, INTENSITY).is_ok() && window.admit(now, INTENSITY).is_ok());
        assert!(window.admit(now + INTENSITY.period, INTENSITY).is_err());
        assert_eq!(window.admit(now + INTENSITY.period + Duration::from_nanos(1), INTENSITY), Ok(1));
    }

    #[test]
    fn an_intensity_of_zero_allows_nothing() {
        let none = Intensity { max_restarts: 0, ..INTENSITY };
        assert!(Window::new().admit(Instant::now(), none).is_err());
        assert_eq!(Window::new().admit_later(Instant::now(), none), None);
    }

    #[test]
    fn delayed_entries_queue_up_behind_each_other() {
        let (mut window, now) = (Window::new(), Instant::now());
        let step = INTENSITY.period + Duration::from_nanos(1);
        let at: Vec<_> =
            (0..5).filter_map(|_| window.admit_later(now, INTENSITY)).map(|at| at - now).collect();
        assert_eq!(at, [Duration::ZERO, Duration::ZERO, step, step, step * 2]);
    }

    #[test]
    fn what_has_aged_is_not_told() {
        let (mut window, now) = (Window::new(), Instant::now());
        assert!(window.admit(now, INTENSITY).is_ok());
        window.age(now + INTENSITY.period, INTENSITY.period);
        assert_eq!(window.describe(INTENSITY), "1/2 in 10s");
        window.age(now + INTENSITY.period * 2, INTENSITY.period);
        assert_eq!(window.describe(INTENSITY), "0/2 in 10s");
    }

    /// A window that forgets nothing and counts anew each time: those not older than the period, and those to come.
    #[derive(Default)]
    struct Naive(Vec<Instant>);

    impl Naive {
        fn count(&self, at: Instant, period: Duration) -> u32 {
            self.0.iter().filter(|entry| **entry + period >= at).count() as u32
        }

        /// Tries every moment at which anything can change.
        fn room(&self, now: Instant, intensity: Intensity) -> Option<Instant> {
            let after = |entry: &Instant| *entry + intensity.period + Duration::from_nanos(1);
            let moments = self.0.iter().map(after).filter(|at| *at >= now).chain([now]);
            moments.filter(|at| self.count(*at, intensity.period) < intensity.max_restarts).min()
        }
    }

    proptest! {
        #[test]
        fn a_window_is_what_a_naive_count_says(
            period in 1u64..20,
            // So many nanoseconds later, with this intensity: would it be admitted, or is it entered for later?
            steps in prop::collection::vec((0u64..12, 0u32..5, any::<bool>()), 1..60),
        ) {
            let period = Duration::from_nanos(period);
            let (mut window, mut naive, mut now) = (Window::new(), Naive::default(), Instant::now());
            for (later, max_restarts, waits) in steps {
                let intensity = Intensity { max_restarts, period };
                now += Duration::from_nanos(later);
                if waits {
                    let room = naive.room(now, intensity);
                    prop_assert_eq!(window.admit_later(now, intensity), room);
                    naive.0.extend(room);
                } else {
                    let count = naive.count(now, period) + 1;
                    let expected = if count > max_restarts { Err(Exceeded { count, intensity }) } else { Ok(count) };
                    prop_assert_eq!(window.admit(now, intensity), expected);
                    naive.0.extend(expected.ok().map(|_| now));
                }
            }
        }
    }
}
