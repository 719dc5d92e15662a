//! A control socket between a client and a supervisor, on which a test sees what the client asks for.

use crate::host::PATIENCE;
use pepita_wire::Request;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

/// A socket that passes on what one client and its supervisor say.
pub(crate) struct Relay {
    path: PathBuf,
    methods: Receiver<String>,
}

impl Relay {
    /// Listens at `path`, and connects the first client to the supervisor at `socket`.
    pub(crate) fn listen(path: &Path, socket: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("a socket for the client");
        let supervisor = UnixStream::connect(socket).expect("a supervisor");
        let (sender, methods) = channel();
        thread::spawn(move || {
            let (client, _) = listener.accept().expect("a client");
            let mut answers = supervisor.try_clone().expect("a second handle");
            let mut to_client = client.try_clone().expect("a second handle");
            thread::spawn(move || std::io::copy(&mut answers, &mut to_client));
            for line in BufReader::new(client).split(b'\n').map_while(Result::ok) {
                let request: Request = serde_json::from_slice(&line).expect("a request");
                let line = [&line[..], b"\n"].concat();
                // Neither the supervisor nor the test has to be there to the end.
                if (&supervisor).write_all(&line).is_err() || sender.send(request.method).is_err() {
                    return;
                }
            }
        });
        Self { path: path.to_owned(), methods }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until the client asks for this. The client has its answers to all that it has asked for before.
    pub(crate) fn until_call(&self, method: &str) {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while seen.last().is_none_or(|last| last != method) {
            let next = self.methods.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            seen.push(next.unwrap_or_else(|e| panic!("no call {method:?} after {seen:?}: {e}")));
        }
    }
}
