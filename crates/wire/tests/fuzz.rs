//! Fuzzes the readers of the wire: for any input of a peer there is no panic, memory stays within bounds, and every
//! value that was read can be written and read again. `PROPTEST_CASES=100000` runs the long form.

mod mutate;

use mutate::{lines, mutated};
use pepita_wire::console::{self, Note};
use pepita_wire::record::{CallError, CallErrorKind, pretty};
use pepita_wire::{
    Ask, CONTENT_CAP, ErrorKind, Exit, ExitRecord, FrameError, LINE_CAP, Lines, StatusRecord, ToGuest,
    ToHost, VersionRecord, VmId,
};
use proptest::collection::vec;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use strum::IntoEnumIterator;

const TO_GUEST: &str = include_str!("golden/1-to-guest.ndjson");
const TO_HOST: &str = include_str!("golden/1-to-host.ndjson");

/// Asserts that a record that was read can be written and read again, and is the same afterwards.
fn round_trip<T: Serialize + DeserializeOwned + PartialEq>(bytes: &[u8]) {
    if let Ok(record) = serde_json::from_slice::<T>(bytes) {
        let again: T = serde_json::from_str(&pretty(&record)).expect("our own text");
        assert!(again == record, "{}", pretty(&record));
    }
}

fn records() -> Vec<Vec<u8>> {
    let exit = ExitRecord {
        name: "a".into(),
        incarnation: 7,
        exit: Exit::signal(9),
        evidence: vec!["the VMM died of SIGKILL".into()],
        console: vec!["last words".into()],
        ..Default::default()
    };
    let status = StatusRecord { name: "a".into(), exit: Some(exit.clone()), ..Default::default() };
    let version = VersionRecord { name: "pepita-launcher".into(), ..Default::default() };
    let texts = [pretty(&exit), pretty(&status), pretty(&version)];
    let error = br#"{"kind":"no-such-vm","name":"a","message":"no VM a"}"#.to_vec();
    texts.into_iter().map(String::into_bytes).chain([error]).collect()
}

/// Returns whether a value contains a fraction. The protocol has no fractions, and the last digit of a fraction may
/// change when it is written and read again.
fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(values) => values.iter().any(has_fraction),
        Value::Object(fields) => fields.values().any(has_fraction),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

proptest! {
    #[test]
    fn no_line_of_a_host_breaks_the_guest(line in mutated(lines(TO_GUEST))) {
        if let Ok(frame) = ToGuest::decode(&line) {
            if matches!(&frame, ToGuest::Request(request) if has_fraction(&request.params)) {
                return Ok(());
            }
            prop_assert_eq!(ToGuest::decode(frame.encode().trim_ascii_end()).expect("our own line"), frame.clone());
            if let ToGuest::Request(request) = frame
                && let Ok(ask) = Ask::from_parts(&request.method, request.params)
            {
                let (method, params) = ask.clone().into_parts();
                prop_assert_eq!(Ask::from_parts(method, params), Ok(ask));
            }
        }
    }

    #[test]
    fn no_line_of_a_guest_breaks_the_host(line in mutated(lines(TO_HOST))) {
        if let Ok(frame) = ToHost::decode(&line) {
            if matches!(&frame, ToHost::Answer { outcome: Ok(value), .. } if has_fraction(value)) {
                return Ok(());
            }
            prop_assert_eq!(ToHost::decode(frame.encode().trim_ascii_end()).expect("our own line"), frame);
        }
    }

    #[test]
    fn a_stream_of_anything_is_cut_into_lines_within_the_cap(
        pieces in vec((mutated(lines(TO_HOST)), 1_usize..4000, any::<bool>()), 0..12),
    ) {
        let mut cut = Lines::new();
        for (bytes, times, newline) in pieces {
            let mut piece = bytes.repeat(times);
            piece.truncate(128 * 1024);
            if newline {
                piece.push(b'\n');
            }
            cut.push(&piece);
            while let Some(line) = cut.next_line() {
                prop_assert!(line.map_or(0, <[u8]>::len) < LINE_CAP);
            }
            prop_assert!(cut.pending() < LINE_CAP);
        }
    }

    #[test]
    fn no_line_of_the_console_is_taken_for_a_note_without_its_token(
        line in mutated(vec![note("secret"), note("guess")]),
    ) {
        prop_assert_eq!(console::decode(&line, &["another", ""]), None);
        // The result does not matter, only that there is no panic.
        let _ = console::decode(&line, &["secret"]);
    }

    #[test]
    fn no_record_breaks_its_reader(bytes in mutated(records())) {
        round_trip::<StatusRecord>(&bytes);
        round_trip::<ExitRecord>(&bytes);
        round_trip::<VersionRecord>(&bytes);
        round_trip::<CallError>(&bytes);
        round_trip::<Exit>(&bytes);
    }

    #[test]
    fn what_is_a_name_is_one_plain_word(text in "\\PC{0,80}|[a-z0-9-]{0,70}") {
        if let Ok(name) = VmId::new(&text) {
            let name = name.as_str();
            prop_assert!((1..=63).contains(&name.len()) && !name.starts_with('-'));
            prop_assert!(!name.contains(['/', '.', '\0', '=', ' ']));
        }
    }
}

fn note(token: &str) -> Vec<u8> {
    let text = console::encode(token, &Note::Exited(Exit::code(3)));
    text.trim_matches('\n').as_bytes().to_vec()
}

/// Returns a line of the maximum length with as many values as possible.
fn swollen(head: &str) -> Vec<u8> {
    let mut line = head.as_bytes().to_vec();
    line.extend(br#"{"":0},"#.repeat((LINE_CAP - line.len() - 16) / 7));
    line.extend(b"0]}");
    line
}

#[test]
fn a_line_that_would_swell_in_memory_is_refused_unread() {
    for head in [r#"{"id":1,"ok":["#, r#"{"seq":1,"event":"health","data":["#] {
        let line = swollen(head);
        assert!(line.len() < LINE_CAP && line.len() > CONTENT_CAP);
        assert!(matches!(ToHost::decode(&line), Err(FrameError::TooMuch)));
    }
}

#[test]
fn what_a_guest_says_at_length_is_cut() {
    let long = "ü".repeat(10_000);
    let line = format!(
        r#"{{"seq":1,"event":"exited","data":{{"exec":{{"errno":2,"path":"{long}","message":"{long}"}}}}}}"#
    );
    let Ok(ToHost::Event { event: pepita_wire::GuestEvent::Exited(exit), .. }) =
        ToHost::decode(line.as_bytes())
    else {
        panic!("an event")
    };
    let Exit::NotExecutable { path, message, .. } = exit else { panic!("another kind of exit") };
    assert_eq!((path.chars().count(), message.chars().count()), (256, 256));
}

#[test]
fn every_frame_in_the_readme_is_one() {
    let readme = include_str!("../README.md");
    let frames = readme.lines().filter(|line| line.starts_with('{'));
    let mut read = 0;
    for line in frames {
        let known = ToGuest::decode(line.as_bytes()).is_ok() || ToHost::decode(line.as_bytes()).is_ok();
        assert!(known || line.contains("\"modules\""), "{line}");
        read += 1;
    }
    assert!(read > 8, "{read}");
}

#[test]
fn every_method_is_in_the_readme_and_every_kind_of_error() {
    let readme = include_str!("../README.md");
    for line in TO_GUEST.lines().skip(1) {
        let Ok(ToGuest::Request(request)) = ToGuest::decode(line.as_bytes()) else { panic!("a request") };
        assert!(readme.contains(&format!("| `{}` |", request.method)), "{}", request.method);
    }
    for kind in ErrorKind::iter() {
        assert!(readme.contains(&format!("`{kind}`")) || kind == ErrorKind::Other, "{kind}");
    }
    for kind in CallErrorKind::iter() {
        let word = format!("`{kind}`");
        assert_eq!(serde_json::to_value(kind).expect("a word"), kind.to_string());
        let code = format!("| {} |", kind.exit_code());
        assert!(readme.lines().any(|l| l.starts_with(&code) && l.contains(&word)), "{code} {word}");
    }
}
