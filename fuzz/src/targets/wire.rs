//! What crosses the border between host and guest, and the records that programs leave for each other.

use super::{choice, is_written_and_read, pieces};
use pepita_wire::console::{self, Note};
use pepita_wire::conversation::{AgentConversation, ControlConversation, ControlNews, News};
use pepita_wire::image::ImageRecord;
use pepita_wire::network::{Network, Subnet};
use pepita_wire::port::{GuestPlace, Publish};
use pepita_wire::probe::HttpPlace;
use pepita_wire::reach::{DialPlace, Reached};
use pepita_wire::record::{CallError, pretty};
use pepita_wire::streams::{Chunks, FromCommand, ToCommand};
use pepita_wire::text::{TEXT_CAP, shown, shown_up_to};
use pepita_wire::world::{self, Ulimit};
use pepita_wire::{
    Ask, Exit, ExitRecord, GuestEvent, LINE_CAP, LaunchSpec, Lines, MonitorRequest, Signal, StatusRecord,
    ToGuest, ToHost, VersionRecord, VmId, chunk, storage,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Returns whether a value contains a fraction. The protocol has none, and the last digit of a fraction may change when it
/// is written and read again.
fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(values) => values.iter().any(has_fraction),
        Value::Object(fields) => fields.values().any(has_fraction),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

/// Reads a line of a host, as an agent and a monitor do.
pub(super) fn to_guest(line: &[u8]) {
    let Ok(frame) = ToGuest::decode(line) else { return };
    if matches!(&frame, ToGuest::Request(request) if has_fraction(&request.params)) {
        return;
    }
    let again = ToGuest::decode(frame.encode().trim_ascii_end());
    assert_eq!(again.expect("a line of ours"), frame);
    let ToGuest::Request(request) = frame else { return };
    if let Ok(ask) = Ask::from_parts(&request.method, request.params.clone()) {
        let (method, params) = ask.clone().into_parts();
        assert_eq!(Ask::from_parts(method, params), Ok(ask));
    }
    if let Ok(asked) = MonitorRequest::from_parts(&request.method, request.params) {
        let (method, params) = asked.clone().into_parts();
        assert_eq!(MonitorRequest::from_parts(method, params), Ok(asked));
    }
}

/// Reads a line of a guest.
pub(super) fn to_host(line: &[u8]) {
    let Ok(frame) = ToHost::decode(line) else { return };
    match &frame {
        ToHost::Answer { outcome: Ok(value), .. } if has_fraction(value) => return,
        ToHost::Answer { outcome: Err(error), .. } => is_shown(&error.message),
        ToHost::Hello(hello) => {
            is_shown(&hello.version);
            is_shown(&hello.boot_id);
        }
        ToHost::Event { event: GuestEvent::Exited(exit), .. } => assert_eq!(exit.clone().shown(), *exit),
        ToHost::Answer { .. } | ToHost::Event { .. } => {}
    }
    assert_eq!(ToHost::decode(frame.encode().trim_ascii_end()).expect("a line of ours"), frame);
}

/// Asserts that a text of a guest is fit to be shown.
fn is_shown(text: &str) {
    assert_eq!(shown(text), text);
}

/// Cuts a stream into lines. However it comes, the lines are the same.
pub(super) fn lines(input: &[u8]) {
    const CAP: usize = 64;
    let (mut cut, mut whole) = (Lines::with_cap(CAP), Lines::with_cap(CAP));
    let (mut seen, mut expected) = (Vec::new(), Vec::new());
    for piece in pieces(input) {
        cut.push(piece);
        while let Some(line) = cut.next_line() {
            seen.push(line.map(<[u8]>::to_vec));
        }
        assert!(cut.pending() < CAP);
    }
    whole.push(choice(input).1);
    while let Some(line) = whole.next_line() {
        assert!(line.is_ok_and(|line| line.len() < CAP) || line.is_err());
        expected.push(line.map(<[u8]>::to_vec));
    }
    assert_eq!(seen, expected);
}

/// Hears what an agent says from the first byte on.
pub(super) fn conversation(input: &[u8]) {
    let mut conversation = AgentConversation::<u32>::new(7);
    conversation.connected("token".to_owned(), None);
    let (mut asked, mut answered, mut is_up) = (0, 0, false);
    for piece in pieces(input) {
        conversation.receive(piece);
        loop {
            match conversation.next_news() {
                Ok(Some(News::Up { .. })) => {
                    assert!(!std::mem::replace(&mut is_up, true), "up twice");
                    for _ in 0..3 {
                        asked += 1;
                        conversation.ask(Ask::Ping, asked).expect("room for a request");
                    }
                }
                Ok(Some(News::Answer { tag, .. })) => {
                    answered += 1;
                    assert!(is_up && tag <= asked && answered <= asked);
                }
                Ok(Some(News::Event { .. })) => assert!(is_up),
                Ok(None) => break,
                Err(hang_up) => {
                    let _ = hang_up.to_string();
                    return;
                }
            }
        }
        // Requests and the acknowledgement of events are all that is written.
        assert!(conversation.take_output().len() < 4096);
    }
    let left = conversation.disconnected();
    assert_eq!((left.was_up, left.unanswered.len()), (is_up, (asked - answered) as usize));
}

/// Hears what a monitor or a supervisor says to a client.
pub(super) fn control(input: &[u8]) {
    let mut conversation = ControlConversation::default();
    conversation.ask("status", Value::Null);
    for piece in pieces(input) {
        conversation.receive(piece);
        loop {
            match conversation.next_news() {
                Ok(Some(ControlNews::Answer { outcome: Ok(value), .. })) => assert!(!value.is_null()),
                Ok(Some(ControlNews::Answer { .. })) => {}
                Ok(Some(ControlNews::Told(value))) => assert!(value.get("id").is_none()),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// Reads a line of a console. Nobody writes a note who does not know a token.
pub(super) fn console(line: &[u8]) {
    assert_eq!(console::decode(line, &["another", ""]), None);
    if let Some(note) = console::decode(line, &["secret"]) {
        let written = console::encode("secret", &note);
        assert_eq!(console::decode(written.trim_matches('\n').as_bytes(), &["secret"]), Some(note.clone()));
        if let Note::Exited(exit) = note {
            assert_eq!(exit.clone().shown(), exit);
        }
    }
}

/// Asserts that a record which was read is written and read again as the same record.
fn record<T: Serialize + DeserializeOwned + PartialEq>(bytes: &[u8]) {
    if let Ok(record) = serde_json::from_slice::<T>(bytes) {
        let text = pretty(&record);
        let again: T = serde_json::from_str(&text).expect("a text of ours");
        assert!(again == record, "{text}");
    }
}

/// Reads the records that `pepita` prints and keeps.
pub(super) fn records(input: &[u8]) {
    let (kind, bytes) = choice(input);
    match kind {
        b if b == usize::from(b's') => record::<StatusRecord>(bytes),
        b if b == usize::from(b'e') => record::<ExitRecord>(bytes),
        b if b == usize::from(b'v') => record::<VersionRecord>(bytes),
        b if b == usize::from(b'c') => record::<CallError>(bytes),
        b if b == usize::from(b'x') => record::<Exit>(bytes),
        b if b == usize::from(b'i') => record::<ImageRecord>(bytes),
        b if b == usize::from(b'd') => record::<storage::DiskRecord>(bytes),
        _ => record::<LaunchSpec>(bytes),
    }
}

/// Reads the words of options and keys.
pub(super) fn words(input: &[u8]) {
    let (kind, bytes) = choice(input);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match kind % 12 {
        0 => {
            if let Ok(name) = VmId::new(text) {
                let name = name.as_str();
                assert!((1..=63).contains(&name.len()) && !name.starts_with('-'));
                assert!(!name.contains(['/', '.', '\0', '=', ' ']));
            }
        }
        1 => is_written_and_read::<Publish>(text),
        2 => is_written_and_read::<GuestPlace>(text),
        3 => is_written_and_read::<Subnet>(text),
        4 => is_written_and_read::<HttpPlace>(text),
        5 => is_written_and_read::<DialPlace>(text),
        6 => is_written_and_read::<Reached>(text),
        7 => assert!(
            text.parse::<Signal>().is_ok_and(|signal| (1..=64).contains(&signal.number()))
                || text.parse::<Signal>().is_err()
        ),
        8 => is_written_and_read::<Ulimit>(text),
        9 => is_written_and_read::<Network>(text),
        10 => {
            if let Ok(mb) = storage::size_mb(text) {
                assert_eq!(storage::size_mb(&storage::size_text(mb)), Ok(mb));
            }
            assert!(storage::name_fault(text).is_some() || !text.contains(['/', '\0', ',']));
            assert!(storage::mount_fault(text).is_some() || text.starts_with('/') && !text.contains('\0'));
        }
        _ => {
            let checks = [
                world::check_hostname,
                world::check_user,
                world::check_workdir,
                world::check_ulimit,
                world::check_secret,
            ];
            for check in checks {
                assert!(check(text).is_err() || !text.contains('\0'), "{text:?}");
            }
            if world::check_sysctl(text, "1").is_ok() {
                let path = world::sysctl_path(text);
                assert!(!path.split('/').any(|part| part == ".."), "{path}");
            }
        }
    }
}

/// Takes the streams of a command apart, from either side. What was read can be written and read again.
pub(super) fn streams(input: &[u8]) {
    let (side, bytes) = choice(input);
    let (mut chunks, mut again, mut written) = (Chunks::default(), Chunks::default(), Vec::new());
    for piece in pieces(bytes) {
        chunks.push(piece);
        if side % 2 == 0 {
            while let Ok(Some(chunk)) = chunks.next_to_command() {
                chunk.append_to(&mut written);
                // An empty content stays a chunk.
                again.push(&std::mem::take(&mut written));
                let read: Option<ToCommand<'_>> = again.next_to_command().expect("a chunk of ours");
                assert_eq!(read, Some(chunk));
            }
        } else {
            while let Ok(Some(chunk)) = chunks.next_from_command() {
                chunk.clone().append_to(&mut written);
                again.push(&std::mem::take(&mut written));
                let read: Option<FromCommand<'_>> = again.next_from_command().expect("a chunk of ours");
                assert_eq!(read, Some(chunk));
            }
        }
    }
}

/// Takes a forwarded connection apart. However its bytes come, the content is the same.
pub(super) fn chunks(input: &[u8]) {
    fn content<'a>(parts: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, usize, bool) {
        let (mut chunks, mut content, mut ends) = (chunk::Chunks::default(), Vec::new(), 0);
        for mut part in parts {
            while let Some(piece) = chunks.next(&mut part) {
                match piece {
                    chunk::Piece::Bytes(bytes) => content.extend_from_slice(bytes),
                    chunk::Piece::End => ends += 1,
                }
            }
            assert!(part.is_empty());
        }
        (content, ends, chunks.has_ended())
    }
    let (cut, whole) = (content(pieces(input)), content([choice(input).1].into_iter()));
    assert_eq!(cut, whole);
    assert!(cut.0.len() <= input.len() && cut.1 == usize::from(cut.2));
}

/// Makes a text of a guest fit to be shown.
pub(super) fn text(input: &[u8]) {
    let (cap, bytes) = choice(input);
    let text = String::from_utf8_lossy(bytes);
    let (short, once) = (shown_up_to(&text, cap), shown(&text));
    assert!(short.chars().count() <= cap && once.chars().count() <= TEXT_CAP);
    assert!(!once.chars().any(char::is_control), "{once:?}");
    assert_eq!(shown(&once), once);
    const { assert!(TEXT_CAP < LINE_CAP) }
}
