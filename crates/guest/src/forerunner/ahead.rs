//! A forerunner that was started before its program.

use super::{GO, NOT_EXECUTED, Orders, PREPARED, Streams, answer_of, begun, give, order, run_with};
use crate::environment::Environment;
use crate::inherited;
use nix::sys::signal::SigSet;
use pepita_wire::Exit;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;

/// A forerunner that was started before its program: it waits for its orders, and perhaps, with its orders carried out, for the
/// word to execute the program.
#[derive(Debug)]
pub(crate) struct Ahead {
    pid: u32,
    socket: UnixStream,
}

impl Ahead {
    /// Starts a forerunner, before this process starts a thread. Without one, the daemon's is started with the daemon.
    pub(crate) fn start() -> Option<Self> {
        let (ours, theirs) = UnixStream::pair().ok()?;
        match inherited::fork().ok()? {
            Some(pid) => Some(Self { pid, socket: ours }),
            None => {
                drop(std::panic::take_hook());
                // The agent waits for a signal that it blocks. The program would inherit that.
                let _ = SigSet::empty().thread_set_mask();
                drop(ours);
                // What the agent has open is the agent's: the forerunner may outlive it for a moment.
                let _ = rustix::stdio::dup2_stdin(&theirs);
                inherited::close_all();
                let _ = rustix::process::setpgid(None, None);
                let code = if await_orders() { run_with(true) } else { NOT_EXECUTED };
                std::process::exit(code.into());
            }
        }
    }

    /// Returns the process id of the forerunner.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Gives the forerunner its orders, and lets it execute the program. Does what [`super::spawn`] does; `end` is the receiver of
    /// the forerunner's end.
    ///
    /// # Errors
    /// The errors of [`super::spawn`].
    pub(crate) fn go_on(
        mut self,
        end: mpsc::Receiver<Exit>,
        orders: &Orders,
        environment: &Environment,
        streams: Streams,
    ) -> Result<(u32, mpsc::Receiver<Exit>), Exit> {
        let answer =
            self.send(orders, environment, streams, false).and_then(|()| answer_of(&mut self.socket));
        begun(orders, self.pid, end, &answer.unwrap_or_default())
    }

    /// Gives the forerunner its orders, and lets it make itself what the program is to be. Returns whether it waits for the word
    /// now ([`Ahead::execute`]); otherwise a step has failed, or the process has ended.
    pub(crate) fn prepare(&mut self, orders: &Orders, environment: &Environment, streams: Streams) -> bool {
        let mut said = [0];
        let heard =
            self.send(orders, environment, streams, true).and_then(|()| self.socket.read_exact(&mut said));
        heard.is_ok() && said == PREPARED
    }

    /// Lets a forerunner that is prepared execute its program. Does what [`super::spawn`] does.
    ///
    /// # Errors
    /// The errors of [`super::spawn`].
    pub(crate) fn execute(
        mut self,
        end: mpsc::Receiver<Exit>,
        orders: &Orders,
    ) -> Result<(u32, mpsc::Receiver<Exit>), Exit> {
        let answer = self.socket.write_all(&GO).and_then(|()| answer_of(&mut self.socket));
        begun(orders, self.pid, end, &answer.unwrap_or_default())
    }

    /// Sends the orders, with what the program gets. The agent's own copies of the streams are closed then, so that they end
    /// with the program.
    fn send(
        &mut self,
        orders: &Orders,
        environment: &Environment,
        streams: Streams,
        waits: bool,
    ) -> io::Result<()> {
        give(&streams, orders);
        let environment = environment.iter().map(|(name, value)| (name.clone(), value.clone()));
        let orders = Orders { environment: Some(environment.collect()), waits, ..orders.clone() };
        let fds = [Some(&streams.output), Some(&streams.error), streams.input.as_ref()];
        let fds: Vec<BorrowedFd<'_>> = fds.into_iter().flatten().map(AsFd::as_fd).collect();
        order(&mut self.socket, &orders, &fds)
    }
}

/// Waits for orders. Returns `false` when the agent has ended without any.
fn await_orders() -> bool {
    let mut fds = [PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN)];
    while let Err(Errno::INTR) = poll(&mut fds, None) {}
    !fds[0].revents().contains(PollFlags::HUP) || fds[0].revents().contains(PollFlags::IN)
}
