//! The connection of a VM actor to the monitor of its VM: reports of the VM's state as it changes, and control of a VM
//! that runs.
//!
//! A monitor serves a Unix socket in the run directory of its VM. Only launch, adoption, removal and lists need the
//! launcher, and thus the executor; every other request about a VM that runs is made here.

use crate::executor::{borrow, is_exhausted, spare};
use futures_core::future::BoxFuture;
use pepita_wire::conversation::ControlConversation;
use pepita_wire::{ErrorKind, MonitorRequest, Outcome, StatusRecord, WireError};
use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The time limit for an answer. A monitor waits for its VM alone: a monitor that is silent for longer is stopped or
/// broken.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// The delay before a watch for which no descriptor was free connects again. No event tells that one is free.
const NO_DESCRIPTOR: Duration = Duration::from_secs(1);

/// A report of a monitor.
#[derive(Debug)]
pub enum MonitorReport {
    /// The record of the VM, each time it changes. A terminal record is the last report.
    Status(Box<StatusRecord>),
    /// The monitor is gone and has not reported the end of the VM.
    Lost(String),
}

/// The receiver of the reports of one monitor.
pub type TellReport = Box<dyn Fn(MonitorReport) + Send + Sync>;

/// A watch under way. It ends when this value is dropped.
#[derive(Debug)]
pub struct Watch(JoinHandle<()>);

impl Watch {
    /// Runs a watch in a task of its own.
    pub fn spawn(watch: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(watch))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The way to monitors. A trait, so that a test can supply monitors in memory, under a clock that the test controls.
pub trait Monitors: fmt::Debug + Send + Sync + 'static {
    /// Watches a VM through the control socket of its monitor, until the VM has ended or the monitor is gone.
    fn watch(&self, socket: PathBuf, tell: TellReport) -> Watch;
    /// Sends a request to the monitor behind a control socket, and returns the answer.
    fn request(&self, socket: PathBuf, request: MonitorRequest) -> BoxFuture<'static, Outcome>;
}

/// Watches a VM through its monitor's control socket, until the VM has ended or the monitor is gone.
///
/// A lack of descriptors in this process proves nothing about the monitor: the watch then connects later.
pub(crate) fn watch(socket: PathBuf, tell: TellReport) -> Watch {
    Watch::spawn(async move {
        while let Err(e) = follow(&socket, &tell).await {
            if !is_exhausted(&e) {
                return tell(MonitorReport::Lost(e.to_string()));
            }
            tokio::time::sleep(NO_DESCRIPTOR).await;
        }
    })
}

async fn follow(socket: &Path, tell: &TellReport) -> io::Result<()> {
    spare()?;
    let mut client = MonitorClient::connect(socket).await?;
    let mut since = 0;
    loop {
        let outcome = client.request(MonitorRequest::Watch { since }).await?;
        let value = outcome.map_err(io::Error::other)?;
        let record: StatusRecord = serde_json::from_value(value).map_err(io::Error::other)?;
        since = record.revision;
        let last = record.state.is_terminal();
        tell(MonitorReport::Status(Box::new(record)));
        if last {
            return Ok(());
        }
    }
}

/// Sends a request to a monitor. A monitor that cannot be reached answers [`ErrorKind::Os`], a silent monitor
/// [`ErrorKind::Timeout`].
pub(crate) async fn request(socket: PathBuf, request: MonitorRequest) -> Outcome {
    let answer = async {
        let (mut client, _borrowed) = match MonitorClient::connect(&socket).await {
            // A VM is to be stopped with grace also when no descriptor is left.
            Err(e) if is_exhausted(&e) => {
                let borrowed = borrow().await;
                (MonitorClient::connect(&socket).await?, Some(borrowed))
            }
            connected => (connected?, None),
        };
        client.request(request).await
    };
    match timeout(ANSWER_DEADLINE, answer).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(e)) => Err(WireError::new(ErrorKind::Os, e.to_string())),
        Err(_) => Err(WireError::new(ErrorKind::Timeout, "the monitor does not answer")),
    }
}

/// A connection on which one request waits at a time.
struct MonitorClient {
    stream: UnixStream,
    conversation: ControlConversation,
}

impl MonitorClient {
    async fn connect(socket: &Path) -> io::Result<Self> {
        Ok(Self { stream: UnixStream::connect(socket).await?, conversation: ControlConversation::default() })
    }

    async fn request(&mut self, request: MonitorRequest) -> io::Result<Outcome> {
        let (method, params) = request.into_parts();
        let (_, line) = self.conversation.ask(method, params);
        self.stream.write_all(&line).await?;
        let mut buffer = [0; 4096];
        loop {
            if let Some(outcome) = self.conversation.next_answer().map_err(io::Error::other)? {
                return Ok(outcome);
            }
            match self.stream.read(&mut buffer).await? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the monitor hung up")),
                read => self.conversation.receive(&buffer[..read]),
            }
        }
    }
}
