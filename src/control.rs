//! The control socket: a Unix socket over which programs observe and control a running tree.
//!
//! The protocol is that of [`pepita_wire`], without hello: each line in is a [`pepita_wire::Request`], and each request
//! gets one answer, in the order in which the calls are done. After `events` there are event lines in between
//! ([`crate::observe::Event::to_json`]), and `{"lagged": n}` where a reader was too slow. The methods are those of
//! [`Call`].
//!
//! A request has a bound ([`pepita_wire::LINE_CAP`]), an answer has none: the status of many VMs is long. It is made as the
//! client reads it, so that a client that reads slowly, or not at all, costs the supervisor a bounded amount of memory.
//!
//! ```no_run
//! # async fn example(tree: pepita_supervisor::Tree) -> Result<(), Box<dyn std::error::Error>> {
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
mod hooks;
mod server;
pub(crate) mod session;
mod socket;
mod status;

pub use call::{Call, ShutdownMode, StatusPart};
pub use client::{Client, ClientError, Received};
pub use hooks::Hooks;
pub use socket::{ControlError, Socket};

use crate::tree::Tree;
use std::path::Path;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The time that clients have to read their last answers.
const GOODBYE: Duration = Duration::from_secs(2);

/// Opens the control socket of a tree. To have the socket before any VM is started, use [`Socket::claim`].
///
/// # Errors
/// Returns an error when a running supervisor has the socket, or the socket cannot be made.
pub fn serve(tree: &Tree, path: &Path, hooks: Hooks) -> Result<Control, ControlError> {
    Socket::claim(path)?.serve(tree, hooks)
}

/// An open control socket. Dropping it closes the socket at once.
#[derive(Debug)]
pub struct Control {
    socket: Socket,
    closing: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Socket {
    /// Answers the clients of the socket for a tree.
    ///
    /// # Errors
    /// Returns an error when the runtime cannot use the socket.
    pub fn serve(mut self, tree: &Tree, hooks: Hooks) -> Result<Control, ControlError> {
        let listener = self.take_listener()?;
        let (closing, seen) = watch::channel(false);
        let task = tokio::spawn(server::listen(listener, tree.clone(), hooks, seen));
        Ok(Control { socket: self, closing, task })
    }
}

impl Control {
    /// Returns the path of the socket.
    pub fn path(&self) -> &Path {
        self.socket.path()
    }

    /// Accepts no more clients, gives the clients that wait for an answer or read events a moment to take the rest, and
    /// removes the socket. Must be called when the tree has ended.
    pub async fn close(mut self) {
        self.closing.send_replace(true);
        // A client that has not read by then will not read.
        let _ = tokio::time::timeout(GOODBYE, &mut self.task).await;
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
    }
}
