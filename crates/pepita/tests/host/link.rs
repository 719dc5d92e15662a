//! A conversation with a guest agent over the hybrid socket, as a supervisor has it. Blocks.

use super::PATIENCE;
use pepita_wire::frame::Outcome;
use pepita_wire::{GuestEvent, Hello, Lines, PROTOCOL_VERSION, ToGuest, ToHost};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A blocking conversation with a guest agent.
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
        stream.write_all(b"CONNECT 5000\n").expect("the back-end reads");
        let mut byte = [0];
        while byte[0] != b'\n' {
            stream.read_exact(&mut byte).expect("the agent listens");
        }
        Self::greet(dir, incarnation, stream)
    }

    /// Asks the monitor for a connection, as a supervisor does.
    pub(super) fn dialled(dir: &Path, incarnation: u64) -> Self {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
        let mut monitor = UnixStream::connect(dir.join("ctl.sock")).expect("the monitor listens");
        monitor.write_all(b"{\"id\":1,\"method\":\"dial\"}\n").expect("the monitor reads");
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let (mut control, mut buffer) = (RecvAncillaryBuffer::new(&mut space), [0; 1024]);
        let mut buffers = [std::io::IoSliceMut::new(&mut buffer)];
        let read =
            recvmsg(&monitor, &mut buffers, &mut control, RecvFlags::empty()).expect("an answer").bytes;
        let handed = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let answer = String::from_utf8_lossy(&buffer[..read]).into_owned();
        let stream = UnixStream::from(handed.unwrap_or_else(|| panic!("a connection: {answer}")));
        stream.set_nonblocking(false).expect("it blocks");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        Self::greet(dir, incarnation, stream)
    }

    fn greet(dir: &Path, incarnation: u64, mut stream: UnixStream) -> Self {
        let token = std::fs::read_to_string(dir.join("token")).expect("a token");
        let version = "test".to_owned();
        let hello = Hello {
            protocol_version: PROTOCOL_VERSION,
            version,
            incarnation,
            token: Some(token),
            ..Hello::default()
        };
        stream.write_all(&ToGuest::Hello(hello).encode()).expect("the agent reads");
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

    /// Makes a request that has to succeed. Events that come meanwhile are kept for [`Link::until`].
    pub(crate) fn ask(&mut self, method: &str, params: Value) -> Value {
        self.outcome(method, params).unwrap_or_else(|e| panic!("{method}: {e}"))
    }

    /// Makes a request that may be refused.
    pub(crate) fn outcome(&mut self, method: &str, params: Value) -> Outcome {
        self.id += 1;
        self.stream.write_all(&ToGuest::request(self.id, method, params).encode()).expect("the agent reads");
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

    /// Returns the raw bytes after an answer, to the end of the stream.
    pub(crate) fn rest(mut self) -> Vec<u8> {
        let mut bytes = self.lines.into_rest();
        self.stream.read_to_end(&mut bytes).expect("the agent hangs up");
        bytes
    }

    /// Watches until an event is as wanted.
    pub(crate) fn until(&mut self, so: impl Fn(&GuestEvent) -> bool) -> GuestEvent {
        loop {
            if let Some(at) = self.events.iter().position(&so) {
                return self.events.drain(..=at).next_back().expect("an event");
            }
            if let ToHost::Event { event, .. } = self.next() {
                self.events.push(event);
            }
        }
    }

    /// Returns whether such an event has come before the last answer, and [`Link::until`] has not returned it.
    pub(crate) fn has_heard(&self, such: impl Fn(&GuestEvent) -> bool) -> bool {
        self.events.iter().any(such)
    }

    /// Asks for all events, past and future.
    pub(crate) fn watch(&mut self) {
        self.ask("watch", json!({ "since": 0 }));
    }
}
