//! Counts probes and watchdog messages, and says when a VM is unhealthy. No clock, no I/O.
//!
//! A VM that becomes Ready by its probes is probed at once, with pauses that grow. Docker's health check: `retries` failures in a row make the VM unhealthy, one success makes it healthy again,
//! failures in the start period do not count. systemd's watchdog: silence longer than its interval is a failure. A host
//! that was starved proves nothing about a guest: when a tick of this process came late, no probe is counted.

#[cfg(test)]
mod tests;

use super::probe::{Answer, unanswered};
use crate::observe::ProbeStatus;
use crate::spec::HealthSpec;
use pepita_wire::image::ImageHealth;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

/// The longest time from Ready until the first link with the guest agent in which failures do not count. A supervisor that
/// has just adopted a VM on a loaded host may need longer for its own link than a few short probes take.
const FIRST_LINK: Duration = Duration::from_secs(10);

/// The health of one incarnation. The counters of each incarnation start at zero.
#[derive(Debug, Clone)]
pub(super) struct Health {
    ready_since: Instant,
    /// The end of the time in which failures do not count because this supervisor has had no link with the guest agent
    /// yet; `None` once a link was up.
    unlinked_until: Option<Instant>,
    next_probe_at: Instant,
    under_way: Option<Probe>,
    last_id: u64,
    failures: u32,
    unhealthy: bool,
    watchdog_fed_at: Instant,
    /// The end of the time in which nothing is expected of the daemon.
    suspended_until: Option<Instant>,
    /// The newest result of a probe.
    last: Option<ProbeStatus>,
}

/// The shortest interval of probes that begin together with those of other VMs.
const SELDOM: Duration = Duration::from_secs(5);

/// The pause after the first probe of a VM that is not Ready yet. It doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest such pause, unless the interval of the probes is shorter.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The probes of a VM that becomes Ready by a good one (semantics 1.27).
#[derive(Debug, Clone)]
pub(super) struct FirstProbes {
    next_probe_at: Instant,
    pause: Duration,
    under_way: Option<Probe>,
    last_id: u64,
    failures: u32,
    last: Option<ProbeStatus>,
}

/// A probe that waits for its result.
#[derive(Debug, Clone, Copy)]
struct Probe {
    id: u64,
    deadline: Instant,
}

/// A finding about the health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// A probe is due; its result carries this number.
    Probe(u64),
    /// The VM has become unhealthy.
    Unhealthy,
    /// The VM is healthy again.
    Healthy,
    /// The daemon was silent for longer than the watchdog allows.
    WatchdogExpired,
}

impl FirstProbes {
    /// Begins to probe: the daemon runs as of `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self { next_probe_at: now, pause: FIRST_PAUSE, under_way: None, last_id: 0, failures: 0, last: None }
    }

    /// Begins anew, after a pause of the VM. The numbers go on.
    pub(super) fn restarted(self, now: Instant) -> Self {
        Self { last_id: self.last_id, ..Self::new(now) }
    }

    /// Returns the number of a probe that is due at `now`.
    pub(super) fn tick(&mut self, spec: &HealthSpec, now: Instant) -> Option<u64> {
        if self.under_way.take_if(|probe| now >= probe.deadline).is_some() {
            self.failed(spec, now, unanswered(spec.timeout));
        }
        if self.under_way.is_some() || now < self.next_probe_at {
            return None;
        }
        self.last_id += 1;
        self.under_way = Some(Probe { id: self.last_id, deadline: now + spec.timeout });
        Some(self.last_id)
    }

    /// Takes in the result of a probe. Returns whether the VM is Ready. The result of a probe that was given up is dropped.
    pub(super) fn probed(&mut self, spec: &HealthSpec, now: Instant, id: u64, answer: Answer) -> bool {
        if self.under_way.take_if(|probe| probe.id == id).is_none() {
            return false;
        }
        match good(spec, answer) {
            Ok(text) => {
                self.last = Some(ProbeStatus { healthy: true, failures: 0, text });
                true
            }
            Err(text) => {
                self.failed(spec, now, text);
                false
            }
        }
    }

    /// Returns the moment at which the next tick is due.
    pub(super) fn wake_at(&self) -> Instant {
        self.under_way.map_or(self.next_probe_at, |probe| probe.deadline)
    }

    /// Returns whether the probe under way has had its time.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.under_way.is_some_and(|probe| now >= probe.deadline)
    }

    /// Returns the newest result.
    pub(super) fn last(&self) -> Option<&ProbeStatus> {
        self.last.as_ref()
    }

    fn failed(&mut self, spec: &HealthSpec, now: Instant, text: String) {
        self.failures = self.failures.saturating_add(1);
        self.last = Some(ProbeStatus { healthy: false, failures: self.failures, text });
        self.next_probe_at = now + self.pause;
        let longest = if spec.interval.is_zero() { LONGEST_PAUSE } else { LONGEST_PAUSE.min(spec.interval) };
        self.pause = (self.pause * 2).min(longest.max(FIRST_PAUSE));
    }
}

/// Returns the words of a good answer, or those of a bad one. An agent that is too old to ask the daemon has answered as
/// to a ping.
fn good(spec: &HealthSpec, answer: Answer) -> Result<String, String> {
    match answer {
        Answer::Good(text) => Ok(text),
        Answer::Bad(text) => Err(text),
        Answer::TooOld => Ok(format!("the guest agent answers, and is too old for {}", spec.check().key())),
    }
}

/// The time limit of an image's probe, and the time between two of them, when the image names none (Docker).
const IMAGE_PERIOD: Duration = Duration::from_secs(30);

/// The longest time that an image may name.
const IMAGE_TIME_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Returns the probes of a VM: those of the specification, or the health check of the VM's image when the specification
/// names no kind of probe. A number that the specification leaves at its default is then the image's.
pub(super) fn in_force(spec: &HealthSpec, image: Option<&ImageHealth>) -> HealthSpec {
    let Some(image) = image.filter(|_| spec.leaves_check_to_image()) else { return spec.clone() };
    let usual = HealthSpec::default();
    let time = |own: Duration, usual: Duration, milliseconds: u64, else_time: Duration| match milliseconds {
        _ if own != usual => own,
        0 => else_time,
        milliseconds => Duration::from_millis(milliseconds).min(IMAGE_TIME_MAX),
    };
    HealthSpec {
        interval: time(spec.interval, usual.interval, image.interval_ms, IMAGE_PERIOD),
        timeout: time(spec.timeout, usual.timeout, image.timeout_ms, IMAGE_PERIOD),
        start_period: time(spec.start_period, usual.start_period, image.start_period_ms, Duration::ZERO),
        retries: if spec.retries == usual.retries && image.retries > 0 {
            image.retries
        } else {
            spec.retries
        },
        command: Some(image.command.clone()),
        ..spec.clone()
    }
}

impl Health {
    /// Begins to count: the daemon is Ready as of `now`. `is_linked` tells whether the link with the guest agent is up.
    pub(super) fn new(spec: &HealthSpec, now: Instant, is_linked: bool) -> Self {
        Self {
            ready_since: now,
            unlinked_until: (!is_linked).then(|| now + FIRST_LINK),
            next_probe_at: now + spec.interval,
            under_way: None,
            last_id: 0,
            failures: 0,
            unhealthy: false,
            watchdog_fed_at: now,
            suspended_until: None,
            last: None,
        }
    }

    /// Begins to count after the first probes: the numbers of probes go on.
    pub(super) fn after(first: FirstProbes, spec: &HealthSpec, now: Instant) -> Self {
        Self { last_id: first.last_id, last: first.last, ..Self::new(spec, now, true) }
    }

    /// Returns the newest result of a probe.
    pub(super) fn last(&self) -> Option<&ProbeStatus> {
        self.last.as_ref()
    }

    /// Returns whether the daemon is neither unhealthy nor about to end by itself.
    pub(super) fn is_well(&self) -> bool {
        !self.unhealthy && self.suspended_until.is_none()
    }

    /// Begins to count anew, after a pause.
    pub(super) fn restarted(self, spec: &HealthSpec, now: Instant) -> Self {
        // The number goes on: a result that is still on its way belongs to the time before the pause.
        let Self { ready_since, last_id, .. } = self;
        // A VM that was adopted while it was paused is dialled only now.
        Self { ready_since, last_id, ..Self::new(spec, now, self.unlinked_until.is_none()) }
    }

    /// Records that the link with the guest agent is up: from now on failures count.
    pub(super) fn linked(&mut self) {
        self.unlinked_until = None;
    }

    /// Expects nothing of the daemon until `until`: it has said `STOPPING=1`, and ends by itself (semantics 1.15).
    pub(super) fn suspend(&mut self, until: Instant) {
        self.under_way = None;
        self.suspended_until = Some(self.suspended_until.map_or(until, |earlier| earlier.max(until)));
    }

    /// Moves the end of that time to later, never to earlier.
    pub(super) fn extend(&mut self, until: Instant) {
        self.suspended_until = self.suspended_until.map(|earlier| earlier.max(until));
    }

    /// Returns the findings that are due at `now`.
    pub(super) fn tick(&mut self, spec: &HealthSpec, now: Instant) -> Vec<Finding> {
        let mut findings = Vec::new();
        match self.suspended_until {
            Some(until) if now < until => return findings,
            // The daemon has not ended in its time, so it is watched again.
            Some(_) => *self = Self { unhealthy: self.unhealthy, ..self.clone().restarted(spec, now) },
            None => {}
        }
        if let Some(Probe { deadline, .. }) = self.under_way
            && now >= deadline
        {
            self.under_way = None;
            if was_on_time(now, deadline, spec.timeout) {
                findings.extend(self.failed(spec, now, unanswered(spec.timeout)));
            } else {
                self.next_probe_at = now;
            }
        }
        if !spec.interval.is_zero() && self.under_way.is_none() && now >= self.next_probe_at {
            self.last_id += 1;
            self.under_way = Some(Probe { id: self.last_id, deadline: now + spec.timeout });
            self.next_probe_at = now + spec.interval;
            findings.push(Finding::Probe(self.last_id));
        }
        if let Some(expiry) = self.watchdog_expiry(spec)
            && now >= expiry
        {
            if was_on_time(now, expiry, spec.watchdog) {
                findings.push(Finding::WatchdogExpired);
            }
            // The silence is reported once; if it is not counted, the daemon has the whole interval again.
            self.watchdog_fed_at = now;
        }
        findings
    }

    /// Takes in the result of a probe. The result of a probe that was given up is dropped.
    pub(super) fn probed(
        &mut self,
        spec: &HealthSpec,
        now: Instant,
        id: u64,
        answer: Answer,
    ) -> Option<Finding> {
        self.under_way.take_if(|probe| probe.id == id)?;
        match good(spec, answer) {
            Ok(text) => self.last = Some(ProbeStatus { healthy: true, failures: 0, text }),
            Err(text) => return self.failed(spec, now, text),
        }
        self.failures = 0;
        std::mem::take(&mut self.unhealthy).then_some(Finding::Healthy)
    }

    /// Returns whether the probe under way has had its time, or the daemon was silent for too long.
    pub(super) fn is_late(&self, spec: &HealthSpec, now: Instant) -> bool {
        let probe = self.under_way.map(|probe| probe.deadline);
        probe.into_iter().chain(self.watchdog_expiry(spec)).any(|at| now >= at)
    }

    /// Returns whether nothing but the beginning of a probe is due at `at`, of probes so seldom that a moment does not count.
    pub(super) fn only_begins_probe(&self, spec: &HealthSpec, at: Instant) -> bool {
        let is_begin = self.suspended_until.is_none() && self.under_way.is_none() && at == self.next_probe_at;
        is_begin && spec.interval >= SELDOM && self.watchdog_expiry(spec).is_none()
    }

    /// Begins the probes of a VM that was adopted at another moment of the interval, which its name gives: a supervisor
    /// that adopts many VMs at once does not probe all of them at once from then on.
    pub(super) fn spread(mut self, spec: &HealthSpec, now: Instant, name: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        // The first 32 bits are a number below 1 in binary.
        let part = (hasher.finish() >> 32) as f64 / f64::from(u32::MAX);
        self.next_probe_at = now + spec.interval.mul_f64(part);
        self
    }

    /// Records that the daemon has sent `WATCHDOG=1`.
    pub(super) fn watchdog_fed(&mut self, now: Instant) {
        self.watchdog_fed_at = now;
    }

    /// Returns the moment at which the next tick is due.
    pub(super) fn wake_at(&self, spec: &HealthSpec) -> Option<Instant> {
        if self.suspended_until.is_some() {
            return self.suspended_until;
        }
        let probe = match self.under_way {
            Some(Probe { deadline, .. }) => Some(deadline),
            None => (!spec.interval.is_zero()).then_some(self.next_probe_at),
        };
        probe.into_iter().chain(self.watchdog_expiry(spec)).min()
    }

    fn failed(&mut self, spec: &HealthSpec, now: Instant, text: String) -> Option<Finding> {
        let counts = self.unlinked_until.is_none_or(|until| now >= until)
            && now - self.ready_since >= spec.start_period;
        self.failures = self.failures.saturating_add(u32::from(counts));
        self.last = Some(ProbeStatus { healthy: false, failures: self.failures, text });
        if !counts {
            return None;
        }
        let turned = self.failures >= spec.retries.max(1) && !self.unhealthy;
        self.unhealthy |= turned;
        turned.then_some(Finding::Unhealthy)
    }

    fn watchdog_expiry(&self, spec: &HealthSpec) -> Option<Instant> {
        (!spec.watchdog.is_zero()).then(|| self.watchdog_fed_at + spec.watchdog)
    }
}

/// Returns false for a tick that came so much later than it was due that this process cannot have run meanwhile.
fn was_on_time(now: Instant, due: Instant, limit: Duration) -> bool {
    now - due < (limit / 2).max(Duration::from_millis(100))
}
