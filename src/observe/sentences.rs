//! Sentences for people: the one place that turns endings, decisions, phases and events into text. Programs read
//! [`Event::to_json`] instead.

use super::event::{Change, Event, EventKind};
use super::phase::VmPhase;
use crate::policy::{Action, Decision, Ending, Exceeded, Exit, Failure, GroupEnd, Reason, WindowCount};
use pepita_wire::text::shown_up_to;
use std::fmt;
use std::time::Duration;

/// Formats a delay for people, in its two largest units: `4.0 s`, `3m05s`, `2h05m`, `3d04h`, and `104 years`.
pub fn delay_in_words(delay: Duration) -> String {
    /// A year as configurations count it (`"1year"`), in seconds.
    const YEAR: u64 = 31_557_600;
    match delay.as_secs() {
        0..60 => format!("{:.1} s", delay.as_secs_f64()),
        s @ 60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        s @ 3600..86_400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        s @ 86_400..YEAR => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3600),
        s => match s / YEAR {
            1 => "1 year".into(),
            years => format!("{years} years"),
        },
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(record) => {
                write!(f, "{}", record.exit)?;
                match (&record.exit, record.evidence.first()) {
                    // The kind alone does not say enough for people.
                    (
                        Exit::GuestReset | Exit::HostOom | Exit::TransportLost | Exit::Unknown,
                        Some(evidence),
                    ) => {
                        write!(f, " ({evidence})")
                    }
                    (
                        Exit::GuestReset
                        | Exit::HostOom
                        | Exit::TransportLost
                        | Exit::ShareLost { .. }
                        | Exit::Unknown
                        | Exit::Exited { .. }
                        | Exit::Signalled { .. }
                        | Exit::NotExecutable { .. }
                        | Exit::GuestOom
                        | Exit::GuestPanic { .. }
                        | Exit::VmmCrashed(_)
                        | Exit::VmmRefused { .. }
                        | Exit::BootTimeout
                        | Exit::AgentLost { .. }
                        | Exit::StopRequested
                        | Exit::Killed,
                        _,
                    ) => Ok(()),
                }
            }
            Self::NotLaunched { message, .. } => write!(f, "launch failed: {message}"),
            Self::Unreadable { message } => write!(f, "not supervised, its files cannot be read: {message}"),
            Self::StartTimeout => f.write_str("not ready in time"),
            Self::Unhealthy => f.write_str("unhealthy"),
            Self::WatchdogExpired => f.write_str("watchdog expired"),
            Self::ActorFailed { message } => write!(f, "its actor failed: {message}"),
        }
    }
}

impl fmt::Display for WindowCount {
    /// Writes `3/5 in 1m`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} in {}", self.count, self.max, humantime::format_duration(self.period))
    }
}

impl fmt::Display for Exceeded {
    /// Writes `more than 5 restarts in 1m`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_exceeded(f, &self.window)
    }
}

fn write_exceeded(f: &mut fmt::Formatter<'_>, window: &WindowCount) -> fmt::Result {
    let restarts = if window.max == 1 { "restart" } else { "restarts" };
    write!(f, "more than {} {restarts} in {}", window.max, humantime::format_duration(window.period))
}

/// The reason of a decision, for people, with the figures of the decision that belong to it.
struct Why<'a>(&'a Decision);

impl fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decision = self.0;
        match decision.reason {
            Reason::Policy(policy) => write!(f, "restart policy {policy}"),
            Reason::NeverRestartExitCode => f.write_str("its code is in never_restart_exit_codes"),
            Reason::AlwaysRestartExitCode => f.write_str("its code is in always_restart_exit_codes"),
            Reason::Hopeless => f.write_str("the next launch would fail, too"),
            Reason::RetriesExhausted => match decision.max_attempts {
                1 => f.write_str("after 1 attempt"),
                most => write!(f, "after {most} attempts"),
            },
            Reason::IntensityExceeded => write_exceeded(f, &decision.window),
            Reason::StartFailed => f.write_str("it failed in the start of its group"),
            Reason::OperatorStop => f.write_str("stopped by the operator"),
            Reason::GroupStopping => f.write_str("its group stops"),
            Reason::GroupWaiting => f.write_str("it starts with its group"),
            Reason::ActorFailed => f.write_str("its actor failed"),
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = Why(self);
        match (self.action, self.delay) {
            (Action::Restart, Some(delay)) => {
                write!(f, "restart in {}: {why}", delay_in_words(delay))?;
            }
            (Action::Restart, None) => write!(f, "restart: {why}")?,
            (Action::Adopt, _) => write!(f, "adopted: {why}")?,
            (Action::Complete | Action::Leave, _) => return write!(f, "not restarted: {why}"),
            (Action::GiveUp, _) => return write!(f, "gave up: {why}"),
            (Action::Escalate, _) => return write!(f, "escalated: {why}"),
            (Action::StopGroup, _) => return write!(f, "group stopped: {why}"),
        }
        write!(f, ", attempt {}, window {}", self.attempt, self.window)?;
        if self.joined { f.write_str(", joins the restart under way") } else { Ok(()) }
    }
}

impl fmt::Display for Failure {
    /// Writes `exit 1; gave up: after 2 attempts`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.ending, self.decision)
    }
}

impl fmt::Display for GroupEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::AutoShutdown => f.write_str("its significant VMs have ended"),
            Self::Failed { vm, failure } | Self::Escalated { vm, failure } => write!(f, "{vm}: {failure}"),
        }
    }
}

impl fmt::Display for VmPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backoff { attempt, ending, .. } => write!(f, "backoff (attempt {attempt}, after {ending})"),
            Self::Failed(failure) => write!(f, "failed ({failure})"),
            Self::Stopped
            | Self::Waiting
            | Self::Idle { .. }
            | Self::Starting
            | Self::Running
            | Self::Ready
            | Self::Unhealthy
            | Self::Paused
            | Self::Stopping
            | Self::Unknown
            | Self::Completed => f.write_str(self.word()),
        }
    }
}

impl fmt::Display for Change {
    /// Writes `api #3: ready -> backoff; exit 1; restart in 4.0 s: …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {} -> {}", self.vm, self.incarnation, self.from.word(), self.to.word())?;
        if let Some(ending) = &self.ending {
            write!(f, "; {ending}")?;
            if let Ending::Exit(record) = ending
                && is_failure(&record.exit)
                && let Some(words) = last_words(&record.console)
            {
                write!(f, "; {words}")?;
            }
        }
        if let Some(probe) = &self.probe {
            write!(f, "; last probe: {probe}")?;
        }
        if let Some(timings) = &self.timings {
            write!(f, "; its start took {:.1} ms", timings.total_us as f64 / 1000.0)?;
        }
        if let Some(decision) = &self.decision {
            write!(f, "; {decision}")?;
        }
        Ok(())
    }
}

/// Returns whether an exit makes people ask what the guest said last.
fn is_failure(exit: &Exit) -> bool {
    !matches!(exit, Exit::Exited { code: 0 } | Exit::StopRequested | Exit::Killed)
}

/// The number of lines of a console that an event shows, and the number of characters of each. All that is kept is
/// printed by `pepitactl logs --previous`.
const LAST_LINES: usize = 2;
const LINE_SHOWN: usize = 120;

/// Returns what a guest said last, for people: `last words: "..."`. The lines come from a guest, so everything in them
/// that could act on a terminal is escaped, once: in most records it is already.
pub(crate) fn last_words(console: &[String]) -> Option<String> {
    let from = console.len().saturating_sub(LAST_LINES);
    let lines = console[from..].iter().map(|line| shown_up_to(line.trim(), LINE_SHOWN));
    let shown: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
    (!shown.is_empty()).then(|| format!("last words: \"{}\"", shown.join(" | ")))
}

impl fmt::Display for Event {
    /// Writes one line for a log, without the time.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.group, &self.kind) {
            (_, EventKind::Vm(change)) => write!(f, "{change}"),
            (Some(group), EventKind::GroupReady) => write!(f, "group {group}: ready"),
            (None, EventKind::GroupReady) => f.write_str("tree: ready"),
            (Some(group), EventKind::GroupEnded(end)) => {
                write!(f, "group {group}: {}: {end}", ended(end.is_failure()))
            }
            (None, EventKind::GroupEnded(end)) => write!(f, "{}: {end}", ended(end.is_failure())),
            (_, EventKind::TreeEnded { reason, failed }) => write!(f, "tree: {}: {reason}", ended(*failed)),
            (_, EventKind::Notice { vm: Some(vm), text }) => write!(f, "{vm}: {text}"),
            (Some(group), EventKind::Notice { vm: None, text }) => write!(f, "group {group}: {text}"),
            (None, EventKind::Notice { vm: None, text }) => f.write_str(text),
        }
    }
}

fn ended(failed: bool) -> &'static str {
    if failed { "failed" } else { "ended" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Incarnation, Restart, VmName};
    use pepita_wire::record::Timings;
    use std::time::Duration;

    fn decision(action: Action, reason: Reason) -> Decision {
        let window = WindowCount { count: 3, max: 6, period: Duration::from_secs(60) };
        Decision { action, reason, delay: None, attempt: 3, max_attempts: 2, window, joined: false }
    }

    #[test]
    fn the_last_words_of_a_guest_are_short_and_harmless_to_a_terminal() {
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        assert_eq!(last_words(&[]), None);
        assert_eq!(last_words(&lines(&["  ", ""])), None);
        let said = last_words(&lines(&["one", "two", "three\u{1b}[31m\u{202e}"])).expect("words");
        assert_eq!(said, "last words: \"two | three\\x1b[31m\\u{202e}\"");
        // A record holds lines that were made fit to be shown.
        let said = last_words(&lines(&[r"a \x1b[31m \ \n 'b'"])).expect("words");
        assert_eq!(said, "last words: \"a \\x1b[31m \\ \\n 'b'\"");
        let long = last_words(&lines(&[&"x".repeat(1000)])).expect("words");
        assert!(long.len() < 2 * LINE_SHOWN, "{long}");
    }

    #[test]
    fn a_delay_is_said_as_people_say_it() {
        let said = |secs| delay_in_words(Duration::from_secs_f64(secs));
        assert_eq!(
            [0.05, 4.0, 60.0, 3725.0, 90_000.0, 40_000_000.0, 3_301_853_751.1].map(said),
            ["0.1 s", "4.0 s", "1m00s", "1h02m", "1d01h", "1 year", "104 years"]
        );
        let mut restart = decision(Action::Restart, Reason::Policy(Restart::Always));
        restart.delay = Some(Duration::from_secs(3_301_853_751));
        assert!(restart.to_string().starts_with("restart in 104 years: restart policy always"), "{restart}");
    }

    #[test]
    fn each_part_of_a_change_is_said_once() {
        let mut restart = decision(Action::Restart, Reason::Policy(Restart::OnFailure));
        restart.delay = Some(Duration::from_secs(4));
        let mut change = Change {
            vm: VmName::new("api").expect("good"),
            incarnation: Incarnation(3),
            from: VmPhase::Ready,
            to: VmPhase::Completed,
            ending: Some(Exit::code(1).into()),
            decision: Some(restart),
            probe: None,
            timings: None,
        };
        assert_eq!(
            change.to_string(),
            "api #3: ready -> completed; exit 1; restart in 4.0 s: restart policy on-failure, attempt 3, window 3/6 in 1m"
        );
        let unhealthy = Change {
            to: VmPhase::Unhealthy,
            ending: None,
            decision: None,
            probe: Some("127.0.0.1:80: connection refused".into()),
            ..change.clone()
        };
        assert_eq!(
            unhealthy.to_string(),
            "api #3: ready -> unhealthy; last probe: 127.0.0.1:80: connection refused"
        );
        let ready = Change {
            from: VmPhase::Running,
            to: VmPhase::Ready,
            probe: None,
            timings: Some(Box::new(Timings { total_us: 1_462_960, ..Timings::default() })),
            ..unhealthy
        };
        assert_eq!(ready.to_string(), "api #3: running -> ready; its start took 1463.0 ms");
        for (action, reason, sentence) in [
            (Action::GiveUp, Reason::RetriesExhausted, "gave up: after 2 attempts"),
            (Action::Escalate, Reason::IntensityExceeded, "escalated: more than 6 restarts in 1m"),
            (Action::Leave, Reason::OperatorStop, "not restarted: stopped by the operator"),
        ] {
            change.decision = Some(decision(action, reason));
            assert_eq!(change.to_string(), format!("api #3: ready -> completed; exit 1; {sentence}"));
        }
    }
}
