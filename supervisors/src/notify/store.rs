//! Has the service manager keep listening sockets for the next run of this program (FDSTORE of sd_notify(3)).

use super::Socket;
use pepita_supervisor::SocketStore;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg_addr};
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::Builder;
use std::time::Duration;

/// The time that the service manager has for each message. One that is not taken by then is lost, and told in the log.
const PATIENCE: Duration = Duration::from_secs(10);

/// The time that the end of the program has for the messages that were not sent yet.
const END: Duration = Duration::from_secs(1);

/// The store of the service manager. Messages are sent by a thread of its own, in order: many come at once when a supervisor
/// starts, and the service manager may be slow.
#[derive(Debug)]
pub(crate) struct ServiceStore {
    orders: Sender<Order>,
}

enum Order {
    Keep(String, OwnedFd),
    Forget(String),
    Tell(SyncSender<()>),
}

impl ServiceStore {
    /// Returns the store of the service manager with this address; `None` without one.
    pub(crate) fn new(address: Option<&OsStr>) -> Option<Self> {
        let socket = Socket::open(address.filter(|address| !address.is_empty())?).ok()?;
        let (orders, received) = channel();
        let thread = Builder::new().name("store".into()).spawn(move || send_all(&socket, &received));
        let failed = |e: &io::Error| tracing::warn!("no socket is kept for the next run: {e}");
        thread.inspect_err(failed).ok()?;
        Some(Self { orders })
    }

    /// Waits until the messages are sent, for a moment.
    pub(crate) fn finish(&self) {
        let (done, waiting) = sync_channel(1);
        if self.orders.send(Order::Tell(done)).is_ok() {
            let _ = waiting.recv_timeout(END);
        }
    }

    fn order(&self, order: Order) {
        // The thread ends with this store.
        let _ = self.orders.send(order);
    }
}

impl SocketStore for ServiceStore {
    fn keep(&self, name: &str, socket: BorrowedFd<'_>) {
        match socket.try_clone_to_owned() {
            Ok(copy) => self.order(Order::Keep(name.to_owned(), copy)),
            Err(e) => tracing::warn!("{name} is not kept for the next run: {e}"),
        }
    }

    fn forget(&self, name: &str) {
        self.order(Order::Forget(name.to_owned()));
    }
}

fn send_all(socket: &Socket, orders: &Receiver<Order>) {
    for order in orders {
        let (sent, name) = match order {
            Order::Keep(name, copy) => (send(socket, "FDSTORE=1", &name, &[copy.as_fd()]), name),
            Order::Forget(name) => (send(socket, "FDSTOREREMOVE=1", &name, &[]), name),
            Order::Tell(done) => {
                let _ = done.try_send(());
                continue;
            }
        };
        if let Err(e) = sent {
            tracing::warn!("{name} is not kept for the next run, or not forgotten: {e}");
        }
    }
}

/// Sends a message about the descriptors of a name. Each is one datagram, and comes as a whole or not at all.
fn send(socket: &Socket, what: &str, name: &str, copies: &[BorrowedFd<'_>]) -> io::Result<()> {
    socket.socket.set_nonblocking(false)?;
    socket.socket.set_write_timeout(Some(PATIENCE))?;
    let text = format!("{what}\nFDNAME={name}");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !copies.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(copies));
    }
    let bytes = [IoSlice::new(text.as_bytes())];
    sendmsg_addr(&socket.socket, &socket.to, &bytes, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn messages_come_in_order_and_an_end_waits_for_them() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("n");
        let manager = UnixDatagram::bind(&path).expect("bound");
        let store = ServiceStore::new(Some(path.as_os_str())).expect("a service manager");
        store.keep("a", manager.as_fd());
        store.forget("a");
        store.finish();
        manager.set_nonblocking(true).expect("set");
        for expected in ["FDSTORE=1\nFDNAME=a", "FDSTOREREMOVE=1\nFDNAME=a"] {
            let mut buffer = [0; 256];
            let read = manager.recv(&mut buffer).expect("sent before the end");
            assert_eq!(String::from_utf8_lossy(&buffer[..read]), expected);
        }
        assert!(ServiceStore::new(None).is_none() && ServiceStore::new(Some("".as_ref())).is_none());
    }
}
