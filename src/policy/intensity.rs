//! Limits the number of restarts in a period: a sliding window of restart decisions (OTP's intensity and period), on
//! the monotonic clock.

use crate::spec::Intensity;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The restart decisions that still count, oldest first, followed by the decisions that count only later because they
/// were delayed.
#[derive(Debug, Clone, Default)]
pub struct Window {
    entries: VecDeque<Instant>,
}

/// The number of entries in a window, and its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowCount {
    /// Restart decisions in the window, delayed ones included.
    pub count: u32,
    /// The number of restarts that is allowed.
    pub max: u32,
    /// The time for which each entry counts.
    pub period: Duration,
}

/// The error that another restart would exceed the intensity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// The state of the window, without that restart.
    pub window: WindowCount,
}

impl Window {
    /// Makes a window without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters a restart decision made at `now`, if there is room, and returns the state of the window with it.
    ///
    /// # Errors
    /// Returns an error when the new entry would exceed the intensity; then no entry is made.
    pub fn enter(&mut self, now: Instant, intensity: Intensity) -> Result<WindowCount, Exceeded> {
        if self.room(now, intensity) != Some(now) {
            return Err(Exceeded { window: self.count(now, intensity) });
        }
        self.insert(now, now, intensity.period);
        Ok(self.count(now, intensity))
    }

    /// Enters a decision as of the earliest moment, `now` or later, at which there is room, and returns that moment.
    /// `None` when there is never room: an intensity of 0.
    pub fn enter_when_room(&mut self, now: Instant, intensity: Intensity) -> Option<Instant> {
        let at = self.room(now, intensity)?;
        self.insert(now, at, intensity.period);
        Some(at)
    }

    /// Returns the earliest moment, `now` or later, at which another decision is allowed. `None` when there is no such
    /// moment: an intensity of 0.
    pub fn room(&self, now: Instant, intensity: Intensity) -> Option<Instant> {
        let allowed = usize::try_from(intensity.max_restarts).unwrap_or(usize::MAX);
        let first = self.first_counting(now, intensity.period);
        let at = match (self.entries.len() - first).checked_sub(allowed) {
            None => now,
            // The entry that must have left the window; an entry counts until it is older than the period.
            Some(index) => *self.entries.get(first + index)? + intensity.period + Duration::from_nanos(1),
        };
        Some(at.max(now))
    }

    /// Returns how full the window is at `now`.
    pub fn count(&self, now: Instant, intensity: Intensity) -> WindowCount {
        let count = self.entries.len() - self.first_counting(now, intensity.period);
        WindowCount {
            count: u32::try_from(count).unwrap_or(u32::MAX),
            max: intensity.max_restarts,
            period: intensity.period,
        }
    }

    /// Removes all entries.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// Keeps the entries in order: entries that are still to come stay behind the present entry, which a raised
    /// intensity may let in before them. Entries that no longer count are dropped.
    fn insert(&mut self, now: Instant, at: Instant, period: Duration) {
        self.entries.drain(..self.first_counting(now, period));
        let index = self.entries.partition_point(|entry| *entry <= at);
        self.entries.insert(index, at);
    }

    /// Returns the index of the first entry that counts at `now`. An entry exactly `period` old still counts, as in
    /// OTP's `supervisor:in_period/3`.
    fn first_counting(&self, now: Instant, period: Duration) -> usize {
        self.entries.partition_point(|entry| now.saturating_duration_since(*entry) > period)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INTENSITY: Intensity = Intensity { max_restarts: 2, period: Duration::from_secs(10) };

    fn counted(count: u32) -> WindowCount {
        WindowCount { count, max: 2, period: INTENSITY.period }
    }

    #[test]
    fn exactly_the_intensity_is_allowed_and_one_more_is_not() {
        let (mut window, now) = (Window::new(), Instant::now());
        assert_eq!(window.enter(now, INTENSITY), Ok(counted(1)));
        assert_eq!(window.enter(now, INTENSITY), Ok(counted(2)));
        assert_eq!(window.enter(now, INTENSITY), Err(Exceeded { window: counted(2) }));
        assert_eq!(window.count(now, INTENSITY), counted(2));
    }

    #[test]
    fn an_entry_exactly_one_period_old_still_counts() {
        let (mut window, now) = (Window::new(), Instant::now());
        assert!(window.enter(now, INTENSITY).is_ok() && window.enter(now, INTENSITY).is_ok());
        assert!(window.enter(now + INTENSITY.period, INTENSITY).is_err());
        assert_eq!(window.enter(now + INTENSITY.period + Duration::from_nanos(1), INTENSITY), Ok(counted(1)));
    }

    #[test]
    fn an_intensity_of_zero_allows_nothing() {
        let none = Intensity { max_restarts: 0, ..INTENSITY };
        assert!(Window::new().enter(Instant::now(), none).is_err());
        assert_eq!(Window::new().enter_when_room(Instant::now(), none), None);
    }

    #[test]
    fn delayed_entries_queue_up_behind_each_other() {
        let (mut window, now) = (Window::new(), Instant::now());
        let step = INTENSITY.period + Duration::from_nanos(1);
        let at: Vec<_> =
            (0..5).filter_map(|_| window.enter_when_room(now, INTENSITY)).map(|at| at - now).collect();
        assert_eq!(at, [Duration::ZERO, Duration::ZERO, step, step, step * 2]);
    }

    #[test]
    fn what_has_aged_is_not_counted() {
        let (mut window, now) = (Window::new(), Instant::now());
        assert!(window.enter(now, INTENSITY).is_ok());
        assert_eq!(window.count(now + INTENSITY.period, INTENSITY), counted(1));
        assert_eq!(window.count(now + INTENSITY.period * 2, INTENSITY), counted(0));
    }

    /// A window that keeps all entries and counts anew each time: the entries not older than the period, and the
    /// entries to come.
    #[derive(Default)]
    struct Naive(Vec<Instant>);

    impl Naive {
        fn count(&self, at: Instant, period: Duration) -> u32 {
            self.0.iter().filter(|entry| **entry + period >= at).count() as u32
        }

        /// Tries every moment at which the number of entries can change.
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
            // A step: the time to advance in nanoseconds, the intensity, and whether the decision is entered only if
            // there is room, or when there is room.
            steps in prop::collection::vec((0u64..12, 0u32..5, any::<bool>()), 1..60),
        ) {
            let period = Duration::from_nanos(period);
            let (mut window, mut naive, mut now) = (Window::new(), Naive::default(), Instant::now());
            for (later, max_restarts, waits) in steps {
                let intensity = Intensity { max_restarts, period };
                now += Duration::from_nanos(later);
                if waits {
                    let room = naive.room(now, intensity);
                    prop_assert_eq!(window.enter_when_room(now, intensity), room);
                    naive.0.extend(room);
                } else {
                    let count = naive.count(now, period);
                    let told = |count| WindowCount { count, max: max_restarts, period };
                    let room = count < max_restarts;
                    let expected = if room { Ok(told(count + 1)) } else { Err(Exceeded { window: told(count) }) };
                    prop_assert_eq!(window.enter(now, intensity), expected);
                    naive.0.extend(room.then_some(now));
                }
            }
        }
    }
}
