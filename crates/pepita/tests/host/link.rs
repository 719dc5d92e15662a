//! A conversation with a guest agent over the hybrid socket, as a supervisor has it. Blocks.

use super::PATIENCE;
use pepita_wire::frame::Outcome;
use pepita_wire::{GuestEvent, Hello, Lines, PROTOCOL_VERSION, ToGuest, ToHost};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// The conversation.
pub(crate) struct Link {
    stream: UnixStream,
    lines: Lines,
    id: u64,
    events: Vec<GuestEvent>,
}

impl Link {
    pub(super) fn open(dir: &Path, incarnation: u64) -> Self {
        let mut stream = UnixStream::connect(dir.join("v.sock")).expect("the back-end listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        stream.write_all(b"CONNECT 5000\n").expect("it reads");
        let mut byte = [0];
        while byte[0] != b'\n' {
            stream.read_exact(&mut byte).expect("the agent listens");
        }
        let token = std::fs::read_to_string(dir.join("token")).expect("a token");
        let version = "test".to_owned();
        let hello = Hello {
            protocol_version: PROTOCOL_VERSION,
            version,
            incarnation,
            token: Some(token),
            ..Hello::default()
        };
        stream.write_all(&ToGuest::Hello(hello).encode()).expect("it reads");
        let mut link = Self { stream, lines: Lines::new(), id: 0, events: Vec::new() };
        assert!(matches!(link.next(), ToHost::Hello(_)), "the agent says hello");
        link
    }

    fn next(&mut self) -> ToHost {
        let mut buffer = [0; 8192];
        loop {
            if let Some(line) = self.lines.next_line() {
                return ToHost::decode(line.expect("a short line")).expect("a frame");
            }
            let n = self.stream.read(&mut buffer).expect("the agent speaks in time");
            assert!(n > 0, "the agent hung up");
            self.lines.push(&buffer[..n]);
        }
    }

    /// Asks for something that has to be granted. Events that come meanwhile are kept for [`Link::until`].
    pub(crate) fn ask(&mut self, method: &str, params: Value) -> Value {
        self.outcome(method, params).unwrap_or_else(|e| panic!("{method}: {e}"))
    }

    /// Asks for something that may be refused.
    pub(crate) fn outcome(&mut self, method: &str, params: Value) -> Outcome {
        self.id += 1;
        self.stream.write_all(&ToGuest::request(self.id, method, params).encode()).expect("it reads");
        loop {
            match self.next() {
                ToHost::Answer { id, outcome } if id == self.id => {
                    return outcome;
                }
                ToHost::Event { event, .. } => self.events.push(event),
                _ => {}
            }
        }
    }

    /// Returns what comes raw after an answer, to its end.
    pub(crate) fn rest(mut self) -> Vec<u8> {
        let mut bytes = self.lines.into_rest();
        self.stream.read_to_end(&mut bytes).expect("the agent hangs up");
        bytes
    }

    /// Watches until an event is as wanted.
    pub(crate) fn until(&mut self, so: impl Fn(&GuestEvent) -> bool) -> GuestEvent {
        loop {
            if let Some(at) = self.events.iter().position(&so) {
                return self.events.drain(..=at).next_back().expect("it is there");
            }
            if let ToHost::Event { event, .. } = self.next() {
                self.events.push(event);
            }
        }
    }

    /// Asks to be told all events, past and to come.
    pub(crate) fn watch(&mut self) {
        self.ask("watch", json!({ "since": 0 }));
    }
}
