//! The conversation with a guest agent, without the wire: bytes in, news and bytes out.
//! Knows no sockets and no clock. Trusts nothing of what the guest says: lines are cut at the cap, what is pending is
//! bounded, bad lines are counted.

use crate::reply::Reply;
use pepita_wire::frame::{FrameError, Outcome};
use pepita_wire::{
    Ask, ErrorKind, GENERATION, GuestEvent, Hello, LineError, Lines, MAX_BAD_LINES, ToGuest, ToHost,
    WireError,
};
use std::collections::HashMap;

/// Requests that may wait for their answer at once.
const PENDING_CAP: usize = 64;

/// Why a conversation is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The guest refused us, or is another one than we meant.
    #[error("refused: {0}")]
    Refused(String),
    /// It talks nonsense.
    #[error("{MAX_BAD_LINES} bad lines, the last: {0}")]
    Nonsense(String),
}

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// The hellos are exchanged.
    Up,
    /// News; numbers already seen are not told again.
    Event(GuestEvent),
}

/// One conversation, from connect to hang-up.
#[derive(Debug)]
pub struct Session {
    incarnation: u64,
    greeted: bool,
    lines: Lines,
    bad_lines: u32,
    next_id: u64,
    pending: HashMap<u64, Reply<Outcome>>,
    /// The newest probe.
    probe: u64,
    /// The newest event of this boot that was told; survives a redial.
    seen: u64,
    output: Vec<u8>,
}

impl Session {
    /// A conversation just begun: our hello is in [`Session::take_output`]. `seen` is the last event that an earlier
    /// conversation with the same boot has told.
    pub fn new(token: String, incarnation: u64, seen: u64) -> Self {
        let hello = Hello {
            generation: GENERATION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            incarnation,
            token: Some(token),
            ..Hello::default()
        };
        Self {
            incarnation,
            greeted: false,
            lines: Lines::new(),
            bad_lines: 0,
            next_id: 0,
            pending: HashMap::new(),
            probe: 0,
            seen,
            output: ToGuest::Hello(hello).encode(),
        }
    }

    /// What is to be written now.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// The newest event that was told.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Asks the guest. The reply comes when the guest answers, or is dropped with the conversation.
    pub fn ask(&mut self, ask: Ask, reply: Reply<Outcome>) {
        if !self.greeted || self.pending.len() >= PENDING_CAP {
            let why =
                if self.greeted { "too many requests wait for the guest" } else { "the link is not up" };
            return reply.send(Err(WireError::new(ErrorKind::Busy, why)));
        }
        self.next_id += 1;
        let (method, params) = ask.into_parts();
        self.output.extend(ToGuest::request(self.next_id, method, params).encode());
        self.pending.insert(self.next_id, reply);
    }

    /// Asks it whether it is well. Of such questions only the newest waits: a guest that was silent for long has to
    /// answer one, not all of them, to be well again.
    pub fn probe(&mut self, ask: Ask, reply: Reply<Outcome>) {
        self.pending.remove(&self.probe);
        self.ask(ask, reply);
        self.probe = self.next_id;
    }

    /// Takes in what was read.
    ///
    /// # Errors
    /// When the conversation has to end.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Vec<Heard>, SessionError> {
        self.lines.push(bytes);
        let mut frames = Vec::new();
        while let Some(line) = self.lines.next_line() {
            frames.push(line.map(ToHost::decode));
        }
        let mut heard = Vec::new();
        for frame in frames {
            match frame {
                Ok(Ok(frame)) => self.take_in(frame, &mut heard)?,
                Ok(Err(e)) => self.count_bad_line(&BadLine::Frame(e))?,
                Err(e) => self.count_bad_line(&BadLine::Line(e))?,
            }
        }
        Ok(heard)
    }

    fn count_bad_line(&mut self, bad: &BadLine) -> Result<(), SessionError> {
        self.bad_lines += 1;
        if self.bad_lines < MAX_BAD_LINES { Ok(()) } else { Err(SessionError::Nonsense(bad.to_string())) }
    }

    fn take_in(&mut self, frame: ToHost, heard: &mut Vec<Heard>) -> Result<(), SessionError> {
        match frame {
            ToHost::Hello(hello) if !self.greeted => {
                if hello.incarnation != self.incarnation {
                    let (theirs, ours) = (hello.incarnation, self.incarnation);
                    return Err(SessionError::Refused(format!("it is incarnation {theirs}, we mean {ours}")));
                }
                self.greeted = true;
                heard.push(Heard::Up);
                let since = self.seen;
                self.ask(Ask::Watch { since }, Reply::ignored());
            }
            // A second hello changes nothing.
            ToHost::Hello(_) => {}
            ToHost::Answer { outcome: Err(e), .. } if !self.greeted => {
                return Err(SessionError::Refused(e.to_string()));
            }
            ToHost::Answer { id, outcome } => {
                // An answer to nothing is dropped.
                if let Some(reply) = self.pending.remove(&id) {
                    reply.send(outcome);
                }
            }
            // Nobody tells before it has said who it is.
            ToHost::Event { .. } if !self.greeted => {}
            ToHost::Event { seq, event } => {
                if matches!(event, GuestEvent::Exited(_)) {
                    // Each time: the guest repeats it until this is heard.
                    self.ask(Ask::Ack { seq }, Reply::ignored());
                }
                if seq > self.seen {
                    self.seen = seq;
                    heard.push(Heard::Event(event));
                }
            }
        }
        Ok(())
    }
}

enum BadLine {
    Frame(FrameError),
    Line(LineError),
}

impl std::fmt::Display for BadLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Frame(e) => e.fmt(f),
            Self::Line(e) => e.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pepita_wire::Exit;
    use proptest::prelude::*;

    fn hello(incarnation: u64) -> Vec<u8> {
        ToHost::Hello(Hello { generation: 1, incarnation, ..Hello::default() }).encode()
    }

    fn greeted() -> Session {
        let mut session = Session::new("t".into(), 7, 0);
        session.take_output();
        assert_eq!(session.read(&hello(7)), Ok(vec![Heard::Up]));
        session
    }

    #[test]
    fn after_the_hellos_it_watches() {
        let output = greeted().take_output();
        assert_eq!(
            String::from_utf8_lossy(&output),
            "{\"id\":1,\"method\":\"watch\",\"params\":{\"since\":0}}\n"
        );
    }

    #[test]
    fn another_incarnation_is_not_ours() {
        let mut session = Session::new("t".into(), 7, 0);
        assert!(matches!(session.read(&hello(6)), Err(SessionError::Refused(_))));
    }

    #[test]
    fn an_exit_is_told_once_and_acknowledged_each_time() {
        let mut session = greeted();
        session.take_output();
        let line = ToHost::Event { seq: 5, event: GuestEvent::Exited(Exit::code(3)) }.encode();
        assert_eq!(session.read(&line).map(|h| h.len()), Ok(1));
        assert_eq!(session.read(&line).map(|h| h.len()), Ok(0));
        let acks = String::from_utf8_lossy(&session.take_output()).matches("\"ack\"").count();
        assert_eq!(acks, 2);
    }

    #[test]
    fn nobody_is_asked_without_bound() {
        let mut session = greeted();
        let (mut refused, mut receivers) = (0, Vec::new());
        for _ in 0..PENDING_CAP + 10 {
            let (reply, receiver) = Reply::channel();
            session.ask(Ask::Ping, reply);
            receivers.push(receiver);
        }
        for mut receiver in receivers {
            refused += usize::from(matches!(receiver.try_recv(), Ok(Some(Err(_)))));
        }
        assert!(refused >= 10);
    }

    #[test]
    fn of_probes_only_the_newest_waits() {
        let mut session = greeted();
        let mut receivers = Vec::new();
        for _ in 0..PENDING_CAP * 2 {
            let (reply, receiver) = Reply::channel();
            session.probe(Ask::Ping, reply);
            receivers.push(receiver);
        }
        let mut last = receivers.pop().expect("the newest");
        assert!(receivers.into_iter().all(|mut former| former.try_recv() == Ok(None)), "given up");
        let id = session.next_id;
        session.read(&ToHost::Answer { id, outcome: Ok(serde_json::json!({})) }.encode()).expect("fine");
        assert!(matches!(last.try_recv(), Ok(Some(Ok(_)))));
    }

    proptest! {
        #[test]
        fn whatever_a_guest_writes_nothing_breaks(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..400), 0..20)) {
            let mut session = greeted();
            for chunk in chunks {
                if session.read(&chunk).is_err() {
                    break;
                }
                prop_assert!(session.lines.pending() <= pepita_wire::LINE_CAP + 400);
            }
        }
    }
}
