//! What a probe asks a guest, and what the answer says. No clock, no I/O.

use crate::spec::{HealthCheck, HealthSpec};
use pepita_wire::agent::{Exec, Probe, ProbeResult};
use pepita_wire::probe::Check;
use pepita_wire::text::shown;
use pepita_wire::{Ask, ErrorKind, ExecResult, Exit, Outcome};
use serde_json::Value;
use std::time::Duration;

/// The number of characters that are kept of the output of a command, from its end: there it says why it failed.
const OUTPUT_CAP: usize = 200;

/// The answer to a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The guest is well; with what it has said.
    Good(String),
    /// The guest is not well, or has not answered; with what it has said, or the reason.
    Bad(String),
    /// The guest agent is too old to ask the daemon. It has answered, as it would a ping.
    TooOld,
}

/// Reads an outcome, which is absent when the connection was lost.
pub(crate) type Reading = fn(Option<Outcome>) -> Answer;

/// Returns the request that probes a guest, and the reading of its outcome.
pub(crate) fn request(health: &HealthSpec) -> (Ask, Reading) {
    let timeout_ms = u64::try_from(health.timeout.as_millis()).unwrap_or(u64::MAX);
    let check = match health.check() {
        HealthCheck::Ping => return (Ask::Ping, of_ping),
        // A guest that runs a command and reports its exit answers pings, too.
        HealthCheck::Command(command) => {
            let exec = Exec { command: command.to_vec(), timeout_ms, bulk: false };
            return (Ask::Exec(exec), of_command);
        }
        HealthCheck::Tcp(port) => Check::Tcp(port),
        HealthCheck::Http(place) => Check::Http(place.clone()),
    };
    (Ask::Probe(Probe { check, timeout_ms }), of_check)
}

/// Returns the words for a probe that was not answered within its time.
pub(super) fn unanswered(timeout: Duration) -> String {
    format!("no answer within {}", humantime::format_duration(timeout))
}

fn of_ping(outcome: Option<Outcome>) -> Answer {
    read(outcome, |_| Answer::Good("the guest agent answers".into()))
}

fn of_command(outcome: Option<Outcome>) -> Answer {
    read(outcome, |value| {
        let Ok(result) = serde_json::from_value::<ExecResult>(value) else { return unreadable() };
        let end = match result.timed_out {
            true => "killed at its time limit".to_owned(),
            false => result.exit.to_string(),
        };
        let output = result.output.trim();
        let skipped = output.chars().count().saturating_sub(OUTPUT_CAP);
        let kept: String = output.chars().skip(skipped).collect();
        let text = match (kept.as_str(), skipped) {
            ("", _) => end,
            (kept, 0) => format!("{end}: {kept}"),
            (kept, _) => format!("{end}: …{kept}"),
        };
        let is_good = result.exit == Exit::code(0) && !result.timed_out;
        if is_good { Answer::Good(shown(&text)) } else { Answer::Bad(shown(&text)) }
    })
}

fn of_check(outcome: Option<Outcome>) -> Answer {
    if let Some(Err(error)) = &outcome
        && error.kind == ErrorKind::Unsupported
    {
        return Answer::TooOld;
    }
    read(outcome, |value| match serde_json::from_value::<ProbeResult>(value) {
        Ok(ProbeResult { healthy: true, output }) => Answer::Good(shown(&output)),
        Ok(ProbeResult { healthy: false, output }) => Answer::Bad(shown(&output)),
        Err(_) => unreadable(),
    })
}

fn read(outcome: Option<Outcome>, reading: impl FnOnce(Value) -> Answer) -> Answer {
    match outcome {
        Some(Ok(value)) => reading(value),
        Some(Err(error)) => Answer::Bad(shown(&error.message)),
        None => Answer::Bad("the connection to the guest agent was lost".into()),
    }
}

fn unreadable() -> Answer {
    Answer::Bad("the answer of the guest agent cannot be read".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pepita_wire::WireError;
    use serde_json::json;

    fn health() -> HealthSpec {
        HealthSpec::default()
    }

    fn of_output(code: i32, output: &str) -> Answer {
        let (_, reading) = request(&HealthSpec { command: Some(vec!["/bin/check".into()]), ..health() });
        let result = ExecResult { exit: Exit::code(code), output: output.into(), ..ExecResult::default() };
        reading(Some(Ok(serde_json::to_value(result).expect("plain"))))
    }

    #[test]
    fn the_output_of_a_command_is_kept_from_its_end_and_made_fit_to_be_shown() {
        assert_eq!(of_output(0, "PONG\n"), Answer::Good("exit 0: PONG".into()));
        assert_eq!(of_output(0, "\n"), Answer::Good("exit 0".into()));
        let Answer::Bad(text) = of_output(1, &format!("{}\x1b[2J\nno route\n", "x".repeat(4000))) else {
            panic!("exit 1")
        };
        assert!(text.starts_with("exit 1: …xxx") && text.ends_with("x\\x1b[2J\\nno route"), "{text}");
    }

    #[test]
    fn a_check_is_asked_of_the_agent_and_an_agent_that_does_not_know_it_is_too_old() {
        let tcp = HealthSpec { tcp: 6379, ..health() };
        let (ask, reading) = request(&tcp);
        assert_eq!(ask, Ask::Probe(Probe { check: Check::Tcp(6379), timeout_ms: 2000 }));
        let answer = |healthy| Some(Ok(json!({ "healthy": healthy, "output": "a\nb" })));
        assert_eq!(reading(answer(true)), Answer::Good("a\\nb".into()));
        assert_eq!(reading(answer(false)), Answer::Bad("a\\nb".into()));
        let old = WireError::new(ErrorKind::Unsupported, "unknown method \"probe\"");
        assert_eq!(reading(Some(Err(old.clone()))), Answer::TooOld);
        // Every agent knows a ping: a refusal is a failure.
        let (_, reading) = request(&health());
        assert_eq!(reading(Some(Err(old))), Answer::Bad("unknown method \"probe\"".into()));
        assert!(matches!(reading(None), Answer::Bad(why) if why.contains("lost")));
    }
}
