//! Moves the bytes of one connection, both ways, in a task of its own.

use super::dial::Stream;
use super::message::LinkMsg;
use crate::actor::now;
use pepita_wire::allowance::Allowance;
use pepita_wire::protocol::{AGENT_BURST, AGENT_RATE};
use ractor::ActorRef;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

/// The number of reads that may wait for the actor. A flood stays in the guest's socket.
const READ_AHEAD: usize = 4;

/// The size of one read, in bytes. Each VM has such a buffer as long as its link is up; what its guest says at rest is
/// much shorter.
const READ: usize = 512;

/// The number of writes that may wait for the guest.
const WRITE_AHEAD: usize = 64;

/// A connection. Dropping it closes it.
pub(super) struct Socket {
    writer: mpsc::Sender<Vec<u8>>,
    task: JoinHandle<()>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Socket {
    /// Begins to move bytes; `link` receives the bytes that are read, under this number.
    pub(super) fn spawn(link: ActorRef<LinkMsg>, connection: u64, stream: Box<dyn Stream>) -> Self {
        let (writer, outgoing) = mpsc::channel(WRITE_AHEAD);
        Self { writer, task: tokio::spawn(carry(link, connection, stream, outgoing)) }
    }

    /// Hands over bytes that are written as soon as the peer reads. Returns false when too many writes wait already.
    pub(super) fn write(&self, bytes: Vec<u8>) -> bool {
        self.writer.try_send(bytes).is_ok()
    }
}

/// Moves bytes until either side is gone.
async fn carry(
    link: ActorRef<LinkMsg>,
    connection: u64,
    mut stream: Box<dyn Stream>,
    mut outgoing: mpsc::Receiver<Vec<u8>>,
) {
    let ahead = Arc::new(Semaphore::new(READ_AHEAD));
    let mut buffer = vec![0; READ];
    let mut allowance = Allowance::new(AGENT_RATE, AGENT_BURST, now());
    loop {
        let Ok(permit) = Arc::clone(&ahead).acquire_owned().await else { return };
        allowance.take(now(), 0);
        let pause = allowance.pause();
        let bytes = tokio::select! {
            read = stream.read(&mut buffer), if pause.is_none() => match read {
                Ok(n) if n > 0 => {
                    allowance.take(now(), n);
                    Some(buffer[..n].to_vec())
                }
                _ => None,
            },
            () = sleep_until(pause.unwrap_or_else(now).into()), if pause.is_some() => continue,
            write = outgoing.recv() => match write {
                Some(bytes) => match stream.write_all(&bytes).await {
                    Ok(()) => continue,
                    Err(_) => None,
                },
                None => return,
            },
        };
        let over = bytes.is_none();
        if link.cast(LinkMsg::Read { connection, bytes, permit }).is_err() || over {
            return;
        }
    }
}
