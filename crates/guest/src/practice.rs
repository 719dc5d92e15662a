//! Does once what nearly every daemon does at its start: begins a thread, listens at a port, serves a client, and tells the agent of
//! itself. A warm spare lets a process of its own do that while it waits, so that its daemon is not the first one on these
//! ways through the kernel. Without it an emulated CPU translates them, and any CPU meets cold caches, while clients wait.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;

/// A message that tells the agent nothing (sd_notify(3): it ignores variables that it does not know).
const NOTHING: &[u8] = b"X_PEPITA_PRACTICE=1\n";

/// Runs this process for practice. `notify` is the path of the agent's notify socket.
pub(crate) fn run(notify: &OsStr) -> ExitCode {
    // A step that fails is one that the daemon will be the first to do.
    let _ = serve_a_client();
    let _ = UnixDatagram::unbound().and_then(|socket| socket.send_to(NOTHING, notify));
    ExitCode::SUCCESS
}

/// Serves a client of its own at a port that is free.
fn serve_a_client() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let client = std::thread::Builder::new().spawn(move || {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"?")?;
        stream.read_to_end(&mut Vec::new())
    })?;
    let (mut stream, _) = listener.accept()?;
    stream.read_exact(&mut [0])?;
    stream.write_all(b"!")?;
    drop(stream);
    client.join().unwrap_or(Ok(0)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::Datagram;

    #[test]
    fn practice_serves_a_client_and_tells_the_agent_nothing() {
        serve_a_client().expect("served");
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bound");
        run(path.as_os_str());
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).expect("received");
        assert_eq!(Datagram::parse(&buffer[..length]), Datagram::default());
    }
}
