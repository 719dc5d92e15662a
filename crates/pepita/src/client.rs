//! Asks a VM's monitor, over its control socket, one thing after the other. Blocks.

use crate::error::{Result, call_error};
use crate::rundir::layout;
use pepita_wire::frame::Outcome as Answer;
use pepita_wire::record::CallErrorKind;
use pepita_wire::{Lines, StatusRecord, ToGuest, ToHost, WireError};
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A monitor has one thread and never blocks: one that does not answer for so long is stopped or broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to a monitor.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    lines: Lines,
    id: u64,
}

impl Client {
    /// Connects to the monitor of the VM with this run directory.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(dir.join(layout::CONTROL))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, lines: Lines::new(), id: 0 })
    }

    /// Asks, and waits for the answer at most so long (`None` = for ever).
    ///
    /// # Errors
    /// When the monitor is gone or silent.
    pub fn ask(&mut self, method: &str, params: Value, patience: Option<Duration>) -> io::Result<Answer> {
        self.id += 1;
        self.stream.set_read_timeout(patience)?;
        self.stream.write_all(&ToGuest::request(self.id, method, params).encode())?;
        let mut buffer = [0; 8192];
        loop {
            while let Some(line) = self.lines.next_line() {
                match ToHost::decode(line.map_err(io::Error::other)?).map_err(io::Error::other)? {
                    ToHost::Answer { id, outcome } if id == self.id => return Ok(outcome),
                    _ => {}
                }
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.lines.push(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Waits for a status newer than `since`.
    ///
    /// # Errors
    /// When the monitor is gone.
    pub fn watch(&mut self, since: u64, patience: Option<Duration>) -> io::Result<StatusRecord> {
        let answer = self.ask("watch", json!({ "since": since }), patience)?;
        serde_json::from_value(answer.map_err(io::Error::other)?).map_err(io::Error::other)
    }
}

/// Asks the monitor of the VM with this run directory one thing.
///
/// # Errors
/// When there is no monitor, or it is silent.
pub fn ask(dir: &Path, method: &str, params: Value) -> io::Result<Answer> {
    Client::open(dir)?.ask(method, params, Some(PATIENCE))
}

/// A monitor's refusal as a call's failure.
pub fn refused(error: WireError) -> crate::error::CallError {
    use pepita_wire::ErrorKind as E;
    let kind = match error.kind {
        E::BadRequest | E::Unsupported => CallErrorKind::Usage,
        E::Unauthorized => CallErrorKind::Permission,
        E::Conflict | E::Busy => CallErrorKind::TryAgain,
        E::NotFound => CallErrorKind::NoSuchVm,
        E::Timeout => CallErrorKind::Timeout,
        E::Os => CallErrorKind::Io,
        E::Other => CallErrorKind::Internal,
    };
    call_error(kind, error.message)
}

/// The answer, or the refusal as a failure.
///
/// # Errors
/// The monitor's refusal.
pub fn accepted(answer: Answer) -> Result<Value> {
    answer.map_err(refused)
}
