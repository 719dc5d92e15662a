//! The words that a key may hold, and which word or key was probably meant.

use crate::spec::{
    AutoShutdown, OnExit, OnGiveUp, OnIntensityExceeded, OnStartFailure, OnUnhealthy, Orphans, Readiness,
    Restart, Strategy, Vmm,
};

/// The words of one key.
#[derive(Debug)]
pub(super) struct Words<T: 'static> {
    /// What a word of these is.
    pub(super) what: &'static str,
    /// How each is written.
    pub(super) list: &'static [(&'static str, T)],
    /// Other ways to write them, for those who come from elsewhere.
    pub(super) aliases: &'static [(&'static str, T)],
}

const fn words<T>(what: &'static str, list: &'static [(&'static str, T)]) -> Words<T> {
    Words { what, list, aliases: &[] }
}

pub(super) const POLICY: Words<Restart> = Words {
    what: "restart policy",
    list: &[
        ("always", Restart::Always),
        ("on-failure", Restart::OnFailure),
        ("never", Restart::Never),
        ("unless-stopped", Restart::UnlessStopped),
    ],
    // OTP's.
    aliases: &[
        ("permanent", Restart::Always),
        ("transient", Restart::OnFailure),
        ("temporary", Restart::Never),
    ],
};
pub(super) const STRATEGY: Words<Strategy> = words(
    "strategy",
    &[
        ("one_for_one", Strategy::OneForOne),
        ("one_for_all", Strategy::OneForAll),
        ("rest_for_one", Strategy::RestForOne),
    ],
);
pub(super) const ON_GIVE_UP: Words<OnGiveUp> =
    words("answer to giving up", &[("fail", OnGiveUp::Fail), ("escalate", OnGiveUp::Escalate)]);
pub(super) const ON_INTENSITY_EXCEEDED: Words<OnIntensityExceeded> = words(
    "answer to too many restarts",
    &[
        ("escalate", OnIntensityExceeded::Escalate),
        ("stop_group", OnIntensityExceeded::StopGroup),
        ("delay", OnIntensityExceeded::Delay),
    ],
);
pub(super) const AUTO_SHUTDOWN: Words<AutoShutdown> = words(
    "automatic shutdown",
    &[
        ("never", AutoShutdown::Never),
        ("any_significant", AutoShutdown::AnySignificant),
        ("all_significant", AutoShutdown::AllSignificant),
    ],
);
pub(super) const READY: Words<Readiness> =
    words("sign of being ready", &[("started", Readiness::Started), ("notify", Readiness::Notify)]);
pub(super) const ON_START_FAILURE: Words<OnStartFailure> =
    words("answer to a failed start", &[("retry", OnStartFailure::Retry), ("abort", OnStartFailure::Abort)]);
pub(super) const ON_UNHEALTHY: Words<OnUnhealthy> =
    words("answer to being unhealthy", &[("restart", OnUnhealthy::Restart), ("report", OnUnhealthy::Report)]);
pub(super) const ORPHANS: Words<Orphans> = words(
    "way with orphans",
    &[("adopt", Orphans::Adopt), ("destroy", Orphans::Destroy), ("refuse", Orphans::Refuse)],
);
pub(super) const ON_EXIT: Words<OnExit> =
    words("way to exit", &[("stop", OnExit::Stop), ("leave", OnExit::Leave)]);
pub(super) const VMM: Words<Vmm> = words("vmm", &[("qemu", Vmm::Qemu), ("process", Vmm::Process)]);

/// Signals that somebody may have meant; all others are read as well.
pub(super) const SIGNALS: [&str; 7] = ["TERM", "INT", "HUP", "QUIT", "KILL", "USR1", "USR2"];

/// Keys that live in a table of their own, and that people look for one floor higher.
const INNER: [&str; 19] = [
    "group.vm",
    "platform.pepita",
    "restart.policy",
    "restart.max_retries",
    "restart.on_give_up",
    "restart.reset_after",
    "restart.success_exit_codes",
    "restart.never_restart_exit_codes",
    "restart.always_restart_exit_codes",
    "restart.backoff.initial_delay",
    "restart.backoff.max_delay",
    "restart.backoff.multiplier",
    "restart.backoff.jitter",
    "start.ready",
    "stop.signal",
    "health.retries",
    "health.start_period",
    "health.watchdog",
    "health.on_unhealthy",
];

/// The word nearest to what was written, if one is near enough to have been meant.
pub(super) fn nearest<'w>(written: &str, words: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    // Nothing that long is a slip of the pen, and the distance costs the product of the lengths.
    if written.len() > 64 {
        return None;
    }
    let written = written.to_ascii_lowercase();
    let near = |word: &&str| strsim::damerau_levenshtein(&written, &word.to_ascii_lowercase());
    let nearest = words.into_iter().min_by_key(near)?;
    (near(&nearest) <= (written.chars().count() / 3).max(1)).then_some(nearest)
}

/// The key that was probably meant in a table that knows these.
pub(super) fn nearest_key(written: &str, known: &[&'static str]) -> Option<&'static str> {
    let deeper = INNER.iter().find_map(|full| {
        let table = known.iter().find(|key| full.split('.').rev().skip(1).any(|part| part == **key))?;
        let path = &full[full.find(table)?..];
        path.ends_with(&format!(".{written}")).then_some(path)
    });
    deeper.or_else(|| nearest(written, known.iter().copied()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_offered_and_what_is_far_is_not() {
        let policies = || POLICY.list.iter().map(|(word, _)| *word);
        for (written, meant) in [
            ("allways", Some("always")),
            ("on_failure", Some("on-failure")),
            ("OnFailure", Some("on-failure")),
            ("Never", Some("never")),
            ("sometimes", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, policies()), meant, "{written}");
        }
        assert_eq!(nearest(&"x".repeat(100_000), ["x"]), None);
    }

    #[test]
    fn a_key_one_floor_too_high_is_shown_the_stairs() {
        let vm = ["name", "restart", "start", "stop", "health"];
        for (written, meant) in [
            ("policy", Some("restart.policy")),
            ("initial_delay", Some("restart.backoff.initial_delay")),
            ("nmae", Some("name")),
            ("vm", None),
        ] {
            assert_eq!(nearest_key(written, &vm), meant, "{written}");
        }
        assert_eq!(nearest_key("jitter", &["policy", "backoff"]), Some("backoff.jitter"));
        assert_eq!(nearest_key("vm", &["supervisor", "group"]), Some("group.vm"));
    }
}
