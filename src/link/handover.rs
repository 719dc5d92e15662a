//! Asks the monitor of a VM for a connection to the guest agent (`dial` of [`MonitorRequest`]).
//!
//! The back-end of a hybrid socket, vhost-device-vsock 0.3.0, does not survive a host that goes away before the guest has
//! answered, and a VM does not survive its back-end. The monitor stays with its VM whatever happens to this program.

use pepita_wire::conversation::ControlConversation;
use pepita_wire::{ErrorKind, MonitorRequest};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// Asks the monitor behind this connection for a connection to the agent, and waits until the guest has answered. Returns
/// `None` when the monitor is of a version that hands no connections over.
///
/// # Errors
/// When the monitor goes away, or no agent listens in the guest (yet).
pub(super) async fn ask(mut client: UnixStream) -> io::Result<Option<UnixStream>> {
    let mut conversation = ControlConversation::default();
    let (method, params) = MonitorRequest::Dial { greet: false }.into_parts();
    let (_, line) = conversation.ask(method, params);
    client.write_all(&line).await?;
    let mut connection = None;
    loop {
        match conversation.next_answer().map_err(io::Error::other)? {
            None => {}
            Some(Ok(_)) => {
                let missing =
                    || io::Error::new(io::ErrorKind::InvalidData, "the monitor handed nothing over");
                let connection = std::os::unix::net::UnixStream::from(connection.ok_or_else(missing)?);
                connection.set_nonblocking(true)?;
                return UnixStream::from_std(connection).map(Some);
            }
            Some(Err(refusal)) if refusal.kind == ErrorKind::Unsupported => return Ok(None),
            Some(Err(refusal)) => {
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, refusal.message));
            }
        }
        let mut buffer = [0; 1024];
        let (read, descriptor) = client.async_io(Interest::READABLE, || read(&client, &mut buffer)).await?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the monitor hung up"));
        }
        connection = connection.or(descriptor);
        conversation.receive(&buffer[..read]);
    }
}

/// Reads bytes and the descriptor that comes with them, if one does.
fn read(client: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let message = recvmsg(client, &mut [io::IoSliceMut::new(buffer)], &mut control, flags)?;
    let mut descriptors = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
        // Other messages are not asked for.
        _ => Vec::new(),
    });
    let descriptor = descriptors.next();
    Ok((message.bytes, descriptor))
}
