//! Listens for hosts. Each connection has a thread of its own, so that no client can delay the ping of another client.
//! Decides nothing about the daemon.

mod connection;
mod door;
mod follow;
mod writer;

use crate::agent::Agent;
use crate::stream::Stream;
use connection::{Connection, HANDSHAKE};
use door::Door;
use std::io::{self, ErrorKind as Io, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread::Builder;
use std::time::Duration;
use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VMADDR_CID_LOCAL, VsockListener};

/// Listens on the guest's vsock port. Only the host may connect.
///
/// # Errors
/// When the port cannot be bound.
pub(crate) fn on_vsock(agent: Arc<Agent>) -> io::Result<()> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, agent.boot.port)?;
    let door = Door::new();
    std::thread::spawn(move || {
        loop {
            match listener.accept() {
                Ok((stream, peer)) if may_connect(&agent, peer.cid()) => {
                    serve(&agent, &door, Stream::Vsock(stream));
                }
                Ok(_) => {}
                // An accept fails for example when no file descriptor is left. A moment later a descriptor may be free.
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    });
    Ok(())
}

fn may_connect(agent: &Agent, cid: u32) -> bool {
    cid == VMADDR_CID_HOST || (cid == VMADDR_CID_LOCAL && agent.boot.loopback)
}

/// Listens on a Unix socket with the hybrid vsock protocol: a line `CONNECT <port>`, then the same conversation as over
/// vsock.
pub(crate) fn on_hybrid(agent: Arc<Agent>, listener: UnixListener) {
    let door = Door::new();
    std::thread::spawn(move || {
        loop {
            match listener.accept() {
                Ok((stream, _)) => serve(&agent, &door, Stream::Unix(stream)),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    });
}

/// Reads and answers the first line of the hybrid protocol. The line is read byte by byte, because the bytes after it
/// belong to the conversation.
fn connect(agent: &Agent, mut stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(HANDSHAKE))?;
    let (mut line, mut byte) = (Vec::new(), [0]);
    while line.len() < 32 && line.last() != Some(&b'\n') {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    let port =
        line.strip_prefix(b"CONNECT ").and_then(|rest| std::str::from_utf8(rest).ok()?.trim().parse().ok());
    if port != Some(agent.boot.port) {
        return Err(Io::ConnectionRefused.into());
    }
    stream.write_all(b"OK 1073741824\n")
}

/// Serves a connection in a thread of its own. The connection is a stranger's until its hello was accepted.
fn serve(agent: &Arc<Agent>, door: &Door, stream: Stream) {
    let Ok(stranger) = door.let_in(&stream) else { return };
    let agent = Arc::clone(agent);
    // Without a thread the connection is closed, and its host dials again.
    let _ = Builder::new().spawn(move || {
        let is_connected = match &stream {
            Stream::Vsock(_) => Ok(()),
            Stream::Unix(stream) => connect(&agent, stream),
        };
        if is_connected.is_ok()
            && let Ok(mut connection) = Connection::new(&agent, stream)
        {
            // After either result the connection is closed.
            let _ = connection.run(stranger);
            connection.close();
        }
    });
}
