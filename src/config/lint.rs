//! Gives advice on settings that are allowed and will not have the intended effect (semantics 4.11). Looks only at
//! files without mistakes.

use super::diagnostic::{Level, Log};
use super::file::Section;
use crate::spec::{AutoShutdown, GroupSpec, HealthCheck, Network, Readiness, RestartSpec, VmSpec};
use humantime::format_duration;
use pepita_wire::port::GuestPlace;
use std::time::Duration;

/// The number of steps of a backoff curve that are looked at; a window that takes more restarts is treated as a window
/// that can be filled.
const STEPS: u64 = 10_000;

/// Notes advice on a group.
pub(super) fn group(raw: &Section<'_>, spec: &GroupSpec, log: &Log<'_>) {
    window(raw, spec, log);
    for (raw, spec) in raw.vms.iter().zip(&spec.vms) {
        vm(raw, spec, log);
    }
    significance(raw, spec, log);
}

fn window(raw: &Section<'_>, spec: &GroupSpec, log: &Log<'_>) {
    let (allowed, vms) = (spec.intensity.max_restarts, spec.vms.len());
    let written = raw.layer.good("intensity");
    if let Some(written) = written
        && usize::try_from(allowed).is_ok_and(|allowed| allowed < vms)
    {
        let text = format!("{allowed} restarts are too few for {vms} VMs to fail once each");
        log.advise(Level::Warning, written.at(), &written.path, text);
    }
    let restarting = || spec.vms.iter().map(|vm| &vm.restart).filter(|r| r.policy.ever_restarts());
    let endless = restarting().all(|restart| restart.max_retries == 0);
    let most: Option<u64> = restarting().map(|restart| most_restarts(restart, spec.intensity.period)).sum();
    if let Some(most) = most.filter(|most| (1..=u64::from(allowed)).contains(most) && endless) {
        let within = format_duration(spec.intensity.period);
        let text = format!(
            "with these delays there are at most {most} restarts in {within}, so more than {allowed} are never \
             reached; with max_retries = 0 a VM that always fails is restarted for ever"
        );
        let (at, path) =
            written.map_or((raw.at.clone(), &raw.called), |written| (written.at(), &written.path));
        log.advise(Level::Info, at, path, text);
    }
}

/// Returns how often a VM that fails at once each time is restarted within a period, at most; `None` for a number that
/// is too large to count.
fn most_restarts(restart: &RestartSpec, period: Duration) -> Option<u64> {
    let backoff = restart.backoff;
    // A VM that stays Ready for this time starts over with the first delay, so that no number is certain.
    if backoff.initial.is_zero() || restart.reset_after < period {
        return None;
    }
    let (mut delay, mut elapsed) = (backoff.initial.as_secs_f64(), 0.0);
    for count in 1..STEPS {
        elapsed += delay.min(backoff.max.as_secs_f64());
        if elapsed > period.as_secs_f64() {
            return Some(count);
        }
        delay *= backoff.multiplier;
    }
    None
}

fn vm(raw: &Section<'_>, spec: &VmSpec, log: &Log<'_>) {
    let RestartSpec { reset_after, backoff, .. } = &spec.restart;
    if *reset_after < backoff.max
        && let Some(written) = raw.layer.later("restart.reset_after", "restart.backoff.max_delay")
    {
        let (reset, max) = (format_duration(*reset_after), format_duration(backoff.max));
        let text = format!("failures are forgotten after {reset}, sooner than the longest delay of {max}");
        log.advise(Level::Warning, written.at(), &written.path, text);
    }
    // An image may have a health check.
    let is_pinged = spec.health.check() == HealthCheck::Ping
        && !(spec.machine.image.is_some() && spec.health.leaves_check_to_image());
    if let Some(written) = raw.layer.good("start.ready")
        && (spec.start.ready, is_pinged) == (Readiness::Health, true)
    {
        let text = "without health.command, health.tcp or health.http only the guest agent is probed, which answers \
                    before the daemon does";
        log.advise(Level::Warning, written.at(), &written.path, text.to_owned());
    }
    if let Some(written) = raw.layer.good("network").filter(|_| spec.world.network == Network::User) {
        let text = "the guest reaches what the host reaches, also services that listen at 127.0.0.1 of the host (in the \
                    guest at 10.0.2.2); reach lists what a daemon may dial without a network";
        log.advise(Level::Info, written.at(), &written.path, text.to_owned());
    }
    let published = |port| spec.publish.iter().any(|it| it.guest == GuestPlace::Port(port));
    if let Some(written) = raw.layer.good("reach")
        && let Some(both) = spec.reach.iter().find(|it| published(it.at.port))
    {
        let text = format!(
            "the guest listens at {}, and port {} of the daemon is published: the daemon has to listen at 127.0.0.1, because \
             it cannot listen at all addresses (0.0.0.0) of that port",
            both.at, both.at.port
        );
        log.advise(Level::Info, written.at(), &written.path, text);
    }
}

fn significance(raw: &Section<'_>, spec: &GroupSpec, log: &Log<'_>) {
    let significant = || raw.vms.iter().zip(&spec.vms).filter(|(_, spec)| spec.significant);
    match spec.auto_shutdown {
        AutoShutdown::Never => {
            for written in significant().filter_map(|(raw, _)| raw.layer.good("significant")) {
                let text =
                    "significant means nothing while the group's auto_shutdown is \"never\"".to_owned();
                log.advise(Level::Warning, written.at(), &written.path, text);
            }
        }
        AutoShutdown::AnySignificant | AutoShutdown::AllSignificant => {
            if let (Some(written), None) = (raw.layer.good("auto_shutdown"), significant().next()) {
                let text = "no VM of the group is significant, so it never shuts down by itself".to_owned();
                log.advise(Level::Warning, written.at(), &written.path, text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Backoff;

    #[test]
    fn restarts_are_counted_along_the_curve() {
        let restart = |initial, max, multiplier| RestartSpec {
            backoff: Backoff {
                initial: Duration::from_secs(initial),
                max: Duration::from_secs(max),
                multiplier,
                jitter: 0.0,
            },
            ..RestartSpec::default()
        };
        let minute = Duration::from_secs(60);
        // Restarts are decided at 0, 1, 3, 7, 15, 31 s; the next would be at 63 s.
        assert_eq!(most_restarts(&restart(1, 60, 2.0), minute), Some(6));
        assert_eq!(most_restarts(&restart(10, 10, 1.0), minute), Some(7));
        assert_eq!(most_restarts(&restart(0, 60, 2.0), minute), None);
        let forgetful = RestartSpec { reset_after: Duration::from_secs(1), ..restart(1, 60, 2.0) };
        assert_eq!(most_restarts(&forgetful, minute), None);
    }
}
