//! A client's conversation over a control socket: a monitor's `ctl.sock`, or a supervisor's.
//!
//! There is no hello: the permissions of the socket's directory decide which programs may connect. The peer is one of
//! this project's programs, so the first line that cannot be read ends the conversation: the tolerance of an
//! `AgentConversation` would only delay the client.

use crate::error::WireError;
use crate::frame::{FrameError, Outcome, ToGuest};
use crate::line::{LineError, Lines};
use crate::protocol::LINE_CAP;
use serde_json::Value;

/// A message of the peer.
#[derive(Debug, Clone, PartialEq)]
pub enum ControlNews {
    /// The answer to a request.
    Answer {
        /// The id of the request, as [`ControlConversation::ask`] returned it; 0 = the answer is about the connection.
        id: u64,
        /// The answer of the server.
        outcome: Outcome,
    },
    /// Any other JSON value, for example an event of a supervisor.
    Told(Value),
}

/// The reason why a line cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The line is too long.
    #[error(transparent)]
    Line(#[from] LineError),
    /// The line is not JSON, or is an answer without content.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// The state of a client's conversation over a control socket.
#[derive(Debug)]
pub struct ControlConversation {
    lines: Lines,
    last_id: u64,
}

impl Default for ControlConversation {
    fn default() -> Self {
        Self::with_line_cap(LINE_CAP)
    }
}

impl ControlConversation {
    /// Begins a conversation. `cap` is the maximum length of a line of the peer in bytes, including the newline.
    pub fn with_line_cap(cap: usize) -> Self {
        Self { lines: Lines::with_cap(cap), last_id: 0 }
    }

    /// Makes a request. Returns its id and the line to write.
    pub fn ask(&mut self, method: &str, params: Value) -> (u64, Vec<u8>) {
        self.last_id += 1;
        (self.last_id, ToGuest::request(self.last_id, method, params).encode())
    }

    /// Adds bytes that were read. Call [`ControlConversation::next_news`] until it returns `None`, then read again.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.lines.push(bytes);
    }

    /// Returns the next message in the received bytes; `None` when more bytes have to be read first.
    ///
    /// # Errors
    /// When the peer does not speak this protocol.
    pub fn next_news(&mut self) -> Result<Option<ControlNews>, ControlError> {
        let Some(line) = self.lines.next_line() else { return Ok(None) };
        Ok(Some(read(line?)?))
    }

    /// Returns the answer to the newest request, or a refusal of the whole connection, from the received bytes; `None`
    /// when more bytes have to be read first. For clients with one request at a time: all other messages are dropped.
    ///
    /// # Errors
    /// When the peer does not speak this protocol.
    pub fn next_answer(&mut self) -> Result<Option<Outcome>, ControlError> {
        while let Some(news) = self.next_news()? {
            match news {
                ControlNews::Answer { id, outcome } if id == self.last_id || id == 0 => {
                    return Ok(Some(outcome));
                }
                ControlNews::Answer { .. } | ControlNews::Told(_) => {}
            }
        }
        Ok(None)
    }
}

/// Reads a line. The cap on the content of a guest's message does not apply, because the peer is one of this project's
/// programs, and a supervisor's status of many VMs is long.
fn read(line: &[u8]) -> Result<ControlNews, FrameError> {
    let mut value: Value = serde_json::from_slice(line)?;
    let Some(id) = value.get("id") else { return Ok(ControlNews::Told(value)) };
    let id = id.as_u64().ok_or(FrameError::Shapeless)?;
    // A long answer is taken out of the line as it is; reading it again as a structure would copy it.
    if let Some(error) = value.get_mut("error").map(Value::take).filter(|error| !error.is_null()) {
        return Ok(ControlNews::Answer { id, outcome: Err(serde_json::from_value::<WireError>(error)?) });
    }
    match value.get_mut("ok").map(Value::take).filter(|ok| !ok.is_null()) {
        Some(ok) => Ok(ControlNews::Answer { id, outcome: Ok(ok) }),
        None => Err(FrameError::Shapeless),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::protocol::CONTENT_CAP;
    use serde_json::json;

    #[test]
    fn answers_are_told_by_their_ids_and_everything_else_as_it_came() {
        let mut conversation = ControlConversation::default();
        let (first, line) = conversation.ask("status", Value::Null);
        assert_eq!((first, line.as_slice()), (1, &b"{\"id\":1,\"method\":\"status\"}\n"[..]));
        conversation.receive(b"{\"lagged\":3}\n{\"id\":1,\"ok\":{\"a\":1}}\n{\"id\":2,");
        assert_eq!(conversation.next_news().expect("a line"), Some(ControlNews::Told(json!({"lagged": 3}))));
        let answer = ControlNews::Answer { id: 1, outcome: Ok(json!({"a": 1})) };
        assert_eq!(conversation.next_news().expect("a line"), Some(answer));
        assert_eq!(conversation.next_news().expect("half a line"), None);
    }

    #[test]
    fn a_client_that_asks_one_thing_at_a_time_hears_only_that_answer_or_a_refusal_of_the_connection() {
        let mut conversation = ControlConversation::default();
        conversation.ask("ping", Value::Null);
        conversation.ask("ping", Value::Null);
        conversation.receive(b"{\"id\":1,\"ok\":{}}\n{\"event\":1}\n");
        assert_eq!(conversation.next_answer().expect("good lines"), None);
        conversation.receive(b"{\"id\":2,\"ok\":{\"it\":2}}\n");
        assert_eq!(conversation.next_answer().expect("good lines"), Some(Ok(json!({"it": 2}))));
        conversation.receive(b"{\"id\":0,\"error\":{\"kind\":\"busy\",\"message\":\"full\"}}\n");
        let refusal = WireError::new(ErrorKind::Busy, "full");
        assert_eq!(conversation.next_answer().expect("good lines"), Some(Err(refusal)));
    }

    #[test]
    fn a_long_answer_of_a_program_of_ours_is_read_within_the_cap_of_a_line() {
        let long = "x".repeat(CONTENT_CAP * 8);
        let line = format!("{{\"id\":1,\"ok\":\"{long}\"}}\n");
        let mut conversation = ControlConversation::default();
        conversation.receive(line.as_bytes());
        assert!(conversation.next_news().is_err(), "longer than a line of a monitor");
        let mut conversation = ControlConversation::with_line_cap(1 << 20);
        conversation.receive(line.as_bytes());
        assert!(matches!(conversation.next_news(), Ok(Some(ControlNews::Answer { id: 1, .. }))));
    }

    #[test]
    fn the_first_line_that_is_none_of_ours_is_an_error() {
        for line in ["?\n", "{\"id\":1}\n", "{\"id\":\"one\"}\n"] {
            let mut conversation = ControlConversation::default();
            conversation.receive(line.as_bytes());
            assert!(conversation.next_news().is_err(), "{line}");
        }
    }
}
