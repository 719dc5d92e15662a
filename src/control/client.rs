//! The other end: asks a supervisor over its control socket.

use super::call::Call;
use pepita_wire::{ToGuest, ToHost, WireError};
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
    /// Events that came before an answer.
    waiting: VecDeque<Heard>,
    last: u64,
}

/// What a stream of events brings.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
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

enum Line {
    Answer { id: u64, outcome: pepita_wire::Outcome },
    Heard(Heard),
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
    /// from [`Client::next`].
    ///
    /// # Errors
    /// When it refuses, or is gone.
    pub async fn call(&mut self, call: Call) -> Result<Value, ClientError> {
        self.last += 1;
        let (method, params) = call.into_parts();
        let request = ToGuest::request(self.last, method, params).encode();
        // If it has hung up it may have said why.
        let sent = self.stream.write_all(&request).await;
        loop {
            match self.read().await? {
                // A refusal of number 0 is about the connection itself.
                Some(Line::Answer { id, outcome }) if id == self.last || id == 0 => {
                    return outcome.map_err(ClientError::Refused);
                }
                Some(Line::Answer { .. }) => {}
                Some(Line::Heard(heard)) => self.waiting.push_back(heard),
                None => return Err(ClientError::Gone),
            }
            if sent.is_err() {
                return Err(ClientError::Gone);
            }
        }
    }

    /// The next event; `None` when the supervisor has ended.
    ///
    /// Cancel safe: dropping the future loses nothing.
    ///
    /// # Errors
    /// When it does not speak our language.
    pub async fn next(&mut self) -> Result<Option<Heard>, ClientError> {
        if let Some(heard) = self.waiting.pop_front() {
            return Ok(Some(heard));
        }
        loop {
            match self.read().await? {
                Some(Line::Heard(heard)) => return Ok(Some(heard)),
                // To a question whose asker has given up.
                Some(Line::Answer { .. }) => {}
                None => return Ok(None),
            }
        }
    }

    async fn read(&mut self) -> Result<Option<Line>, ClientError> {
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
                Ok(ToHost::Answer { id, outcome }) => Ok(Some(Line::Answer { id, outcome })),
                Ok(ToHost::Hello(_) | ToHost::Event { .. }) => Err(self.nonsense("no answer".into())),
                Err(e) => Err(self.nonsense(e.to_string())),
            };
        }
        let lagged = value.get("lagged").and_then(Value::as_u64);
        Ok(Some(Line::Heard(lagged.map_or(Heard::Event(value), Heard::Lagged))))
    }

    fn nonsense(&self, what: String) -> ClientError {
        ClientError::NotASupervisor { path: self.path.clone(), what }
    }
}
