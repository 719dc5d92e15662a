//! Standard output and standard error of all programs of this package. A line that cannot be written, because its
//! reader is gone or a disk is full, is lost: it ends no supervisor. A command whose result cannot be written fails. The
//! macros `println!` and `eprintln!` panic then, and no other file uses them (`tests/architecture` checks that).
//!
//! A supervisor must not wait for the reader of its standard error either: once [`queue_errors`] was called, a thread of
//! its own writes there, and lines that this thread is too slow for are dropped and counted.

use rustix::event::{PollFd, PollFlags, poll};
use std::fmt::Display;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;
use tokio::sync::oneshot;

/// The maximum number of pieces of text that wait for the writing thread.
const QUEUED: usize = 512;

/// The queue of the writing thread, once it was started.
static QUEUE: OnceLock<Queue> = OnceLock::new();

struct Queue {
    sender: SyncSender<Job>,
    /// The number of pieces that were dropped since the thread could write last.
    dropped: AtomicU64,
}

enum Job {
    Write(Vec<u8>),
    /// All that was queued before is written.
    Written(SyncSender<()>),
}

/// Prints a line to standard output.
pub fn print(line: impl Display) {
    let _ = try_print(line);
}

/// Prints a line to standard output, and tells whether that was possible.
///
/// # Errors
/// Returns the error of the system, for example that the reader is gone.
pub fn try_print(line: impl Display) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush())
}

/// Writes bytes to standard output as they are, and tells whether that was possible.
///
/// # Errors
/// Returns the error of the system, for example that the reader is gone.
pub fn try_write(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush())
}

/// Returns whether colours are shown on standard output: on a terminal, unless the user wants none.
pub fn has_colours() -> bool {
    anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never
}

/// Returns the sentence about standard output that cannot be written. Returns `None` when its reader is gone: that is no
/// error, because the reader has seen what it wanted.
pub fn unwritable(error: &io::Error) -> Option<String> {
    (error.kind() != io::ErrorKind::BrokenPipe).then(|| format!("standard output: {error}"))
}

/// Waits until the reader of standard output is gone, or its terminal is. A file has no reader that could go.
pub async fn reader_gone() {
    let (gone, told) = oneshot::channel();
    // A thread of its own, which the end of the program does not wait for. Without a thread the next write tells.
    let watch = std::thread::Builder::new().name("stdout".into()).spawn(move || {
        if is_reader_gone() {
            let _ = gone.send(());
        }
    });
    drop(watch);
    if told.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits for an event of standard output, and returns whether its reader is gone. A pipe without a reader, and a terminal
/// that is closed, report themselves without being asked for anything.
fn is_reader_gone() -> bool {
    let stdout = io::stdout();
    loop {
        let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
        match poll(&mut fds, None) {
            Ok(_) => return fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Prints a line to standard error, by way of the thread that [`queue_errors`] has started, if it was called.
pub fn print_error(line: impl Display) {
    write_error(format!("{line}\n").into_bytes());
}

/// Starts the thread that writes to standard error from now on: no caller of this module waits for a reader any more.
/// Panics are told on the same way, because the standard hook would wait for the reader, too.
pub fn queue_errors(program: &'static str) {
    let (sender, jobs) = sync_channel(QUEUED);
    // Without a thread, text is written directly.
    let spawned = std::thread::Builder::new().name("stderr".into()).spawn(move || write_queued(&jobs));
    if spawned.is_ok() && QUEUE.set(Queue { sender, dropped: AtomicU64::new(0) }).is_ok() {
        std::panic::set_hook(Box::new(move |panic| print_error(format_args!("{program}: {panic}"))));
    }
}

/// Waits until all that was printed to standard error is written, at most for this time.
pub fn flush_errors(limit: Duration) {
    let Some(queue) = QUEUE.get() else { return };
    let (written, done) = sync_channel(1);
    if queue.sender.try_send(Job::Written(written)).is_ok() {
        // Without an answer in time the reader does not read.
        let _ = done.recv_timeout(limit);
    }
}

/// The writer of a log that goes to standard error. Each event is one write.
#[derive(Debug, Clone, Copy, Default)]
pub struct ErrorLog;

impl Write for ErrorLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_error(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_error(bytes: Vec<u8>) {
    let Some(queue) = QUEUE.get() else {
        let _ = anstream::stderr().lock().write_all(&bytes);
        return;
    };
    if queue.sender.try_send(Job::Write(bytes)).is_err() {
        queue.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

fn write_queued(jobs: &Receiver<Job>) {
    let mut stderr = anstream::stderr();
    for job in jobs {
        match job {
            Job::Write(bytes) => {
                let dropped = QUEUE.get().map_or(0, |queue| queue.dropped.swap(0, Ordering::Relaxed));
                if dropped > 0 {
                    let _ = writeln!(stderr, "({dropped} messages were dropped: nobody read this output)");
                }
                let _ = stderr.write_all(&bytes);
            }
            Job::Written(done) => drop(done.try_send(())),
        }
    }
}
