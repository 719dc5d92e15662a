//! Policies of a VM and of a group: restart, backoff, intensity, start, stop, health.

use pepita_wire::Signal;
use pepita_wire::probe::HttpPlace;
use std::collections::BTreeSet;
use std::time::Duration;
use strum::{Display, EnumString, IntoStaticStr, VariantNames};

/// The strategy of a group, which says which siblings share a failure (OTP's `supervisor`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, EnumString, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum Strategy {
    /// Only the VM that failed is restarted.
    OneForOne,
    /// All VMs of the group are restarted.
    OneForAll,
    /// The VM that failed and the VMs after it are restarted.
    RestForOne,
}

/// Whether a VM is restarted (the words of systemd and Docker; the file may use OTP's permanent, transient, temporary).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, EnumString, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum Restart {
    /// Restart however the VM ended. A restart of the supervisor also starts a VM that the operator had stopped.
    Always,
    /// Restart when the VM did not end cleanly.
    OnFailure,
    /// Never restart the VM.
    Never,
    /// Restart however the VM ended, but a VM that the operator had stopped stays down.
    UnlessStopped,
}

/// The delays before restarts: `initial * multiplier^(attempt-1)`, at most `max`, then times `1 + U[0, jitter)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The delay before the first restart.
    pub initial: Duration,
    /// The longest delay, before jitter.
    pub max: Duration,
    /// The growth with each attempt, at least 1.
    pub multiplier: f64,
    /// The part of the delay that the jitter may add, 0 to 1.
    pub jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Duration::from_secs(1), max: Duration::from_secs(60), multiplier: 2.0, jitter: 0.1 }
    }
}

/// The number of restarts that are allowed within a period (intensity and period of OTP's `supervisor`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intensity {
    /// The number of restarts that are allowed; another restart exceeds it.
    pub max_restarts: u32,
    /// The sliding window in which they are counted.
    pub period: Duration,
}

impl Intensity {
    /// Returns the default for a group of this number of VMs: the larger of 6 and 3 for each VM, in 60 s.
    pub(crate) fn default_for(vms: usize) -> Self {
        let max_restarts = u32::try_from(vms).unwrap_or(u32::MAX).saturating_mul(3).max(6);
        Self { max_restarts, period: Duration::from_secs(60) }
    }
}

/// The consequence of too many restarts in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, EnumString, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum OnIntensityExceeded {
    /// The group is stopped and the root decides.
    Escalate,
    /// The group is stopped and stays down.
    StopGroup,
    /// The restart waits until the window has room.
    Delay,
}

/// The consequence when a VM has used up its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, EnumString, VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum OnGiveUp {
    /// The VM alone has failed.
    Fail,
    /// The VM's group has failed.
    Escalate,
}

/// The `restart` table of a VM.
#[derive(Debug, Clone, PartialEq)]
pub struct RestartSpec {
    /// Whether the VM is restarted.
    pub policy: Restart,
    /// Consecutive failures before the supervisor gives up; 0 for no limit.
    pub max_retries: u32,
    /// The consequence of giving up.
    pub on_give_up: OnGiveUp,
    /// The time for which a VM must be Ready to have its failures cleared.
    pub reset_after: Duration,
    /// Exit codes that are clean.
    pub success: BTreeSet<i32>,
    /// Exit codes after which the VM is never restarted.
    pub never: BTreeSet<i32>,
    /// Exit codes after which the VM is always restarted.
    pub always: BTreeSet<i32>,
    /// The delays before the restarts of the VM.
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

/// The condition under which a VM counts as Ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, EnumString, VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum Readiness {
    /// The VM is Ready when its daemon runs (systemd's `Type=exec`).
    Started,
    /// The VM is Ready when its daemon has sent `READY=1` (systemd's `Type=notify`).
    Notify,
    /// The VM is Ready at its first good probe.
    Health,
}

/// What starts a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, EnumString, VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum StartOn {
    /// The start of its group.
    Boot,
    /// The first connection to a port that the VM publishes, or that others reach (systemd's socket activation).
    Connection,
}

/// The consequence of a failed first start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, EnumString, VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum OnStartFailure {
    /// The VM's restart policy decides.
    Retry,
    /// The group's start has failed (as in OTP).
    Abort,
}

/// The `start` table of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartSpec {
    /// What starts the VM.
    pub on: StartOn,
    /// When the VM counts as Ready.
    pub ready: Readiness,
    /// The time limit from the launch until the VM is Ready.
    pub timeout: Duration,
    /// The consequence of a failed first start.
    pub on_failure: OnStartFailure,
}

impl Default for StartSpec {
    fn default() -> Self {
        Self {
            on: StartOn::Boot,
            ready: Readiness::Started,
            timeout: Duration::from_secs(90),
            on_failure: OnStartFailure::Retry,
        }
    }
}

/// The `stop` table of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopSpec {
    /// The signal that the daemon is sent first; `None` for the stop signal of the VM's image, else TERM.
    pub signal: Option<Signal>,
    /// The time that the daemon has to end before the VM is destroyed; zero destroys the VM at once.
    pub timeout: Duration,
}

impl Default for StopSpec {
    fn default() -> Self {
        Self { signal: None, timeout: Duration::from_secs(30) }
    }
}

/// The consequence of being unhealthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, EnumString, VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum OnUnhealthy {
    /// A failure: the VM is destroyed and its restart policy decides.
    Restart,
    /// A state and an event, as with Docker.
    Report,
}

/// The way in which a VM sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, EnumString, VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum IdleAction {
    /// The virtual CPUs are paused; the next client resumes them.
    Pause,
    /// The VM is stopped; the next client starts it.
    Stop,
}

/// The `idle` table of a VM: when it is put to sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleSpec {
    /// The time without a client after which the VM is put to sleep; zero for never.
    pub after: Duration,
    /// The way in which it sleeps.
    pub action: IdleAction,
}

impl Default for IdleSpec {
    fn default() -> Self {
        Self { after: Duration::ZERO, action: IdleAction::Pause }
    }
}

impl IdleSpec {
    /// Returns whether the VM is put to sleep at all.
    pub fn is_set(&self) -> bool {
        !self.after.is_zero()
    }
}

/// The `health` table of a VM (Docker's health check and systemd's watchdog).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSpec {
    /// The time between two probes; zero for no probes.
    pub interval: Duration,
    /// The time limit of one probe.
    pub timeout: Duration,
    /// The number of failed probes in a row that make the VM unhealthy.
    pub retries: u32,
    /// The time after the daemon's start in which failed probes do not count.
    pub start_period: Duration,
    /// A command that is run in the guest and exits with 0 when the guest is healthy; empty for no command, and `None` for
    /// the health check of the VM's image, if it has one. Of this field and the next two at most one is set; without
    /// any, the agent's ping is the probe.
    pub command: Option<Vec<String>>,
    /// A TCP port at 127.0.0.1 of the guest that accepts connections when the daemon is healthy; 0 for none.
    pub tcp: u16,
    /// A place of the guest that answers a GET request with a status from 200 to 399 when the daemon is healthy.
    pub http: Option<HttpPlace>,
    /// The interval in which the daemon must send `WATCHDOG=1`; zero for no watchdog.
    pub watchdog: Duration,
    /// The consequence of being unhealthy.
    pub on_unhealthy: OnUnhealthy,
    /// The time that a daemon has to end after the stop signal, when it is stopped because of its health; zero for a kill
    /// at once.
    pub stop_timeout: Duration,
}

/// The question of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthCheck<'a> {
    /// The agent is asked to answer.
    Ping,
    /// A command is run in the guest.
    Command(&'a [String]),
    /// A TCP port of the guest is connected to.
    Tcp(u16),
    /// A GET request is sent in the guest.
    Http(&'a HttpPlace),
}

impl HealthSpec {
    /// Returns whether the health check of the VM's image counts, if it has one.
    pub fn leaves_check_to_image(&self) -> bool {
        self.command.is_none() && self.check() == HealthCheck::Ping
    }

    /// Returns the question of the probes.
    pub fn check(&self) -> HealthCheck<'_> {
        match (self.command.as_deref().unwrap_or_default(), self.tcp, &self.http) {
            ([], 0, None) => HealthCheck::Ping,
            ([], 0, Some(place)) => HealthCheck::Http(place),
            ([], port, _) => HealthCheck::Tcp(port),
            (command, _, _) => HealthCheck::Command(command),
        }
    }
}

impl HealthCheck<'_> {
    /// Returns the key that asks this question.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Ping => "health.interval",
            Self::Command(_) => "health.command",
            Self::Tcp(_) => "health.tcp",
            Self::Http(_) => "health.http",
        }
    }
}

impl Default for HealthSpec {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            retries: 3,
            start_period: Duration::ZERO,
            command: None,
            tcp: 0,
            http: None,
            watchdog: Duration::ZERO,
            on_unhealthy: OnUnhealthy::Restart,
            stop_timeout: Duration::from_secs(5),
        }
    }
}
