//! The conversation with a VM's monitor: its state as it changes (a long poll), and a few requests.

use super::dial;
use pepita_wire::frame::Outcome;
use pepita_wire::{ErrorKind, Lines, StatusRecord, ToGuest, ToHost, WireError};
use serde_json::{Value, json};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// What a monitor tells.
#[derive(Debug)]
pub enum MonitorReport {
    /// The VM's record, each time it changes; a terminal one is the last.
    Status(Box<StatusRecord>),
    /// The monitor is gone without having said that the VM has ended.
    Lost(String),
}

/// A watch under way. Ends with this value.
#[derive(Debug)]
pub struct Watch(JoinHandle<()>);

impl Watch {
    /// A watch that is kept in a task of its own.
    pub fn spawn(keep: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(keep))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Watches a VM through its monitor's socket, until it has ended or the monitor has.
pub fn watch(socket: PathBuf, tell: impl Fn(MonitorReport) + Send + Sync + 'static) -> Watch {
    Watch::spawn(async move {
        if let Err(e) = follow(&socket, &tell).await {
            tell(MonitorReport::Lost(e.to_string()));
        }
    })
}

async fn follow(socket: &Path, tell: &(impl Fn(MonitorReport) + Send + Sync)) -> io::Result<()> {
    let mut line = Line::open(socket).await?;
    let mut since = 0;
    loop {
        let outcome = line.ask("watch", json!({ "since": since })).await?;
        let value = outcome.map_err(io::Error::other)?;
        let record: StatusRecord = serde_json::from_value(value).map_err(io::Error::other)?;
        since = record.generation;
        let last = record.state.is_terminal();
        tell(MonitorReport::Status(Box::new(record)));
        if last {
            return Ok(());
        }
    }
}

/// Asks a monitor one thing.
pub async fn ask(socket: &Path, method: &str, params: Value) -> Outcome {
    let answer = async { Line::open(socket).await?.ask(method, params).await };
    answer.await.unwrap_or_else(|e: io::Error| Err(WireError::new(ErrorKind::Os, e.to_string())))
}

/// A connection on which one question waits at a time.
struct Line {
    stream: UnixStream,
    lines: Lines,
    id: u64,
}

impl Line {
    async fn open(socket: &Path) -> io::Result<Self> {
        Ok(Self { stream: dial::monitor(socket).await?, lines: Lines::new(), id: 0 })
    }

    async fn ask(&mut self, method: &str, params: Value) -> io::Result<Outcome> {
        self.id += 1;
        self.stream.write_all(&ToGuest::request(self.id, method, params).encode()).await?;
        let mut buffer = [0; 4096];
        loop {
            while let Some(line) = self.lines.next_line() {
                let line = line.map_err(io::Error::other)?;
                match ToHost::decode(line).map_err(io::Error::other)? {
                    ToHost::Answer { id, outcome } if id == self.id => return Ok(outcome),
                    _ => {}
                }
            }
            match self.stream.read(&mut buffer).await? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the monitor hung up")),
                n => self.lines.push(&buffer[..n]),
            }
        }
    }
}
