//! The launch server: one process of the launcher that is started once and becomes the monitor of a VM for each launch
//! ([`pepita_wire::serve`]). A launch then executes no program, and no process stands between this one and the monitor.
//!
//! Whatever keeps the server from taking an order, the launcher is called as a program instead.

use super::process::{self, Served};
use pepita_wire::LaunchSpec;
use pepita_wire::serve::{GREETING, LaunchAnswer, TAKEN};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

/// The time limit for the greeting of a new server.
const GREETING_DEADLINE: Duration = Duration::from_secs(5);

/// The maximum size of a monitor's answer, in bytes.
const ANSWER_CAP: u64 = 1 << 20;

/// The launch server of one launcher. All clones are one server, which ends with the last of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Server(Arc<Mutex<State>>);

/// What is known of the server.
#[derive(Debug, Default)]
enum State {
    /// The launcher is not known to have one.
    #[default]
    None,
    /// The server is started with the next launch.
    Wanted,
    /// The server runs.
    Runs(Box<Running>),
}

#[derive(Debug)]
struct Running {
    served: Served,
    program: Identity,
}

/// The identity of a file. A program that was replaced by another version is not served by the former one.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Identity {
    fn of(program: &Path) -> io::Result<Self> {
        let meta = program.metadata()?;
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// The end of an order, before the VM is taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    /// The monitor was made, and has not answered. The VM ends when the monitor finds nobody waiting.
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the monitor gave no answer: {0}")]
    Unreadable(serde_json::Error),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

impl Server {
    /// Says that the launcher has a server.
    pub(super) async fn enable(&self) {
        *self.0.lock().await = State::Wanted;
    }

    /// Starts the server ahead of the first launch.
    pub(super) async fn start(&self, program: &Path, environment: &[(&str, &OsStr)]) {
        let mut state = self.0.lock().await;
        if matches!(*state, State::Wanted) {
            *state = begin(program, environment).await;
        }
    }

    /// Orders a launch. Returns `None` when no server has taken the order: nothing has happened then.
    pub(super) async fn launch(
        &self,
        program: &Path,
        environment: &[(&str, &OsStr)],
        spec: &LaunchSpec,
        deadline: Duration,
    ) -> Option<Result<LaunchAnswer, NoAnswer>> {
        let monitor = self.order(program, environment).await?;
        let answer = tokio::time::timeout(deadline, converse(monitor, spec)).await;
        if answer.is_err() {
            // Perhaps it is the server that hangs. Its monitors go on without it.
            *self.0.lock().await = State::Wanted;
        }
        Some(answer.unwrap_or(Err(NoAnswer::Timeout(deadline))))
    }

    /// Has the server make a monitor. Returns the connection with it.
    async fn order(&self, program: &Path, environment: &[(&str, &OsStr)]) -> Option<UnixStream> {
        let mut state = self.0.lock().await;
        if let State::Runs(running) = &mut *state
            && (running.served.has_ended() || Identity::of(program).ok().as_ref() != Some(&running.program))
        {
            *state = State::Wanted;
        }
        if matches!(*state, State::Wanted) {
            *state = begin(program, environment).await;
        }
        let State::Runs(running) = &*state else { return None };
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().ok()?;
        ours.set_nonblocking(true).ok()?;
        let ours = UnixStream::from_std(ours).ok()?;
        match send(&running.served, &theirs.into()) {
            Ok(()) => Some(ours),
            Err(_) => {
                *state = State::Wanted;
                None
            }
        }
    }
}

/// Starts a server. A launcher whose server says something else than the greeting is called as a program from then on.
async fn begin(program: &Path, environment: &[(&str, &OsStr)]) -> State {
    let Ok(identity) = Identity::of(program) else { return State::Wanted };
    let Ok(mut served) = process::serve(program, environment) else { return State::Wanted };
    let mut greeting = [0; GREETING.len()];
    let read = tokio::time::timeout(GREETING_DEADLINE, served.socket.read_exact(&mut greeting)).await;
    match read {
        Ok(Ok(_)) if greeting == *GREETING => State::Runs(Box::new(Running { served, program: identity })),
        Ok(_) => State::None,
        // The host is busy.
        Err(_) => State::Wanted,
    }
}

/// Sends the server the end of a connection.
fn send(served: &Served, end: &OwnedFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut sent_along = SendAncillaryBuffer::new(&mut space);
    let ends = [end.as_fd()];
    sent_along.push(SendAncillaryMessage::ScmRights(&ends));
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(&served.socket, &[IoSlice::new(&[0])], &mut sent_along, flags)?;
    Ok(())
}

/// Gives a monitor its order, and takes the VM when it is up.
async fn converse(mut monitor: UnixStream, spec: &LaunchSpec) -> Result<LaunchAnswer, NoAnswer> {
    let mut order = serde_json::to_vec(spec).expect("the specification is JSON");
    order.push(b'\n');
    monitor.write_all(&order).await?;
    let mut line = Vec::new();
    BufReader::new((&mut monitor).take(ANSWER_CAP)).read_until(b'\n', &mut line).await?;
    let answer = serde_json::from_slice(&line).map_err(NoAnswer::Unreadable)?;
    if let LaunchAnswer::Up(_) = answer {
        // A VM that has ended meanwhile takes its monitor along, and leaves its exit record.
        match monitor.write_all(TAKEN).await {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(e.into()),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(answer)
}
