//! The measurement of a start: the parts of it that are over, and since when the next one is under way.

use pepita_wire::record::{Part, TimedPart, Timings};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// What was before there was a process for the monitor: two moments of the host's monotonic clock, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Before {
    /// The launcher was asked for the VM.
    pub asked_us: u64,
    /// The request was complete, and a monitor was being started.
    pub completed_us: u64,
}

/// The parts of a start that are over.
#[derive(Debug, Clone)]
pub(crate) struct Timeline {
    parts: Vec<TimedPart>,
    total: Duration,
    last: Instant,
}

impl Timeline {
    /// Returns the measurement of a start that begins at `now`.
    pub(crate) fn begin(now: Instant) -> Self {
        Self { parts: Vec::new(), total: Duration::ZERO, last: now }
    }

    /// Returns the measurement of a start that has begun in another process. `now_us` is `now` by the host's monotonic
    /// clock.
    pub(crate) fn after(before: Before, now: Instant, now_us: u64) -> Self {
        let request = before.completed_us.saturating_sub(before.asked_us);
        let monitor = now_us.saturating_sub(before.completed_us);
        let part = |part, us| TimedPart { part, us };
        Self {
            parts: vec![part(Part::Request, request), part(Part::Monitor, monitor)],
            total: Duration::from_micros(request + monitor),
            last: now,
        }
    }

    /// Ends a part at `now`. A part that is over, or was left out, is not measured again.
    pub(crate) fn passed(&mut self, part: Part, now: Instant) {
        if self.has_passed(part) {
            return;
        }
        let took = now.saturating_duration_since(self.last);
        self.parts.push(TimedPart { part, us: us(took) });
        (self.total, self.last) = (self.total + took, now);
    }

    /// Returns whether this part, or a later one, is over.
    pub(crate) fn has_passed(&self, part: Part) -> bool {
        self.parts.last().is_some_and(|last| last.part >= part)
    }

    /// Returns the parts that are over, for the record.
    pub(crate) fn timings(&self) -> Timings {
        Timings { total_us: us(self.total), parts: self.parts.clone() }
    }
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other_and_add_up_to_the_whole() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timeline = Timeline::after(Before { asked_us: 100, completed_us: 350 }, start, 1000);
        timeline.passed(Part::Claims, at(3));
        timeline.passed(Part::Vmm, at(50));
        // It was left out, and comes late.
        timeline.passed(Part::Spawn, at(51));
        timeline.passed(Part::Vmm, at(52));
        timeline.passed(Part::Kernel, at(1000));
        let timings = timeline.timings();
        let parts: Vec<_> = timings.parts.iter().map(|timed| (timed.part, timed.us)).collect();
        let expected = [
            (Part::Request, 250),
            (Part::Monitor, 650),
            (Part::Claims, 3000),
            (Part::Vmm, 47_000),
            (Part::Kernel, 950_000),
        ];
        assert_eq!((parts.as_slice(), timings.total_us), (expected.as_slice(), 1_000_900));
    }
}
