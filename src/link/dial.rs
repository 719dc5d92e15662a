//! Opens connections to guest agents, over AF_VSOCK or a hybrid socket. No other file of the library opens such
//! connections.

use super::handover;
use crate::executor::spare;
use futures_core::future::BoxFuture;
use pepita_wire::StatusRecord;
use pepita_wire::record::Transport;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_vsock::{VsockAddr, VsockStream};

/// The address of a guest agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A guest that is reached over AF_VSOCK of the host's kernel.
    Vhost {
        /// The CID of the guest.
        cid: u32,
        /// The port of the agent.
        port: u32,
    },
    /// A guest behind a Unix socket that expects `CONNECT <port>` first, as with Firecracker and cloud-hypervisor.
    Hybrid {
        /// The path of the socket.
        uds: PathBuf,
        /// The port of the agent.
        port: u32,
    },
}

impl Address {
    /// Returns the address of the agent of the VM with this record.
    pub fn of(record: &StatusRecord) -> Self {
        let vsock = &record.vsock;
        match (vsock.transport, &vsock.uds) {
            (Transport::Hybrid, Some(uds)) => Self::Hybrid { uds: uds.into(), port: vsock.port },
            (Transport::Hybrid, None) => Self::Hybrid {
                uds: Path::new(&record.dir).join(pepita_wire::rundir::HYBRID),
                port: vsock.port,
            },
            (Transport::Vhost, _) => Self::Vhost { cid: vsock.cid, port: vsock.port },
        }
    }
}

/// A byte stream over any of the transports.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection to a guest agent that has just been made.
pub struct Dialled {
    /// The open connection to the agent.
    pub stream: Box<dyn Stream>,
    /// The token to greet the agent with.
    pub token: String,
}

impl fmt::Debug for Dialled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialled")
    }
}

/// The way to guest agents. A trait, so that a test can supply guests in memory, under a clock that the test controls.
pub trait Guests: fmt::Debug + Send + Sync + 'static {
    /// Connects to a guest agent. The token is read from its file at each dial: a monitor that has adopted the VM may
    /// have made a new one.
    fn dial(&self, guest: Address, token: PathBuf) -> BoxFuture<'static, io::Result<Dialled>>;
}

/// Reads the token, a file of the VM's run directory, and connects to a guest agent. The connection to a hybrid socket
/// is made by the VM's monitor, so that it is completed even when this program is killed meanwhile.
///
/// # Errors
/// Returns an error when the token cannot be read or the monitor does not answer, and the errors of [`dial`].
pub(crate) async fn dial_with_token(guest: Address, token: PathBuf) -> io::Result<Dialled> {
    spare()?;
    let monitor = token.with_file_name(pepita_wire::rundir::CONTROL);
    let token = tokio::fs::read_to_string(&token).await?.trim().to_owned();
    let stream = match &guest {
        Address::Hybrid { .. } => match handover::ask(UnixStream::connect(&monitor).await?).await? {
            Some(stream) => Box::new(stream),
            // A monitor of an older version hands nothing over.
            None => dial(guest).await?,
        },
        Address::Vhost { .. } => dial(guest).await?,
    };
    Ok(Dialled { stream, token })
}

/// Connects to a guest agent.
///
/// # Errors
/// Returns an error when the guest does not listen (yet), which looks different on each transport: ENODEV, ETIMEDOUT
/// and ECONNRESET on AF_VSOCK, the end of the file instead of `OK` on a hybrid socket.
pub async fn dial(address: Address) -> io::Result<Box<dyn Stream>> {
    match address {
        Address::Vhost { cid, port } => {
            let stream = VsockStream::connect(VsockAddr::new(cid, port)).await?;
            Ok(Box::new(stream))
        }
        Address::Hybrid { uds, port } => {
            let mut stream = UnixStream::connect(&uds).await?;
            // The connection is made in a task of its own: the future of this function may be dropped at any time, but
            // the socket must not be closed before the answer. vhost-device-vsock 0.3.0 panics when its client is gone
            // before its OK, and then the VM ends, too.
            let greeting = tokio::spawn(async move {
                stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
                read_ok(&mut stream).await?;
                Ok::<_, io::Error>(stream)
            });
            Ok(Box::new(greeting.await.map_err(io::Error::other)??))
        }
    }
}

/// Reads `OK <digits>\n`, byte by byte, because the bytes behind it belong to the guest.
async fn read_ok(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut line = Vec::with_capacity(16);
    while line.last() != Some(&b'\n') {
        if line.len() >= 32 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not an answer to CONNECT"));
        }
        match stream.read_u8().await {
            Ok(byte) => line.push(byte),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the guest does not listen"));
            }
            Err(e) => return Err(e),
        }
    }
    if line.starts_with(b"OK ") {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "not an answer to CONNECT"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns the result of an answer to `CONNECT`, and the number of bytes that it left to the conversation.
    fn read(answer: &[u8]) -> (io::Result<()>, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let mut rest = answer;
        let result = runtime.block_on(read_ok(&mut rest));
        (result, rest.len())
    }

    #[test]
    fn an_end_instead_of_ok_means_not_yet() {
        let (result, _) = read(b"");
        assert_eq!(result.expect_err("no guest listens").kind(), io::ErrorKind::ConnectionRefused);
        assert!(read(b"NO 7\n").0.is_err());
    }

    proptest! {
        #[test]
        fn not_a_byte_of_the_conversation_is_taken(
            number in "[0-9]{1,10}",
            noise in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let answer = [b"OK ", number.as_bytes(), b"\n", &noise].concat();
            let (result, left) = read(&answer);
            prop_assert!(result.is_ok() && left == noise.len());
            let (result, left) = read(&noise);
            prop_assert!(noise.len() - left <= 32);
            prop_assert!(result.is_err() || noise.starts_with(b"OK "));
        }
    }
}
