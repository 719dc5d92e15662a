//! A client of a supervisor's control socket.

use super::call::Call;
use pepita_wire::conversation::{ControlConversation, ControlNews};
use pepita_wire::{Outcome, WireError};
use serde_json::Value;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// The longest line that is read, in bytes. A supervisor's answer has no bound; this one only keeps a peer that is none
/// from filling the memory. The full status of a hundred thousand VMs that have all failed is shorter.
const LINE_CAP: usize = 2 << 30;

/// The delay after a connection was refused because too many wait to be accepted: no event tells when there is room.
const RETRY: Duration = Duration::from_millis(50);

/// A connection to a supervisor.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: UnixStream,
    conversation: ControlConversation,
    buffer: Vec<u8>,
    /// Messages that were read before the answer that a call waited for.
    waiting: VecDeque<Received>,
    patience: Option<Patience>,
}

/// The limit of a supervisor's silence.
///
/// A call may take long, and there may be no event for hours. So the client asks a supervisor that is silent for half of
/// the limit whether it is there, with `version`, which is answered at once whatever else is under way.
#[derive(Debug)]
struct Patience {
    limit: Duration,
    /// The moment of the last sign of life, or of the question after a rest.
    heard: Instant,
    /// The number of the question that waits for its answer.
    asked: Option<u64>,
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
    /// The supervisor is connected, and silent.
    #[error("{}", silence(path, *pid, *limit))]
    Silent {
        /// The path of the socket.
        path: PathBuf,
        /// The process id of the supervisor, if it can be known.
        pid: Option<i32>,
        /// The time for which the client has waited.
        limit: Duration,
    },
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

/// Returns the sentence about a supervisor that does not answer.
fn silence(path: &Path, pid: Option<i32>, limit: Duration) -> String {
    let pid = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
    let (path, limit) = (path.display(), humantime::format_duration(limit));
    format!("the supervisor{pid} at {path} has not answered for {limit}: it is stopped, or it hangs")
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
            patience: None,
        })
    }

    /// Connects as [`Client::connect`] does. From then on a supervisor that gives no sign of life for `limit` is an error
    /// ([`ClientError::Silent`]): it is stopped, or it hangs. A call that takes longer is no such error.
    ///
    /// # Errors
    /// Returns the errors of [`Client::connect`], and an error when the supervisor accepts no client within `limit`.
    pub async fn connect_with_patience(path: &Path, limit: Duration) -> Result<Self, ClientError> {
        let begun = Instant::now();
        let mut client = loop {
            match Self::connect(path).await {
                Err(ClientError::NoSupervisor { source, .. })
                    if source.kind() == io::ErrorKind::WouldBlock =>
                {
                    // Too many clients wait to be accepted.
                    if begun.elapsed() >= limit {
                        return Err(ClientError::Silent { path: path.to_owned(), pid: None, limit });
                    }
                    sleep(RETRY).await;
                }
                connected => break connected?,
            }
        };
        client.patience = Some(Patience { limit, heard: Instant::now(), asked: None });
        Ok(client)
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
        if let Some(patience) = &mut self.patience {
            patience.heard = Instant::now();
        }
        let (method, params) = call.into_parts();
        let (id, line) = self.conversation.ask(method, params);
        if self.write(&line).await?.is_err() {
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

    /// Writes a line. The inner error says that the connection is closed.
    async fn write(&mut self, line: &[u8]) -> Result<io::Result<()>, ClientError> {
        let Some(limit) = self.patience.as_ref().map(|patience| patience.limit) else {
            return Ok(self.stream.write_all(line).await);
        };
        // A supervisor that does not read lets the socket fill up.
        match timeout(limit, self.stream.write_all(line)).await {
            Ok(written) => Ok(written),
            Err(_) => Err(self.silent(limit)),
        }
    }

    fn silent(&self, limit: Duration) -> ClientError {
        let pid = self.stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid > 0);
        ClientError::Silent { path: self.path.clone(), pid, limit }
    }

    async fn read(&mut self) -> Result<Option<Received>, ClientError> {
        loop {
            let news = self.conversation.next_news();
            let not_ours = |what: String| ClientError::NotASupervisor { path: self.path.clone(), what };
            match news.map_err(|e| not_ours(e.to_string()))? {
                Some(ControlNews::Answer { id, .. }) if self.is_sign_of_life(id) => continue,
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
            match self.read_bytes().await? {
                Ok(read) if read > 0 => self.conversation.receive(&self.buffer[..read]),
                Ok(_) | Err(_) => return Ok(None),
            }
        }
    }

    fn is_sign_of_life(&mut self, id: u64) -> bool {
        let asked = self.patience.as_mut().map(|patience| &mut patience.asked);
        asked.is_some_and(|asked| asked.take_if(|asked| *asked == id).is_some())
    }

    /// Reads what the supervisor has sent. Asks for a sign of life when it has been silent for long. Cancel safe.
    async fn read_bytes(&mut self) -> Result<io::Result<usize>, ClientError> {
        loop {
            let Some(patience) = &self.patience else { return Ok(self.stream.read(&mut self.buffer).await) };
            let Patience { limit, heard, asked } = *patience;
            if let Ok(read) = timeout_at(heard + limit / 2, self.stream.read(&mut self.buffer)).await {
                if let Some(patience) = &mut self.patience {
                    patience.heard = Instant::now();
                }
                return Ok(read);
            }
            if asked.is_some() {
                return Err(self.silent(limit));
            }
            let (method, params) = Call::Version.into_parts();
            let (id, line) = self.conversation.ask(method, params);
            if self.write(&line).await?.is_err() {
                return Ok(Ok(0));
            }
            if let Some(patience) = &mut self.patience {
                // The rest of the limit begins here: this program may have been stopped itself.
                (patience.asked, patience.heard) = (Some(id), Instant::now());
            }
        }
    }
}
