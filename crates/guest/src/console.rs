//! The console: writes the daemon's output to the guest's terminal, or to a socket that the monitor reads.

use std::fs::File;
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

/// A handle of the console. All clones write to the same place.
#[derive(Debug, Clone)]
pub(crate) struct Console {
    sink: Arc<Mutex<Sink>>,
}

#[derive(Debug)]
enum Sink {
    /// `/dev/hvc0`. QEMU discards output while no program reads at the other end.
    Tty(File),
    /// The monitor's connection. Output is discarded while there is none.
    Socket(Option<UnixStream>),
}

impl Console {
    /// Writes to the guest's terminal.
    pub(crate) fn tty(file: File) -> Self {
        Self::new(Sink::Tty(file))
    }

    /// Writes to the newest client of `listener`. Only the first client gets `greeting`, even when it connects late:
    /// later clients are monitors that adopt the VM, and they dial without a greeting.
    pub(crate) fn socket(listener: UnixListener, greeting: Vec<u8>) -> Self {
        let console = Self::new(Sink::Socket(None));
        let shared = console.clone();
        std::thread::spawn(move || {
            let mut greeting = greeting;
            for mut client in listener.incoming().flatten() {
                if client.write_all(&std::mem::take(&mut greeting)).is_ok() {
                    *shared.lock() = Sink::Socket(Some(client));
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

    /// Writes as [`Console::write`] does, also from a thread that may be in the middle of a write: then nothing is
    /// written.
    pub(crate) fn write_in_need(&self, bytes: &[u8]) {
        const TRIES: u32 = 100;
        for _ in 0..TRIES {
            match self.sink.try_lock() {
                Ok(mut sink) => return sink.write(bytes),
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner().write(bytes),
                // Another thread writes, or this one does.
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Writes all of `bytes` and waits for a slow reader. Without a reader the bytes are discarded.
    pub(crate) fn write(&self, bytes: &[u8]) {
        self.lock().write(bytes);
    }
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) {
        match self {
            // A failure of the console cannot be reported, because the console is the only output.
            Self::Tty(file) => drop(file.write_all(bytes)),
            Self::Socket(client) => {
                if client.as_mut().is_some_and(|client| client.write_all(bytes).is_err()) {
                    *client = None;
                }
            }
        }
    }
}
