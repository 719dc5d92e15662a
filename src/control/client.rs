//! A client of a supervisor's control socket.

use super::call::Call;
use pepita_wire::conversation::{ControlConversation, ControlNews};
use pepita_wire::{Outcome, WireError};
use serde_json::Value;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// The longest line that is read, in bytes: the status of a hundred thousand VMs.
const LINE_CAP: usize = 64 << 20;

/// A connection to a supervisor.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: UnixStream,
    conversation: ControlConversation,
    buffer: Vec<u8>,
    /// Messages that were read before the answer that a call waited for.
    waiting: VecDeque<Received>,
}

/// A message of the supervisor.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    /// The answer to a call.
    Answer {
        /// The number that [`Client::send`] returned; 0 = the answer concerns the connection itself.
        id: u64,
        /// The answer of the server.
        outcome: Outcome,
    },
    /// An event, in the form of [`crate::observe::Event::to_json`].
    Event(Value),
    /// The number of events that were dropped because the client did not read them.
    Lagged(u64),
}

/// The reason why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No supervisor listens at the socket.
    #[error("no supervisor at {}: is pepitad running? ({source})", .path.display())]
    NoSupervisor {
        /// The path of the socket.
        path: PathBuf,
        /// The reason that the system gives.
        source: io::Error,
    },
    /// The user of this process may not call the supervisor.
    #[error("{}: permission denied; ask as the user that the supervisor runs as", .0.display())]
    Permission(PathBuf),
    /// The supervisor refused the call.
    #[error("{}", .0.message)]
    Refused(WireError),
    /// The supervisor closed the connection before it answered.
    #[error("the supervisor ended before it answered")]
    Gone,
    /// The peer does not speak the protocol of a control socket.
    #[error("{}: not a supervisor's control socket: {what}", .path.display())]
    NotASupervisor {
        /// The path of the socket.
        path: PathBuf,
        /// The text that was read instead.
        what: String,
    },
}

impl Client {
    /// Connects to the supervisor behind a control socket.
    ///
    /// # Errors
    /// Returns an error when no supervisor listens at the socket, or the user may not call it.
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).await.map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Permission(path.to_owned()),
            _ => ClientError::NoSupervisor { path: path.to_owned(), source },
        })?;
        Ok(Self {
            path: path.to_owned(),
            stream,
            conversation: ControlConversation::with_line_cap(LINE_CAP),
            buffer: vec![0; 64 << 10],
            waiting: VecDeque::new(),
        })
    }

    /// Calls the supervisor and waits for the answer. The answer to [`Call::Events`] says only that events are told
    /// from here on; [`Client::receive`] returns the events, also those that were read before this answer.
    ///
    /// # Errors
    /// Returns an error when the supervisor refuses the call, or is gone.
    pub async fn call(&mut self, call: Call) -> Result<Value, ClientError> {
        let number = self.send(call).await?;
        loop {
            match self.read().await? {
                Some(Received::Answer { id, outcome }) if id == number || id == 0 => {
                    return outcome.map_err(ClientError::Refused);
                }
                Some(heard) => self.waiting.push_back(heard),
                None => return Err(ClientError::Gone),
            }
        }
    }

    /// Sends a call without waiting. Returns the number by which [`Client::receive`] marks the answer.
    ///
    /// # Errors
    /// Returns an error when the supervisor is gone.
    pub async fn send(&mut self, call: Call) -> Result<u64, ClientError> {
        let (method, params) = call.into_parts();
        let (id, line) = self.conversation.ask(method, params);
        if self.stream.write_all(&line).await.is_err() {
            // The supervisor has closed the connection; it may have sent the reason before.
            return match self.read().await? {
                Some(Received::Answer { id: 0, outcome: Err(error) }) => Err(ClientError::Refused(error)),
                Some(Received::Answer { .. } | Received::Event(_) | Received::Lagged(_)) | None => {
                    Err(ClientError::Gone)
                }
            };
        }
        Ok(id)
    }

    /// Returns the next message of the supervisor; `None` when it has closed the connection. Cancel safe: dropping the
    /// future loses no message.
    ///
    /// # Errors
    /// Returns an error when the peer does not speak the protocol.
    pub async fn receive(&mut self) -> Result<Option<Received>, ClientError> {
        match self.waiting.pop_front() {
            Some(heard) => Ok(Some(heard)),
            None => self.read().await,
        }
    }

    /// Takes a message that was read before an answer and was not returned yet.
    pub fn waiting(&mut self) -> Option<Received> {
        self.waiting.pop_front()
    }

    async fn read(&mut self) -> Result<Option<Received>, ClientError> {
        loop {
            let news = self.conversation.next_news();
            let not_ours = |what: String| ClientError::NotASupervisor { path: self.path.clone(), what };
            match news.map_err(|e| not_ours(e.to_string()))? {
                Some(ControlNews::Answer { id, outcome }) => {
                    return Ok(Some(Received::Answer { id, outcome }));
                }
                Some(ControlNews::Told(value)) => {
                    let lagged = value.get("lagged").and_then(Value::as_u64);
                    return Ok(Some(lagged.map_or(Received::Event(value), Received::Lagged)));
                }
                None => {}
            }
            // Bytes that were read are in the conversation before the next await. An error counts as the end, like half
            // a line.
            match self.stream.read(&mut self.buffer).await {
                Ok(read) if read > 0 => self.conversation.receive(&self.buffer[..read]),
                Ok(_) | Err(_) => return Ok(None),
            }
        }
    }
}
