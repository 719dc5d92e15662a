//! Watches the listening sockets of a VM that is asleep, until a client comes. The client is not taken: it waits in the queue
//! of the kernel until the VM serves it.

use pepita_ports::Listening;
use pepita_wire::Publish;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

/// The news of the ports of a VM that is asleep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortNews {
    /// A client waits at a port. It is told once.
    ClientCame,
    /// A port cannot be listened on, for this reason. It is tried again.
    NotListening(String),
}

/// The receiver of the news of the ports of one VM.
#[derive(Clone)]
pub(crate) struct TellPortNews(Arc<dyn Fn(PortNews) + Send + Sync>);

impl TellPortNews {
    /// Makes a receiver of a function.
    pub(crate) fn new(tell: impl Fn(PortNews) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    pub(super) fn tell(&self, news: PortNews) {
        (self.0)(news);
    }
}

impl fmt::Debug for TellPortNews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TellPortNews")
    }
}

/// The wait for a client. It ends when this value is dropped, which has to be before the sockets are closed.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Copies of the sockets. The task only borrows them, so that they are closed with this value, and not later.
    _sockets: Vec<Arc<AsyncFd<OwnedFd>>>,
    task: JoinHandle<()>,
}

impl Waiting {
    /// Watches sockets, and tells once that a client waits at one of them, also one that waits already.
    ///
    /// # Errors
    /// When a socket cannot be watched.
    pub(super) fn for_client(sockets: &[(Publish, Listening)], tell: TellPortNews) -> io::Result<Self> {
        let sockets = sockets.iter().map(|(_, it)| watched(it)).collect::<io::Result<Vec<_>>>()?;
        let weak: Vec<Weak<_>> = sockets.iter().map(Arc::downgrade).collect();
        let task = tokio::spawn(async move {
            poll_fn(|context| any_is_readable(&weak, context)).await;
            tell.tell(PortNews::ClientCame);
        });
        Ok(Self { _sockets: sockets, task })
    }

    /// Waits in a task, until the sockets can be watched.
    pub(super) fn to_listen(task: JoinHandle<()>) -> Self {
        Self { _sockets: Vec::new(), task }
    }

    /// Returns whether this is the wait in which the calling task is.
    pub(super) fn is_own(&self) -> bool {
        tokio::task::try_id() == Some(self.task.id())
    }
}

// Its successor is unsafe: a type may change its descriptor while it is registered. An `OwnedFd` does not.
#[allow(deprecated)]
fn watched(listening: &Listening) -> io::Result<Arc<AsyncFd<OwnedFd>>> {
    let copy = listening.socket.try_clone()?;
    Ok(Arc::new(AsyncFd::with_interest(copy, Interest::READABLE)?))
}

fn any_is_readable(sockets: &[Weak<AsyncFd<OwnedFd>>], context: &mut Context<'_>) -> Poll<()> {
    for socket in sockets.iter().filter_map(Weak::upgrade) {
        // An error is told by the launch, which uses the socket.
        if socket.poll_read_ready(context).is_ready() {
            return Poll::Ready(());
        }
    }
    Poll::Pending
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.task.abort();
    }
}
