//! Hands listening sockets over to a monitor, and takes them back (`publish` and `published` of [`MonitorRequest`]).

use pepita_wire::conversation::ControlConversation;
use pepita_wire::port::PORTS_CAP;
use pepita_wire::{ErrorKind, MonitorRequest, Outcome, Publish};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Deserialize;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// The time limit for the answer of a monitor.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// The answer to `published`.
#[derive(Deserialize)]
struct Published {
    ports: Vec<Publish>,
}

/// Hands sockets over to the monitor behind a control socket.
///
/// # Errors
/// When the monitor is gone, does not answer, or is of a version that carries no connections.
pub(super) async fn hand_over(control: &Path, ports: Vec<(Publish, OwnedFd)>) -> io::Result<()> {
    let (ports, sockets): (Vec<Publish>, Vec<OwnedFd>) = ports.into_iter().unzip();
    match ask(control, MonitorRequest::Publish(ports), &sockets).await?.0 {
        Ok(_) => Ok(()),
        Err(refusal) if refusal.kind == ErrorKind::Unsupported => Err(io::Error::other(
            "its monitor is of a version that publishes no ports; they are published with its next start",
        )),
        Err(refusal) => Err(io::Error::other(refusal)),
    }
}

/// Returns the sockets that the monitor behind a control socket was handed, and copies of them. A monitor of a version
/// that carries no connections has none.
///
/// # Errors
/// When the monitor is gone or does not answer.
pub(super) async fn take_back(control: &Path) -> io::Result<Vec<(Publish, OwnedFd)>> {
    let (outcome, sockets) = ask(control, MonitorRequest::Published, &[]).await?;
    match outcome {
        Ok(answer) => {
            let Published { ports } = serde_json::from_value(answer).map_err(io::Error::other)?;
            Ok(ports.into_iter().zip(sockets).collect())
        }
        Err(refusal) if refusal.kind == ErrorKind::Unsupported => Ok(Vec::new()),
        Err(refusal) => Err(io::Error::other(refusal)),
    }
}

/// Makes a request that brings descriptors. Returns the answer, and the descriptors that have come with it.
async fn ask(
    control: &Path,
    request: MonitorRequest,
    sockets: &[OwnedFd],
) -> io::Result<(Outcome, Vec<OwnedFd>)> {
    let answer = async {
        let mut monitor = UnixStream::connect(control).await?;
        let mut conversation = ControlConversation::default();
        let (method, params) = request.into_parts();
        let (_, line) = conversation.ask(method, params);
        let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        let sent = monitor.async_io(Interest::WRITABLE, || send(&monitor, &line, &sockets)).await?;
        monitor.write_all(&line[sent..]).await?;
        let mut received = Vec::new();
        loop {
            if let Some(outcome) = conversation.next_answer().map_err(io::Error::other)? {
                return Ok((outcome, received));
            }
            let mut buffer = [0; 4096];
            let read = monitor
                .async_io(Interest::READABLE, || receive(&monitor, &mut buffer, &mut received))
                .await?;
            if read == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the monitor hung up"));
            }
            conversation.receive(&buffer[..read]);
        }
    };
    let silent = || Err(io::Error::new(io::ErrorKind::TimedOut, "the monitor does not answer"));
    timeout(ANSWER_DEADLINE, answer).await.unwrap_or_else(|_| silent())
}

fn send(monitor: &UnixStream, line: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PORTS_CAP))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(sockets));
    }
    Ok(sendmsg(monitor, &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Reads bytes, and the descriptors that come with them.
fn receive(monitor: &UnixStream, buffer: &mut [u8], received: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PORTS_CAP))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(monitor, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            received.extend(descriptors);
        }
    }
    Ok(message.bytes)
}
