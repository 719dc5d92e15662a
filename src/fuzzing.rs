//! Opens private parsers to the fuzz targets, with what must hold for any input.

use crate::control::session::{Action, Session};
use crate::journal::entry::Entry;
use crate::spec::HealthSpec;
use crate::vm::probe::{Answer, request};
use pepita_wire::text::TEXT_CAP;
use pepita_wire::{MAX_BAD_LINES, Outcome, WireError};
use serde_json::Value;

/// Hears a client of the control socket, who sends these pieces. Returns what the supervisor does, up to a hang-up.
fn heard<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Action> {
    let mut session = Session::default();
    let mut actions = Vec::new();
    for piece in pieces {
        actions.extend(session.receive(piece));
        if let Some(end) = actions.iter().position(|action| matches!(action, Action::HangUp)) {
            actions.truncate(end + 1);
            break;
        }
    }
    actions
}

/// Hears a client of the control socket. However its bytes come, the same is done.
pub fn control(said: &[u8], length: usize) {
    let (cut, whole) = (heard(said.chunks(length.max(1))), heard([said].into_iter()));
    assert_eq!(cut, whole);
    let under_way = whole.iter().filter(|action| matches!(action, Action::CarryOut { .. })).count();
    let streams = whole.iter().filter(|action| matches!(action, Action::Stream { .. })).count();
    assert!(under_way <= 32 && streams <= 1);
    if whole.last().is_some_and(|action| matches!(action, Action::HangUp)) {
        assert!(whole.len() > MAX_BAD_LINES as usize);
    }
}

/// Reads the file of a VM in the journal.
pub fn journal(bytes: &[u8]) {
    let Ok(entry) = serde_json::from_slice::<Entry>(bytes) else { return };
    let text = serde_json::to_string(&entry).expect("an entry becomes JSON");
    assert_eq!(serde_json::from_str::<Entry>(&text).expect("a text of ours"), entry);
}

/// Reads what a guest answers to a probe.
pub fn probe(answer: &[u8]) {
    let outcome: Option<Outcome> = match serde_json::from_slice::<Value>(answer) {
        Ok(Value::Null) => None,
        Ok(value) => Some(serde_json::from_value::<WireError>(value.clone()).map_or(Ok(value), Err)),
        Err(_) => return,
    };
    let command = HealthSpec { command: Some(vec!["check".into()]), ..HealthSpec::default() };
    for health in [HealthSpec::default(), command, HealthSpec { tcp: 80, ..HealthSpec::default() }] {
        let (_, reading) = request(&health);
        if let Answer::Good(text) | Answer::Bad(text) = reading(outcome.clone()) {
            assert!(text.chars().count() <= TEXT_CAP && !text.chars().any(char::is_control), "{text:?}");
        }
    }
}
