//! Decides since when a VM is idle, and when that is told. Knows no clock and no sockets.
//!
//! A change is told at once, and the next one a second later at the earliest: connections may come and go thousands of times in
//! that time. A connection that ends is thus noticed a second late at most.

use std::time::{Duration, Instant};

/// The shortest time between two changes that are told or looked for.
const INTERVAL: Duration = Duration::from_secs(1);

/// The use that is made of a VM.
#[derive(Debug)]
pub(super) struct Activity {
    /// Since when the VM is idle; `None` while it is in use.
    since: Option<Instant>,
    /// What was told last; `None` before anybody has asked.
    told: Option<Option<Instant>>,
    /// The time before which nothing is told or looked for.
    not_before: Instant,
    /// Whether the guest wants to stay awake.
    is_kept_awake: bool,
}

impl Activity {
    /// Returns the activity of a VM that is watched from now on.
    pub(super) fn new(now: Instant) -> Self {
        Self { since: Some(now), told: None, not_before: now, is_kept_awake: false }
    }

    /// Tells changes from now on.
    pub(super) fn tell(&mut self) {
        self.told.get_or_insert(None);
    }

    /// Notes whether the guest wants to stay awake.
    pub(super) fn keep_awake(&mut self, now: Instant, is_kept_awake: bool) {
        self.touch(now);
        self.is_kept_awake = is_kept_awake;
    }

    /// Notes that a client has come: the time of being idle begins anew.
    pub(super) fn touch(&mut self, now: Instant) {
        self.since = self.since.map(|_| now);
    }

    /// Notes whether a host holds a connection. Returns since when the VM is idle, when that is to be told now.
    pub(super) fn look(&mut self, now: Instant, is_used: bool) -> Option<Option<Instant>> {
        match is_used || self.is_kept_awake {
            true => self.since = None,
            false => drop(self.since.get_or_insert(now)),
        }
        if self.told.is_none_or(|told| told == self.since) || now < self.not_before {
            return None;
        }
        (self.told, self.not_before) = (Some(self.since), now + INTERVAL);
        self.told
    }

    /// Returns whether the guest wants to stay awake.
    pub(super) fn is_kept_awake(&self) -> bool {
        self.is_kept_awake
    }

    /// Returns whether the end of a connection is to be noticed now.
    pub(super) fn awaits_ends(&self, now: Instant) -> bool {
        self.told.is_some() && self.since.is_none() && now >= self.not_before
    }

    /// Returns the time at which [`Activity::look`] or [`Activity::awaits_ends`] has another answer.
    pub(super) fn wake_at(&self, now: Instant) -> Option<Instant> {
        let has_news = self.told.is_some_and(|told| told != self.since || self.since.is_none());
        Some(self.not_before).filter(|at| has_news && *at > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_is_idle_from_its_last_use_on() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut activity = Activity::new(start);
        assert_eq!(activity.look(at(10), false), None, "nobody has asked");
        activity.tell();
        assert_eq!(activity.look(at(20), false), Some(Some(start)));
        assert_eq!(activity.look(at(30), false), None);
        activity.keep_awake(at(1500), true);
        assert_eq!(activity.look(at(1500), false), Some(None));
        activity.keep_awake(at(1600), false);
        assert_eq!(activity.look(at(1600), false), None, "the last change was just told");
        assert_eq!(activity.wake_at(at(1600)), Some(at(2500)));
        assert_eq!(activity.look(at(2500), false), Some(Some(at(1600))));
        activity.touch(at(4000));
        assert_eq!(activity.look(at(4000), false), Some(Some(at(4000))));
    }

    #[test]
    fn a_thousand_connections_are_one_change_a_second() {
        let start = Instant::now();
        let mut activity = Activity::new(start);
        activity.tell();
        let at = |n: u32| start + n * Duration::from_millis(1);
        let told = (1..=3000).filter(|n| activity.look(at(*n), n % 2 == 0).is_some()).count();
        assert_eq!(told, 3);
        assert!(activity.look(at(3000), true).is_none() && !activity.awaits_ends(at(3000)));
        let due = activity.wake_at(at(3000)).expect("it is looked at once more");
        activity.look(due, true);
        assert!(activity.awaits_ends(due + INTERVAL));
        assert_eq!(activity.wake_at(due + INTERVAL), None, "the end of the connection is an event");
    }
}
