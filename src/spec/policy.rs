//! What a user says about failures: restart, backoff, intensity, start, stop, health.

use pepita_wire::Signal;
use std::collections::BTreeSet;
use std::time::Duration;

/// Which siblings share a failure (OTP `supervisor`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// Only the one that failed is restarted.
    OneForOne,
    /// All of the group are.
    OneForAll,
    /// The one that failed and those after it are.
    RestForOne,
}

/// Whether a VM comes back (systemd's and Docker's words; OTP's permanent, transient, temporary are read too).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Restart {
    /// However it ended. After a restart of the supervisor even what the operator had stopped.
    Always,
    /// However it ended, but what the operator had stopped stays down.
    UnlessStopped,
    /// When it did not end cleanly.
    OnFailure,
    /// It does not.
    Never,
}

/// How soon a VM comes back: `initial * multiplier^(attempt-1)`, at most `max`, then times `1 + U[0, jitter)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// Before the first restart.
    pub initial: Duration,
    /// The cap, before jitter.
    pub max: Duration,
    /// The growth with each attempt, at least 1.
    pub multiplier: f64,
    /// The part of the delay that chance may add, 0 to 1.
    pub jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Duration::from_secs(1), max: Duration::from_secs(60), multiplier: 2.0, jitter: 0.1 }
    }
}

/// How many restarts in how much time are allowed (OTP's intensity and period).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intensity {
    /// So many are allowed, one more is not.
    pub max_restarts: u32,
    /// The sliding window.
    pub period: Duration,
}

impl Intensity {
    /// The larger of 6 and 3 for each VM, in 60 s.
    pub fn default_for(vms: usize) -> Self {
        let max_restarts = u32::try_from(vms).unwrap_or(u32::MAX).saturating_mul(3).max(6);
        Self { max_restarts, period: Duration::from_secs(60) }
    }
}

/// What happens when a group restarts too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnIntensityExceeded {
    /// The group is stopped and the root decides.
    Escalate,
    /// The group is stopped and stays down.
    StopGroup,
    /// The restart waits until the window has room.
    Delay,
}

/// What happens when a VM has used up its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnGiveUp {
    /// It alone has failed.
    Fail,
    /// Its group has.
    Escalate,
}

/// The `restart` table of a VM.
#[derive(Debug, Clone, PartialEq)]
pub struct RestartSpec {
    /// Whether it comes back.
    pub policy: Restart,
    /// Consecutive failures before giving up; 0 = no limit.
    pub max_retries: u32,
    /// What giving up means.
    pub on_give_up: OnGiveUp,
    /// Ready for so long forgets the failures.
    pub reset_after: Duration,
    /// Exit codes that are clean.
    pub success: BTreeSet<i32>,
    /// Exit codes after which it is never restarted.
    pub never: BTreeSet<i32>,
    /// Exit codes after which it always is.
    pub always: BTreeSet<i32>,
    /// How soon.
    pub backoff: Backoff,
}

impl Default for RestartSpec {
    fn default() -> Self {
        Self {
            policy: Restart::OnFailure,
            max_retries: 0,
            on_give_up: OnGiveUp::Fail,
            reset_after: Duration::from_secs(600),
            success: BTreeSet::from([0]),
            never: BTreeSet::new(),
            always: BTreeSet::new(),
            backoff: Backoff::default(),
        }
    }
}

/// When a VM counts as Ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// When its daemon runs (systemd's `Type=exec`).
    Started,
    /// When its daemon has sent `READY=1` (systemd's `Type=notify`).
    Notify,
}

/// What a failed first start means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStartFailure {
    /// The VM's restart policy decides.
    Retry,
    /// The group's start has failed (OTP).
    Abort,
}

/// The `start` table of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartSpec {
    /// When it counts as Ready.
    pub ready: Readiness,
    /// From launch to Ready.
    pub timeout: Duration,
    /// What a failed first start means.
    pub on_failure: OnStartFailure,
}

impl Default for StartSpec {
    fn default() -> Self {
        Self {
            ready: Readiness::Started,
            timeout: Duration::from_secs(90),
            on_failure: OnStartFailure::Retry,
        }
    }
}

/// The `stop` table of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopSpec {
    /// Sent to the daemon first.
    pub signal: Signal,
    /// Then the VM is destroyed; zero = at once.
    pub timeout: Duration,
}

impl Default for StopSpec {
    fn default() -> Self {
        Self { signal: Signal::TERM, timeout: Duration::from_secs(30) }
    }
}

/// What being unhealthy leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnUnhealthy {
    /// It is a failure: the VM is destroyed and its restart policy decides.
    Restart,
    /// It is a state and an event, as with Docker.
    Report,
}

/// The `health` table of a VM (Docker's health check, systemd's watchdog).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSpec {
    /// Between two probes; zero = no probes.
    pub interval: Duration,
    /// For one probe.
    pub timeout: Duration,
    /// Failed probes in a row that make it unhealthy.
    pub retries: u32,
    /// Failed probes do not count this long after the daemon's start.
    pub start_period: Duration,
    /// Run in the guest, exit 0 = healthy; empty = the agent's ping only.
    pub command: Vec<String>,
    /// The daemon must send `WATCHDOG=1` this often; zero = off.
    pub watchdog: Duration,
    /// What being unhealthy leads to.
    pub on_unhealthy: OnUnhealthy,
}

impl Default for HealthSpec {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            retries: 3,
            start_period: Duration::ZERO,
            command: Vec::new(),
            watchdog: Duration::ZERO,
            on_unhealthy: OnUnhealthy::Restart,
        }
    }
}
