//! What is allowed and will not do what one may think (semantics 4.11). Decides on a tree that has no mistakes.

use super::check::later;
use super::mistake::{Advice, Level};
use super::place::Source;
use super::raw::{Layer, RawGroup, RawVm};
use crate::spec::{AutoShutdown, GroupSpec, Restart, RestartSpec, VmSpec};
use humantime::format_duration;
use std::ops::Range;
use std::time::Duration;

/// Steps of a backoff curve that are looked at; a window that takes more to fill is taken as one that can be.
const STEPS: u64 = 10_000;

/// Gives advice on one group.
pub(super) fn group(raw: &RawGroup, layers: &[Layer], spec: &GroupSpec, source: &Source<'_>) -> Vec<Advice> {
    let mut all = Vec::new();
    let mut say = |level, at: Range<usize>, path: &str, text: String| {
        all.push(Advice { level, place: source.place(at), path: path.to_owned(), text });
    };
    window(raw, spec, &mut say);
    for ((raw, layer), spec) in raw.vms.iter().zip(layers).zip(&spec.vms) {
        vm(raw, layer, spec, &mut say);
    }
    significance(raw, spec, &mut say);
    all
}

fn window(raw: &RawGroup, spec: &GroupSpec, say: &mut impl FnMut(Level, Range<usize>, &str, String)) {
    let (allowed, vms) = (spec.intensity.max_restarts, spec.vms.len());
    if let Some(written) = raw.keys.intensity.good()
        && usize::try_from(allowed).is_ok_and(|allowed| allowed < vms)
    {
        let text = format!("{allowed} restarts are too few for {vms} VMs to fail once each");
        say(Level::Warning, written.at.clone(), &written.path, text);
    }
    let restarting = || spec.vms.iter().map(|vm| &vm.restart).filter(|r| r.policy != Restart::Never);
    let endless = restarting().all(|restart| restart.max_retries == 0);
    let most: Option<u64> = restarting().map(|restart| most_restarts(restart, spec.intensity.period)).sum();
    if let Some(most) = most.filter(|most| (1..=u64::from(allowed)).contains(most) && endless) {
        let within = format_duration(spec.intensity.period);
        let text = format!(
            "with these delays there are at most {most} restarts in {within}, so more than {allowed} are never \
             reached; with max_retries = 0 a VM that always fails is restarted for ever"
        );
        let written = raw.keys.intensity.good().map(|written| (written.at.clone(), written.path.as_str()));
        let (at, path) = written.unwrap_or((raw.at.clone(), raw.called.as_str()));
        say(Level::Info, at, path, text);
    }
}

/// How often a VM that fails at once each time is restarted within a period, at most; `None` = too often to count.
fn most_restarts(restart: &RestartSpec, period: Duration) -> Option<u64> {
    let backoff = restart.backoff;
    // A VM that stays Ready for so long starts over with the first delay: nothing is certain then.
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

fn vm(raw: &RawVm, layer: &Layer, spec: &VmSpec, say: &mut impl FnMut(Level, Range<usize>, &str, String)) {
    let RestartSpec { reset_after, backoff, .. } = &spec.restart;
    if *reset_after < backoff.max
        && let Some(written) = later(&layer.restart.reset_after, &layer.backoff.max_delay)
    {
        let (reset, max) = (format_duration(*reset_after), format_duration(backoff.max));
        let text = format!("failures are forgotten after {reset}, sooner than the longest delay of {max}");
        say(Level::Warning, written.at.clone(), &written.path, text);
    }
    if let Some(written) = raw.keys.standby.good().filter(|standby| standby.value > 0) {
        let text = "warm spares are not supported yet; none will be started".to_owned();
        say(Level::Warning, written.at.clone(), &written.path, text);
    }
}

fn significance(raw: &RawGroup, spec: &GroupSpec, say: &mut impl FnMut(Level, Range<usize>, &str, String)) {
    let vms = || raw.vms.iter().zip(&spec.vms).filter(|(_, spec)| spec.significant);
    match spec.auto_shutdown {
        AutoShutdown::Never => {
            for written in vms().filter_map(|(raw, _)| raw.keys.significant.good()) {
                let text =
                    "significant means nothing while the group's auto_shutdown is \"never\"".to_owned();
                say(Level::Warning, written.at.clone(), &written.path, text);
            }
        }
        AutoShutdown::AnySignificant | AutoShutdown::AllSignificant => {
            let Some(written) = raw.keys.auto_shutdown.good().filter(|_| vms().next().is_none()) else {
                return;
            };
            let text = "no VM of the group is significant, so it never shuts down by itself".to_owned();
            say(Level::Warning, written.at.clone(), &written.path, text);
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
