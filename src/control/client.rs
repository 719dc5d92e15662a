//! The other end: asks a supervisor over its control socket.

use super::call::Call;
use pepita_wire::{Outcome, ToGuest, ToHost, WireError};
use serde_json::Value;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// The longest line that is taken: the status of a hundred thousand VMs.
const CAP: u64 = 64 << 20;

/// A connection to a supervisor.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
    /// What was read of the line that comes.
    line: Vec<u8>,
    /// What came before an answer.
    waiting: VecDeque<Heard>,
    last: u64,
}

/// What a supervisor says.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// The answer to a call.
    Answer {
        /// The number that [`Client::send`] gave; 0 = it is about the connection itself.
        id: u64,
        /// How it ended.
        outcome: Outcome,
    },
    /// An event, as [`crate::observe::Event::to_json`] has it.
    Event(Value),
    /// So many went by unread.
    Lagged(u64),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error("no supervisor at {}: is pepitad running? ({source})", .path.display())]
    NoSupervisor {
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It may not be asked by us.
    #[error("{}: permission denied; ask as the user that the supervisor runs as", .0.display())]
    Permission(PathBuf),
    /// It refused.
    #[error("{}", .0.message)]
    Refused(WireError),
    /// It is gone before it has answered.
    #[error("the supervisor has gone before it answered")]
    Gone,
    /// It does not speak our language.
    #[error("{}: not a supervisor's control socket: {what}", .path.display())]
    NotASupervisor {
        /// Where.
        path: PathBuf,
        /// What came instead.
        what: String,
    },
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When nobody is there.
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).await.map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Permission(path.to_owned()),
            _ => ClientError::NoSupervisor { path: path.to_owned(), source },
        })?;
        Ok(Self {
            path: path.to_owned(),
            stream: BufReader::new(stream),
            line: Vec::new(),
            waiting: VecDeque::new(),
            last: 0,
        })
    }

    /// Asks, and waits for the answer. Of [`Call::Events`] that is only that events are told from here on; they come
    /// from [`Client::hear`], also those that came before this answer.
    ///
    /// # Errors
    /// When it refuses, or is gone.
    pub async fn call(&mut self, call: Call) -> Result<Value, ClientError> {
        let number = self.send(call).await?;
        loop {
            match self.read().await? {
                Some(Heard::Answer { id, outcome }) if id == number || id == 0 => {
                    return outcome.map_err(ClientError::Refused);
                }
                Some(heard) => self.waiting.push_back(heard),
                None => return Err(ClientError::Gone),
            }
        }
    }

    /// Asks without waiting; the answer comes from [`Client::hear`] and has the number that is given back.
    ///
    /// # Errors
    /// When it is gone.
    pub async fn send(&mut self, call: Call) -> Result<u64, ClientError> {
        self.last += 1;
        let (method, params) = call.into_parts();
        let request = ToGuest::request(self.last, method, params).encode();
        if self.stream.write_all(&request).await.is_err() {
            // It has hung up; perhaps it said why.
            return match self.read().await? {
                Some(Heard::Answer { id: 0, outcome: Err(error) }) => Err(ClientError::Refused(error)),
                _ => Err(ClientError::Gone),
            };
        }
        Ok(self.last)
    }

    /// What it says next; `None` when it has ended.
    ///
    /// Cancel safe: dropping the future loses nothing.
    ///
    /// # Errors
    /// When it does not speak our language.
    pub async fn hear(&mut self) -> Result<Option<Heard>, ClientError> {
        match self.waiting.pop_front() {
            Some(heard) => Ok(Some(heard)),
            None => self.read().await,
        }
    }

    /// What came before an answer and was not taken yet.
    pub fn waiting(&mut self) -> Option<Heard> {
        self.waiting.pop_front()
    }

    async fn read(&mut self) -> Result<Option<Heard>, ClientError> {
        let left = CAP.saturating_sub(self.line.len() as u64);
        // What was read stays in `line`, also when the future is dropped.
        match (&mut self.stream).take(left).read_until(b'\n', &mut self.line).await {
            Ok(_) if self.line.ends_with(b"\n") => {}
            // A torn line is no line.
            Ok(_) | Err(_) if (self.line.len() as u64) < CAP => return Ok(None),
            Ok(_) | Err(_) => return Err(self.nonsense(format!("a line of more than {CAP} bytes"))),
        }
        let line = std::mem::take(&mut self.line);
        let value: Value = serde_json::from_slice(&line).map_err(|e| self.nonsense(e.to_string()))?;
        if value.get("id").is_some() {
            return match ToHost::decode(&line) {
                Ok(ToHost::Answer { id, outcome }) => Ok(Some(Heard::Answer { id, outcome })),
                Ok(ToHost::Hello(_) | ToHost::Event { .. }) => Err(self.nonsense("no answer".into())),
                Err(e) => Err(self.nonsense(e.to_string())),
            };
        }
        let lagged = value.get("lagged").and_then(Value::as_u64);
        Ok(Some(lagged.map_or(Heard::Event(value), Heard::Lagged)))
    }

    fn nonsense(&self, what: String) -> ClientError {
        ClientError::NotASupervisor { path: self.path.clone(), what }
    }
}
