//! The connection of a VM actor to the monitor of its VM: reports of the VM's state as it changes, and control of a VM
//! that runs.
//!
//! A monitor serves a Unix socket in the run directory of its VM. Only launch, adoption, removal and lists need the
//! launcher, and thus the executor; every other request about a VM that runs is made here.

use crate::executor::{beside, borrow, is_exhausted, spare};
use futures_core::future::BoxFuture;
use pepita_wire::conversation::{ControlConversation, ControlNews};
use pepita_wire::monitor::REQUEST_PATIENCE;
use pepita_wire::{ErrorKind, MonitorRequest, Outcome, StatusRecord, WireError};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The delay before a watch for which no descriptor was free connects again. No event tells that one is free.
const NO_DESCRIPTOR: Duration = Duration::from_secs(1);

/// The size of one read of a watch, in bytes. Each VM has such a buffer as long as it is watched.
const READ: usize = 512;

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
pub struct Watch {
    task: JoinHandle<()>,
    line: Option<Line>,
}

impl Watch {
    /// Runs a watch in a task of its own.
    pub fn spawn(watch: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { task: tokio::spawn(watch), line: None }
    }

    /// Returns the way to make requests over the connection of the watch, if there is one.
    pub fn line(&self) -> Option<Line> {
        self.line.clone()
    }
}

/// The connection of a watch, for requests to a monitor that can no longer be connected to because its socket was
/// removed.
#[derive(Debug, Clone)]
pub struct Line(mpsc::UnboundedSender<Box<Passed>>);

/// A request that is passed on to the connection of a watch. The channel of each watch has room for many of them, so they
/// are boxed.
#[derive(Debug)]
struct Passed {
    request: MonitorRequest,
    answer: oneshot::Sender<Outcome>,
}

impl Line {
    /// Makes a request. A monitor that is gone answers [`ErrorKind::Os`], a silent monitor [`ErrorKind::Timeout`].
    pub async fn request(self, request: MonitorRequest) -> Outcome {
        let (answer, answered) = oneshot::channel();
        // When the watch has ended, the request is dropped together with the sender of its answer.
        let _ = self.0.send(Box::new(Passed { request, answer }));
        match timeout(REQUEST_PATIENCE, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(WireError::new(ErrorKind::Os, "the monitor is gone")),
            Err(_) => Err(silent()),
        }
    }
}

fn silent() -> WireError {
    WireError::new(ErrorKind::Timeout, "the monitor does not answer")
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
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
    let (line, mut passed) = mpsc::unbounded_channel();
    let watch = async move {
        while let Err(e) = follow(&socket, &tell, &mut passed).await {
            if !is_exhausted(&e) {
                return tell(MonitorReport::Lost(e.to_string()));
            }
            tokio::time::sleep(NO_DESCRIPTOR).await;
        }
    };
    let mut watch = Watch::spawn(watch);
    watch.line = Some(Line(line));
    watch
}

/// Asks for the status again and again, and makes the requests that are passed on meanwhile.
async fn follow(
    socket: &Path,
    tell: &TellReport,
    passed: &mut mpsc::UnboundedReceiver<Box<Passed>>,
) -> io::Result<()> {
    spare()?;
    let MonitorClient { mut stream, mut conversation } = MonitorClient::connect(socket).await?;
    let mut waiting: HashMap<u64, oneshot::Sender<Outcome>> = HashMap::new();
    let ask = |conversation: &mut ControlConversation, request: MonitorRequest| {
        let (method, params) = request.into_parts();
        conversation.ask(method, params)
    };
    let (mut asked, line) = ask(&mut conversation, MonitorRequest::Watch { since: 0 });
    stream.write_all(&line).await?;
    let mut buffer = vec![0; READ];
    loop {
        while let Some(news) = conversation.next_news().map_err(io::Error::other)? {
            let (id, outcome) = match news {
                ControlNews::Answer { id, outcome } => (id, outcome),
                ControlNews::Told(_) => continue,
            };
            // The answer 0 is about the connection.
            if id != asked && id != 0 {
                if let Some(answer) = waiting.remove(&id) {
                    // The asker may have given up.
                    let _ = answer.send(outcome);
                }
                continue;
            }
            let value = outcome.map_err(io::Error::other)?;
            let record: StatusRecord = serde_json::from_value(value).map_err(io::Error::other)?;
            let (since, is_last) = (record.revision, record.state.is_terminal());
            tell(MonitorReport::Status(Box::new(record)));
            if is_last {
                return Ok(());
            }
            let line;
            (asked, line) = ask(&mut conversation, MonitorRequest::Watch { since });
            stream.write_all(&line).await?;
        }
        tokio::select! {
            read = stream.read(&mut buffer) => match read? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the monitor hung up")),
                read => conversation.receive(&buffer[..read]),
            },
            // The senders live as long as the watch, which ends this task.
            Some(passed) = passed.recv() => {
                let Passed { request, answer } = *passed;
                let (id, line) = ask(&mut conversation, request);
                waiting.insert(id, answer);
                stream.write_all(&line).await?;
            }
        }
    }
}

/// Sends a request to a monitor. A monitor that cannot be reached answers [`ErrorKind::Os`], a silent monitor
/// [`ErrorKind::Timeout`].
pub(crate) async fn request(socket: PathBuf, request: MonitorRequest) -> Outcome {
    let answer = async {
        let (mut client, borrowed) = match MonitorClient::connect(&socket).await {
            // A VM is to be stopped with grace also when no descriptor is left.
            Err(e) if is_exhausted(&e) => {
                let borrowed = borrow().await;
                (MonitorClient::connect(&socket).await?, Some(borrowed))
            }
            connected => (connected?, None),
        };
        beside(borrowed, client.request(request)).await
    };
    match timeout(REQUEST_PATIENCE, answer).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(e)) => Err(WireError::new(ErrorKind::Os, e.to_string())),
        Err(_) => Err(silent()),
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
