//! Endings, decisions and group ends as JSON, for programs. Words are in kebab-case, durations in milliseconds.

use crate::policy::{Decision, Ending, Failure, GroupEnd, WindowCount};
use serde_json::{Value, json};
use std::time::Duration;

/// Returns `{"kind":"exited","code":3,"evidence":[…],"console":[…],"text":"exit 3"}`: the fields of the exit, the
/// evidence for it, and the sentence for people.
pub(super) fn ending(ending: &Ending) -> Value {
    let (fields, evidence, console) = match ending {
        Ending::Exit(record) => {
            let fields = serde_json::to_value(&record.exit).unwrap_or_default();
            (fields, record.evidence.as_slice(), record.console.as_slice())
        }
        Ending::NotLaunched { recoverable, refused, message } => {
            let fields = json!({ "recoverable": recoverable, "refused": refused, "message": message });
            (fields, [].as_slice(), [].as_slice())
        }
        Ending::Unreadable { message } | Ending::ActorFailed { message } => {
            (json!({ "message": message }), [].as_slice(), [].as_slice())
        }
        Ending::StartTimeout | Ending::Unhealthy | Ending::WatchdogExpired => {
            (json!({}), [].as_slice(), [].as_slice())
        }
    };
    let mut json = json!({
        "kind": ending.kind(),
        "evidence": evidence,
        "console": console,
        "text": ending.to_string(),
    });
    merge(&mut json, fields);
    json
}

/// Returns the fields of a decision, and the sentence for people.
pub(super) fn decision(decision: &Decision) -> Value {
    json!({
        "action": decision.action.word(),
        "reason": decision.reason.word(),
        "delay_ms": decision.delay.map(milliseconds),
        "attempt": decision.attempt,
        "max_attempts": decision.max_attempts,
        "window": window(&decision.window),
        "joined": decision.joined,
        "text": decision.to_string(),
    })
}

/// Returns `{"count":3,"max":5,"period_ms":60000,"text":"3/5 in 1m"}`.
pub(super) fn window(window: &WindowCount) -> Value {
    json!({
        "count": window.count,
        "max": window.max,
        "period_ms": milliseconds(window.period),
        "text": window.to_string(),
    })
}

/// Returns an end and the decision on it: `{"ending":{…},"decision":{…}}`.
pub(super) fn failure(failure: &Failure) -> Value {
    json!({ "ending": ending(&failure.ending), "decision": decision(&failure.decision) })
}

/// Returns how a group ended, the VM whose end caused that, and the sentence for people as `reason`.
pub(super) fn group_end(end: &GroupEnd) -> Value {
    let mut json = json!({ "end": end.word(), "failed": end.is_failure(), "reason": end.to_string() });
    if let Some((vm, failed)) = end.failure() {
        merge(&mut json, failure(failed));
        merge(&mut json, json!({ "vm": vm.as_str() }));
    }
    json
}

/// Adds the fields of the object `more` to the object `json`.
pub(super) fn merge(json: &mut Value, more: Value) {
    if let (Value::Object(json), Value::Object(more)) = (json, more) {
        json.extend(more);
    }
}

/// Returns a duration in whole milliseconds.
pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Action, Exit, ExitRecord, Reason};
    use crate::spec::Restart;

    #[test]
    fn an_ending_carries_its_data() {
        let record = ExitRecord {
            exit: Exit::code(3),
            evidence: vec!["the agent reported code 3".into()],
            console: vec!["bye".into()],
            ..ExitRecord::default()
        };
        let json = ending(&record.into());
        assert_eq!((&json["kind"], &json["code"]), (&json!("exited"), &json!(3)));
        assert_eq!(
            (&json["evidence"][0], &json["console"][0]),
            (&json!("the agent reported code 3"), &json!("bye"))
        );
        let json = ending(&Ending::NotLaunched { recoverable: true, refused: false, message: "busy".into() });
        assert_eq!((&json["kind"], &json["recoverable"]), (&json!("not-launched"), &json!(true)));
        assert_eq!(ending(&Ending::StartTimeout)["kind"], "start-timeout");
    }

    #[test]
    fn a_decision_carries_its_figures() {
        let json = decision(&Decision {
            action: Action::Restart,
            reason: Reason::Policy(Restart::OnFailure),
            delay: Some(Duration::from_secs(4)),
            attempt: 3,
            max_attempts: 5,
            window: WindowCount { count: 3, max: 6, period: Duration::from_secs(60) },
            joined: false,
        });
        assert_eq!((&json["action"], &json["reason"]), (&json!("restart"), &json!("on-failure")));
        assert_eq!(
            (&json["delay_ms"], &json["attempt"], &json["max_attempts"]),
            (&json!(4000), &json!(3), &json!(5))
        );
        assert_eq!(json["window"], json!({ "count": 3, "max": 6, "period_ms": 60_000, "text": "3/6 in 1m" }));
    }
}
