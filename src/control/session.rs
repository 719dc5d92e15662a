//! The conversation with one client: bytes come in, actions and bytes go out. Knows no socket and no tree.

use super::call::{Call, StatusPart};
use crate::observe::Received;
use pepita_wire::{ErrorKind, Lines, MAX_BAD_LINES, Outcome, Request, ToHost, WireError};
use serde_json::{Value, json};

/// The number of calls of one client that may be under way at once.
const PENDING: usize = 32;

/// An action for a client.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    /// Send these bytes.
    Send(Vec<u8>),
    /// Carry out a call, and bring the outcome to [`Session::done`].
    CarryOut {
        /// The request's number.
        id: u64,
        /// The call of the client.
        call: Call,
    },
    /// Send the status, or a part of it.
    Status {
        /// The request's number.
        id: u64,
        /// The part of the status.
        part: StatusPart,
    },
    /// Send the events that are told from now on.
    Stream {
        /// The number of the event after which to begin; `None` = only events to come.
        after: Option<u64>,
    },
    /// Close the connection: the client does not speak the protocol.
    HangUp,
}

/// The conversation with one client.
#[derive(Debug, Default)]
pub(crate) struct Session {
    lines: Lines,
    bad: u32,
    pending: usize,
    streaming: bool,
}

impl Session {
    /// Takes in bytes of the client, and returns the actions.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Vec<Action> {
        self.lines.push(bytes);
        let mut actions = Vec::new();
        loop {
            let request = match self.lines.next_line() {
                None => return actions,
                Some(Ok([] | b"\r")) => continue,
                Some(Ok(line)) => serde_json::from_slice::<Request>(line).map_err(|e| e.to_string()),
                Some(Err(e)) => Err(e.to_string()),
            };
            match request {
                Ok(request) => actions.extend(self.request(request)),
                Err(why) => {
                    actions.push(refusal(
                        0,
                        WireError::new(ErrorKind::BadRequest, format!("not a request: {why}")),
                    ));
                    self.bad += 1;
                    if self.bad >= MAX_BAD_LINES {
                        actions.push(Action::HangUp);
                        return actions;
                    }
                }
            }
        }
    }

    fn request(&mut self, Request { id, method, params }: Request) -> Vec<Action> {
        match Call::from_parts(&method, params) {
            Err(error) => vec![refusal(id, error)],
            Ok(Call::Events { .. }) if self.streaming => {
                vec![refusal(id, WireError::new(ErrorKind::Conflict, "events are sent here already"))]
            }
            Ok(Call::Events { after }) => {
                self.streaming = true;
                vec![Action::Send(answer(id, Ok(json!({})))), Action::Stream { after }]
            }
            Ok(Call::Status) => vec![Action::Status { id, part: StatusPart::default() }],
            Ok(Call::StatusOf(part)) => vec![Action::Status { id, part }],
            Ok(_) if self.pending >= PENDING => {
                let text = format!("{PENDING} calls are under way; wait for an answer");
                vec![refusal(id, WireError::new(ErrorKind::Busy, text))]
            }
            Ok(call) => {
                self.pending += 1;
                vec![Action::CarryOut { id, call }]
            }
        }
    }

    /// Records that a call was carried out, and returns the bytes of the answer.
    pub(super) fn done(&mut self, id: u64, outcome: Outcome) -> Vec<u8> {
        self.pending = self.pending.saturating_sub(1);
        answer(id, outcome)
    }
}

fn refusal(id: u64, error: WireError) -> Action {
    Action::Send(answer(id, Err(error)))
}

/// Returns the line of an answer.
pub(super) fn answer(id: u64, outcome: Outcome) -> Vec<u8> {
    ToHost::Answer { id, outcome }.encode()
}

/// Returns the line of an event, or of the number of events that were missed.
pub(super) fn event_line(received: &Received) -> Vec<u8> {
    let value: Value = match received {
        Received::Event(event) => event.to_json(),
        Received::Lagged(missed) => json!({ "lagged": missed }),
    };
    let mut line = value.to_string().into_bytes();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(actions: &[Action]) -> Vec<String> {
        let text = |actions: &Action| match actions {
            Action::Send(bytes) => String::from_utf8_lossy(bytes).trim_end().to_owned(),
            other => format!("{other:?}"),
        };
        actions.iter().map(text).collect()
    }

    #[test]
    fn requests_become_calls_however_they_are_cut() {
        let text = b"{\"id\":1,\"method\":\"status\"}\r\n\n{\"id\":2,\"method\":\"pause\",\"params\":{\"vm\":\"a\"}}\n";
        for cut in 0..text.len() {
            let mut session = Session::default();
            let mut actions = session.receive(&text[..cut]);
            actions.extend(session.receive(&text[cut..]));
            let pause = Call::Pause { vm: "a".into() };
            assert_eq!(
                actions,
                [
                    Action::Status { id: 1, part: StatusPart::default() },
                    Action::CarryOut { id: 2, call: pause }
                ]
            );
        }
    }

    #[test]
    fn one_stream_of_events_a_client() {
        let mut session = Session::default();
        let actions = session.receive(b"{\"id\":1,\"method\":\"events\",\"params\":{\"after\":0}}\n");
        assert_eq!(said(&actions)[0], r#"{"id":1,"ok":{}}"#);
        assert_eq!(actions[1], Action::Stream { after: Some(0) });
        let again = said(&session.receive(b"{\"id\":2,\"method\":\"events\"}\n"));
        assert!(again[0].contains("conflict"), "{again:?}");
    }

    #[test]
    fn whoever_asks_too_much_at_once_is_told_to_wait() {
        let mut session = Session::default();
        let ask = b"{\"id\":9,\"method\":\"version\"}\n";
        for _ in 0..PENDING {
            assert!(matches!(session.receive(ask)[..], [Action::CarryOut { .. }]));
        }
        assert!(said(&session.receive(ask))[0].contains("busy"));
        session.done(9, Ok(Value::Null));
        assert!(matches!(session.receive(ask)[..], [Action::CarryOut { .. }]));
    }

    #[test]
    fn whoever_talks_nonsense_is_told_so_and_then_hung_up_on() {
        let mut session = Session::default();
        let actions = session.receive(b"GET / HTTP/1.1\nHost: x\nAccept: */*\n\n");
        assert_eq!(actions.len(), 4, "{:?}", said(&actions));
        assert_eq!(actions[3], Action::HangUp);
    }
}
