//! One client's conversation, bytes in, things to do and bytes out. Knows no socket and no tree.

use super::call::Call;
use crate::observe::Received;
use pepita_wire::{ErrorKind, Lines, MAX_BAD_LINES, Outcome, Request, ToHost, WireError};
use serde_json::{Value, json};

/// Calls of one client that may be under way at once.
const PENDING: usize = 32;

/// What follows from what a client said.
#[derive(Debug, PartialEq)]
pub(super) enum Todo {
    /// Send it this.
    Say(Vec<u8>),
    /// Carry this out, and bring the outcome back.
    CarryOut {
        /// The request's number.
        id: u64,
        /// What.
        call: Call,
    },
    /// Tell it events from now on.
    Stream {
        /// Those after this one; `None` = those to come.
        after: Option<u64>,
    },
    /// It does not speak our language.
    HangUp,
}

/// The conversation.
#[derive(Debug, Default)]
pub(super) struct Session {
    lines: Lines,
    bad: u32,
    pending: usize,
    streaming: bool,
}

impl Session {
    /// Takes in what a client said.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Vec<Todo> {
        self.lines.push(bytes);
        let mut todo = Vec::new();
        loop {
            let request = match self.lines.next_line() {
                None => return todo,
                Some(Ok([] | b"\r")) => continue,
                Some(Ok(line)) => serde_json::from_slice::<Request>(line).map_err(|e| e.to_string()),
                Some(Err(e)) => Err(e.to_string()),
            };
            match request {
                Ok(request) => todo.extend(self.request(request)),
                Err(why) => {
                    todo.push(refusal(
                        0,
                        WireError::new(ErrorKind::BadRequest, format!("not a request: {why}")),
                    ));
                    self.bad += 1;
                    if self.bad >= MAX_BAD_LINES {
                        todo.push(Todo::HangUp);
                        return todo;
                    }
                }
            }
        }
    }

    fn request(&mut self, Request { id, method, params }: Request) -> Vec<Todo> {
        match Call::from_parts(&method, params) {
            Err(error) => vec![refusal(id, error)],
            Ok(Call::Events { .. }) if self.streaming => {
                vec![refusal(id, WireError::new(ErrorKind::Conflict, "events are told here already"))]
            }
            Ok(Call::Events { after }) => {
                self.streaming = true;
                vec![Todo::Say(answer(id, Ok(json!({})))), Todo::Stream { after }]
            }
            Ok(_) if self.pending >= PENDING => {
                let text = format!("{PENDING} calls are under way; wait for an answer");
                vec![refusal(id, WireError::new(ErrorKind::Busy, text))]
            }
            Ok(call) => {
                self.pending += 1;
                vec![Todo::CarryOut { id, call }]
            }
        }
    }

    /// A call was carried out.
    pub(super) fn done(&mut self, id: u64, outcome: Outcome) -> Vec<u8> {
        self.pending = self.pending.saturating_sub(1);
        answer(id, outcome)
    }
}

fn refusal(id: u64, error: WireError) -> Todo {
    Todo::Say(answer(id, Err(error)))
}

/// The line of an answer.
pub(super) fn answer(id: u64, outcome: Outcome) -> Vec<u8> {
    ToHost::Answer { id, outcome }.encode()
}

/// The line of an event, or of those that went by unread.
pub(super) fn news(received: &Received) -> Vec<u8> {
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

    fn said(todo: &[Todo]) -> Vec<String> {
        let text = |todo: &Todo| match todo {
            Todo::Say(bytes) => String::from_utf8_lossy(bytes).trim_end().to_owned(),
            other => format!("{other:?}"),
        };
        todo.iter().map(text).collect()
    }

    #[test]
    fn requests_become_calls_however_they_are_cut() {
        let text = b"{\"id\":1,\"method\":\"status\"}\r\n\n{\"id\":2,\"method\":\"pause\",\"params\":{\"vm\":\"a\"}}\n";
        for cut in 0..text.len() {
            let mut session = Session::default();
            let mut todo = session.hear(&text[..cut]);
            todo.extend(session.hear(&text[cut..]));
            let pause = Call::Pause { vm: "a".into() };
            assert_eq!(
                todo,
                [Todo::CarryOut { id: 1, call: Call::Status }, Todo::CarryOut { id: 2, call: pause }]
            );
        }
    }

    #[test]
    fn one_stream_of_events_a_client() {
        let mut session = Session::default();
        let todo = session.hear(b"{\"id\":1,\"method\":\"events\",\"params\":{\"after\":0}}\n");
        assert_eq!(said(&todo)[0], r#"{"id":1,"ok":{}}"#);
        assert_eq!(todo[1], Todo::Stream { after: Some(0) });
        let again = said(&session.hear(b"{\"id\":2,\"method\":\"events\"}\n"));
        assert!(again[0].contains("conflict"), "{again:?}");
    }

    #[test]
    fn whoever_asks_too_much_at_once_is_told_to_wait() {
        let mut session = Session::default();
        let ask = b"{\"id\":9,\"method\":\"status\"}\n";
        for _ in 0..PENDING {
            assert!(matches!(session.hear(ask)[..], [Todo::CarryOut { .. }]));
        }
        assert!(said(&session.hear(ask))[0].contains("busy"));
        session.done(9, Ok(Value::Null));
        assert!(matches!(session.hear(ask)[..], [Todo::CarryOut { .. }]));
    }

    #[test]
    fn whoever_talks_nonsense_is_told_so_and_then_hung_up_on() {
        let mut session = Session::default();
        let todo = session.hear(b"GET / HTTP/1.1\nHost: x\nAccept: */*\n\n");
        assert_eq!(todo.len(), 4, "{:?}", said(&todo));
        assert_eq!(todo[3], Todo::HangUp);
    }
}
