//! Counts probes and watchdog messages and says when a VM is unhealthy. No clock, no I/O.
//!
//! Docker's health check: `retries` failures in a row make it unhealthy, one success makes it healthy again, failures
//! in the start period do not count. systemd's watchdog: silence longer than its interval is a failure.
//! A host that was starved proves nothing about a guest: when our own tick came late, nothing is counted.

use crate::policy::{Ending, Exit};
use crate::spec::HealthSpec;
use std::time::{Duration, Instant};

/// The health of one incarnation; counters start at zero with each.
#[derive(Debug, Clone)]
pub struct Health {
    daemon_since: Instant,
    next_probe: Instant,
    /// The probe under way, and when it will have taken too long.
    under_way: Option<(u64, Instant)>,
    last_id: u64,
    failures: u32,
    unhealthy: bool,
    watchdog_since: Instant,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Probe now; the result carries this number.
    Probe(u64),
    /// It has become unhealthy.
    Unhealthy,
    /// It is healthy again.
    Healthy,
    /// The daemon was silent for too long.
    WatchdogExpired,
}

impl Health {
    /// The daemon is Ready as of now.
    pub fn new(spec: &HealthSpec, now: Instant) -> Self {
        Self {
            daemon_since: now,
            next_probe: now + spec.interval,
            under_way: None,
            last_id: 0,
            failures: 0,
            unhealthy: false,
            watchdog_since: now,
        }
    }

    /// Starts counting anew: after a pause.
    pub fn restart(&mut self, spec: &HealthSpec, now: Instant) {
        let (daemon_since, last_id) = (self.daemon_since, self.last_id);
        // A result that is still on its way belongs to the time before.
        *self = Self { daemon_since, last_id, ..Self::new(spec, now) };
    }

    /// What is due at `now`.
    pub fn tick(&mut self, spec: &HealthSpec, now: Instant) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Some((_, deadline)) = self.under_way
            && now >= deadline
        {
            self.under_way = None;
            if now - deadline < late(spec.timeout) {
                findings.extend(self.failed(spec, now));
            } else {
                self.next_probe = now;
            }
        }
        if !spec.interval.is_zero() && self.under_way.is_none() && now >= self.next_probe {
            self.last_id += 1;
            self.under_way = Some((self.last_id, now + spec.timeout));
            self.next_probe = now + spec.interval;
            findings.push(Finding::Probe(self.last_id));
        }
        if let Some(expiry) = self.watchdog_expiry(spec)
            && now >= expiry
        {
            if now - expiry < late(spec.watchdog) {
                findings.push(Finding::WatchdogExpired);
            }
            // Told once; or not counted, and given another round.
            self.watchdog_since = now;
        }
        findings
    }

    /// The result of a probe; one that was given up already is dropped.
    pub fn probed(&mut self, spec: &HealthSpec, now: Instant, id: u64, healthy: bool) -> Option<Finding> {
        if self.under_way.is_none_or(|(under_way, _)| under_way != id) {
            return None;
        }
        self.under_way = None;
        if !healthy {
            return self.failed(spec, now);
        }
        self.failures = 0;
        std::mem::take(&mut self.unhealthy).then_some(Finding::Healthy)
    }

    /// The daemon has sent `WATCHDOG=1`.
    pub fn fed(&mut self, now: Instant) {
        self.watchdog_since = now;
    }

    /// When to tick next.
    pub fn wake_at(&self, spec: &HealthSpec) -> Option<Instant> {
        let probe = match self.under_way {
            Some((_, deadline)) => Some(deadline),
            None => (!spec.interval.is_zero()).then_some(self.next_probe),
        };
        probe.into_iter().chain(self.watchdog_expiry(spec)).min()
    }

    /// The cause to give when being unhealthy ends the VM.
    pub fn ending(link_up: bool) -> Ending {
        if link_up { Ending::Unhealthy } else { Exit::AgentLost { message: String::new() }.into() }
    }

    fn failed(&mut self, spec: &HealthSpec, now: Instant) -> Option<Finding> {
        if now - self.daemon_since < spec.start_period {
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        let turned = self.failures >= spec.retries.max(1) && !self.unhealthy;
        self.unhealthy |= turned;
        turned.then_some(Finding::Unhealthy)
    }

    fn watchdog_expiry(&self, spec: &HealthSpec) -> Option<Instant> {
        (!spec.watchdog.is_zero()).then(|| self.watchdog_since + spec.watchdog)
    }
}

/// A tick so much later than it was due says that we were not run ourselves.
fn late(limit: Duration) -> Duration {
    (limit / 2).max(Duration::from_millis(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> HealthSpec {
        HealthSpec { watchdog: Duration::ZERO, ..HealthSpec::default() }
    }

    /// Probes that time out one after the other; the findings of each deadline.
    fn time_out(health: &mut Health, spec: &HealthSpec, from: Instant, rounds: u32) -> Vec<Finding> {
        let mut found = Vec::new();
        for round in 1..=rounds {
            let due = from + spec.interval * round;
            assert!(matches!(health.tick(spec, due)[..], [Finding::Probe(_)]));
            found.extend(health.tick(spec, due + spec.timeout));
        }
        found
    }

    #[test]
    fn three_failures_in_a_row_make_it_unhealthy_and_one_success_healthy() {
        let (spec, now) = (spec(), Instant::now());
        let mut health = Health::new(&spec, now);
        assert_eq!(time_out(&mut health, &spec, now, 2), []);
        assert_eq!(time_out(&mut health, &spec, now + spec.interval * 2, 1), [Finding::Unhealthy]);
        let due = now + spec.interval * 4;
        let [Finding::Probe(id)] = health.tick(&spec, due)[..] else { panic!("a probe") };
        assert_eq!(health.probed(&spec, due, id, true), Some(Finding::Healthy));
    }

    #[test]
    fn a_starved_host_is_not_a_dead_guest() {
        let (spec, now) = (spec(), Instant::now());
        let mut health = Health::new(&spec, now);
        let mut at = now + spec.interval;
        for _ in 0..20 {
            assert!(matches!(health.tick(&spec, at)[..], [Finding::Probe(_)]));
            at += spec.timeout * 2;
        }
    }

    #[test]
    fn failures_in_the_start_period_do_not_count() {
        let spec = HealthSpec { start_period: Duration::from_secs(100), ..spec() };
        let now = Instant::now();
        let mut health = Health::new(&spec, now);
        assert_eq!(time_out(&mut health, &spec, now, 8), []);
        assert_eq!(time_out(&mut health, &spec, now + spec.interval * 9, 3), [Finding::Unhealthy]);
    }

    #[test]
    fn a_silent_daemon_is_noticed_and_a_fed_watchdog_is_not() {
        let spec = HealthSpec { interval: Duration::ZERO, watchdog: Duration::from_secs(3), ..spec() };
        let now = Instant::now();
        let mut health = Health::new(&spec, now);
        health.fed(now + Duration::from_secs(2));
        assert_eq!(health.tick(&spec, now + Duration::from_secs(4)), []);
        assert_eq!(health.wake_at(&spec), Some(now + Duration::from_secs(5)));
        assert_eq!(health.tick(&spec, now + Duration::from_secs(5)), [Finding::WatchdogExpired]);
    }

    #[test]
    fn after_a_pause_nothing_of_before_counts() {
        let (spec, now) = (spec(), Instant::now());
        let mut health = Health::new(&spec, now);
        assert_eq!(time_out(&mut health, &spec, now, 2), []);
        let later = now + spec.interval * 100;
        health.restart(&spec, later);
        assert_eq!(time_out(&mut health, &spec, later, 2), []);
    }
}
