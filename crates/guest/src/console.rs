//! Where the daemon's output goes: the guest's console, or a socket that the monitor reads.

use std::fs::File;
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A console. Clones write to the same one.
#[derive(Debug, Clone)]
pub struct Console {
    sink: Arc<Mutex<Sink>>,
}

#[derive(Debug)]
enum Sink {
    /// `/dev/hvc0`. When nobody reads at its other end, QEMU throws away what is written.
    Tty(File),
    /// The monitor's connection, if there is one. Without one, output is thrown away.
    Socket(Option<UnixStream>),
}

impl Console {
    /// The guest's console.
    pub fn tty(file: File) -> Self {
        Self::new(Sink::Tty(file))
    }

    /// A socket that one client reads at a time; the newest wins. `greeting` is written to the first, however late it
    /// comes. (Those after it are monitors that adopt; they dial unasked.)
    pub fn socket(listener: UnixListener, greeting: Vec<u8>) -> Self {
        let console = Self::new(Sink::Socket(None));
        let same = console.clone();
        std::thread::spawn(move || {
            let mut greeting = greeting;
            for mut client in listener.incoming().flatten() {
                if client.write_all(&std::mem::take(&mut greeting)).is_ok() {
                    *same.lock() = Sink::Socket(Some(client));
                }
            }
        });
        console
    }

    fn new(sink: Sink) -> Self {
        Self { sink: Arc::new(Mutex::new(sink)) }
    }

    fn lock(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes all, waiting for a slow reader; without a reader, writes nothing.
    pub fn write(&self, bytes: &[u8]) {
        let mut sink = self.lock();
        match &mut *sink {
            // There is nobody to tell that the console does not work.
            Sink::Tty(file) => drop(file.write_all(bytes)),
            Sink::Socket(client) => {
                if client.as_mut().is_some_and(|client| client.write_all(bytes).is_err()) {
                    *client = None;
                }
            }
        }
    }
}
