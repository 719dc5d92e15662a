//! The control socket: a Unix socket over which programs see and steer a running tree. Knows no signals and no files but
//! its socket.
//!
//! The conversation is that of [`pepita_wire`], without hello: a [`pepita_wire::Request`] a line in, one answer to each
//! out, in whatever order they are done. After `events` there are event lines in between ([`crate::observe::Event::to_json`]),
//! and `{"lagged": n}` where a reader was too slow. The methods are those of [`Call`].
//!
//! ```no_run
//! # async fn example(tree: pepita_supervisor::tree::Tree) -> Result<(), Box<dyn std::error::Error>> {
//! use pepita_supervisor::control::{self, Call, Client, Hooks};
//!
//! let control = control::serve(&tree, "/run/edge/control.sock".as_ref(), Hooks::default())?;
//! let mut client = Client::connect("/run/edge/control.sock".as_ref()).await?;
//! println!("{}", client.call(Call::Status).await?);
//! tree.stop().await;
//! control.close().await;
//! # Ok(())
//! # }
//! ```

mod answer;
mod call;
mod client;
mod server;
mod session;
mod socket;

pub use call::{Call, How};
pub use client::{Client, ClientError, Heard};
pub use socket::{ControlError, Socket};

use crate::spec::TreeSpec;
use crate::tree::Tree;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// For clients to take their last answers.
const GOODBYE: Duration = Duration::from_secs(2);

/// What the host program adds to a control socket.
#[derive(Clone, Default)]
pub struct Hooks {
    load: Option<Load>,
    heard: Option<Told>,
}

type Load = Arc<dyn Fn() -> Result<TreeSpec, String> + Send + Sync>;
type Told = Arc<dyn Fn(&Call) + Send + Sync>;

impl Hooks {
    /// Reads the configuration anew, for `plan` and `reload`; may block. Without it these two are refused.
    #[must_use]
    pub fn load(mut self, load: impl Fn() -> Result<TreeSpec, String> + Send + Sync + 'static) -> Self {
        self.load = Some(Arc::new(load));
        self
    }

    /// Is told each call that changes something, before it is carried out.
    #[must_use]
    pub fn heard(mut self, heard: impl Fn(&Call) + Send + Sync + 'static) -> Self {
        self.heard = Some(Arc::new(heard));
        self
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").field("load", &self.load.is_some()).finish_non_exhaustive()
    }
}

/// Opens the control socket of a tree. To be sure of the socket before anything is started, use [`Socket::claim`].
///
/// # Errors
/// When a living supervisor has it, or it cannot be made.
pub fn serve(tree: &Tree, path: &Path, hooks: Hooks) -> Result<Control, ControlError> {
    Socket::claim(path)?.serve(tree, hooks)
}

/// An open control socket. Dropped, it is closed at once.
#[derive(Debug)]
pub struct Control {
    socket: Socket,
    closing: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Socket {
    /// Answers for a tree.
    ///
    /// # Errors
    /// When the socket does not suit the runtime.
    pub fn serve(self, tree: &Tree, hooks: Hooks) -> Result<Control, ControlError> {
        let listener = self.listener()?;
        let (closing, seen) = watch::channel(false);
        let task = tokio::spawn(server::listen(listener, tree.clone(), hooks, seen));
        Ok(Control { socket: self, closing, task })
    }
}

impl Control {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.socket.path()
    }

    /// Takes no more clients, gives those that wait for an answer or read events a moment to take what is theirs, and
    /// removes the socket. To be called when the tree has ended.
    pub async fn close(mut self) {
        self.closing.send_replace(true);
        // Whoever does not read by then does not read.
        let _ = tokio::time::timeout(GOODBYE, &mut self.task).await;
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
    }
}
