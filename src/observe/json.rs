//! Endings and decisions as JSON, for programs. Words are in kebab-case, durations in milliseconds.

use crate::policy::Ending;
use serde_json::{Value, json};

/// Returns `{"kind":"exited","code":3,"evidence":[…],"console":[…],"text":"exit 3"}`: the fields of the exit, what it
/// rests on, and the sentence for people.
pub(super) fn ending(ending: &Ending) -> Value {
    let (fields, evidence, console) = match ending {
        Ending::Exit(record) => {
            let fields = serde_json::to_value(&record.exit).unwrap_or_default();
            (fields, record.evidence.as_slice(), record.console.as_slice())
        }
        Ending::NotLaunched { recoverable, message } => {
            (json!({ "recoverable": recoverable, "message": message }), [].as_slice(), [].as_slice())
        }
        Ending::StartTimeout | Ending::Unhealthy | Ending::WatchdogExpired | Ending::ActorFailed => {
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

/// Adds the fields of the object `more` to the object `json`.
pub(super) fn merge(json: &mut Value, more: Value) {
    if let (Value::Object(json), Value::Object(more)) = (json, more) {
        json.extend(more);
    }
}
