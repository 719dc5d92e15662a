//! The writing side of a connection, shared by the threads that answer on it.

use crate::stream::Stream;
use pepita_wire::ToHost;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The time limit for a write to a client that does not read. After it the connection is closed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub(super) struct Writer {
    stream: Arc<Mutex<Stream>>,
    closed: Arc<AtomicBool>,
}

impl Writer {
    /// Returns the writing side of `stream`.
    ///
    /// # Errors
    /// When the stream cannot be set up or cloned.
    pub(super) fn new(stream: &Stream) -> io::Result<Self> {
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(Self { stream: Arc::new(Mutex::new(stream.try_clone()?)), closed: Arc::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Stream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a frame.
    pub(super) fn send(&self, frame: &ToHost) -> io::Result<()> {
        self.bytes(&frame.encode())
    }

    /// Makes a frame and writes it. No other thread writes in between, so what the making causes is told after the frame.
    pub(super) fn make_and_send(&self, make: impl FnOnce() -> ToHost) -> io::Result<()> {
        let mut stream = self.lock();
        let written = stream.write_all(&make().encode());
        self.note(written)
    }

    /// Writes raw bytes.
    pub(super) fn bytes(&self, bytes: &[u8]) -> io::Result<()> {
        let written = self.lock().write_all(bytes);
        self.note(written)
    }

    /// Marks the client as gone when a write has failed.
    fn note(&self, written: io::Result<()>) -> io::Result<()> {
        if written.is_err() {
            self.mark_closed();
        }
        written
    }

    /// Returns a descriptor of the connection for a process that writes to it directly. From then on there is no time
    /// limit for a slow reader.
    pub(super) fn raw(&self) -> io::Result<OwnedFd> {
        let stream = self.lock();
        stream.set_write_timeout(None)?;
        stream.as_fd().try_clone_to_owned()
    }

    /// Ends the connection.
    pub(super) fn shutdown(&self) {
        self.lock().shutdown();
    }

    /// Marks the client as gone, for threads that wait to write.
    pub(super) fn mark_closed(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}
