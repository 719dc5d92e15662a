//! A blocking client of a VM's monitor: makes one request after the other over the control socket.

use crate::error::{Result, call_error};
use crate::host::process_id::ProcessId;
use crate::rundir::layout;
use pepita_wire::conversation::ControlConversation;
use pepita_wire::record::CallErrorKind;
use pepita_wire::{MonitorRequest, Outcome, StatusRecord, WireError};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The time limit for an answer. A monitor has one thread and never blocks, so a monitor that is silent for longer is
/// stopped or broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to a monitor.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    conversation: ControlConversation,
}

impl Client {
    /// Connects to the monitor of the VM with this run directory.
    ///
    /// # Errors
    /// When no monitor listens.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(dir.join(layout::CONTROL))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, conversation: ControlConversation::default() })
    }

    /// Makes a request and waits for the answer, at most for `patience` (`None` = without limit).
    ///
    /// # Errors
    /// When the monitor is gone, does not answer in time, or does not speak the protocol.
    pub fn ask(&mut self, request: MonitorRequest, patience: Option<Duration>) -> io::Result<Outcome> {
        let (method, params) = request.into_parts();
        let (_, line) = self.conversation.ask(method, params);
        self.stream.set_read_timeout(patience)?;
        self.stream.write_all(&line)?;
        let mut buffer = [0; 8192];
        loop {
            if let Some(answer) = self.conversation.next_answer().map_err(io::Error::other)? {
                return Ok(answer);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.conversation.receive(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Waits for a status whose revision differs from `since`.
    ///
    /// # Errors
    /// When the monitor is gone.
    pub fn watch(&mut self, since: u64, patience: Option<Duration>) -> io::Result<StatusRecord> {
        let answer = self.ask(MonitorRequest::Watch { since }, patience)?;
        serde_json::from_value(answer.map_err(io::Error::other)?).map_err(io::Error::other)
    }
}

/// Makes one request to the monitor of the VM with this run directory.
///
/// # Errors
/// When there is no monitor, or the monitor does not answer in time.
pub fn ask(dir: &Path, request: MonitorRequest) -> io::Result<Outcome> {
    Client::open(dir)?.ask(request, Some(PATIENCE))
}

/// Returns the process that listens on the control socket of the VM with this run directory. The kernel takes the
/// connection even when the monitor is stopped.
pub fn listener(dir: &Path) -> Option<ProcessId> {
    let stream = UnixStream::connect(dir.join(layout::CONTROL)).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    ProcessId::of(u32::try_from(peer.pid.as_raw_nonzero().get()).ok()?)
}

/// Turns a monitor's refusal into the error of a call.
///
/// # Errors
/// The refusal, as an error of a call.
pub fn accepted(answer: Outcome) -> Result<Value> {
    use pepita_wire::ErrorKind as E;
    answer.map_err(|WireError { kind, message }| {
        let kind = match kind {
            E::BadRequest | E::Unsupported => CallErrorKind::Usage,
            E::Unauthorized => CallErrorKind::Permission,
            E::Conflict | E::Busy => CallErrorKind::TryAgain,
            E::NotFound => CallErrorKind::NoSuchVm,
            E::Timeout => CallErrorKind::Timeout,
            E::Os => CallErrorKind::Io,
            E::Other => CallErrorKind::Internal,
        };
        call_error(kind, message)
    })
}
