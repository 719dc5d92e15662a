//! Waits out a lack of descriptors, memory or threads. Such a lack says nothing about the process or the file that was asked for:
//! a read of `/proc` that fails so must not count as "there is no such process".

use rustix::io::Errno;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The time for which a call is repeated. The limit of one process, or of the host, is reached for moments only.
const LIMIT: Duration = Duration::from_secs(2);

/// The pause between two calls. The kernel has no event for a descriptor that became free.
const PAUSE: Duration = Duration::from_millis(10);

/// Makes a call again while it fails for a lack of descriptors, memory or threads, for two seconds at most.
///
/// # Errors
/// Returns the error of the last call.
pub fn patiently<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match call() {
            Err(e) if is_lack(&e) && Instant::now() < deadline => std::thread::sleep(PAUSE),
            done => return done,
        }
    }
}

/// Reads a file of `/proc`; an unreadable one reads as empty, because its process is gone or belongs to another user.
pub fn read(path: impl AsRef<Path>) -> Vec<u8> {
    patiently(|| std::fs::read(path.as_ref())).unwrap_or_default()
}

/// Reads a text of `/proc`, as [`read`] does.
pub fn read_text(path: impl AsRef<Path>) -> String {
    String::from_utf8_lossy(&read(path)).into_owned()
}

/// Starts a thread. (`std::thread::spawn` panics when the system refuses a thread.)
///
/// # Errors
/// When the system refuses a thread for two seconds; `work` is dropped then.
pub fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // An attempt that fails drops its closure, so the work itself is shared by all attempts.
    let work = Arc::new(Mutex::new(Some(work)));
    patiently(|| {
        let work = Arc::clone(&work);
        let run = move || {
            let work = work.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(work) = work {
                work();
            }
        };
        std::thread::Builder::new().spawn(run).map(drop)
    })
}

fn is_lack(error: &io::Error) -> bool {
    let lacks = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN];
    error.raw_os_error().is_some_and(|code| lacks.iter().any(|lack| lack.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_is_waited_out_and_another_error_is_not() {
        let mut left = 3;
        let answer = patiently(|| {
            left -= 1;
            if left > 0 { Err(Errno::MFILE.into()) } else { Ok("there") }
        });
        assert_eq!((answer.ok(), left), (Some("there"), 0));
        let mut calls = 0;
        let refused = patiently(|| {
            calls += 1;
            Err::<(), _>(Errno::NOENT.into())
        });
        assert_eq!((refused.map_err(|e| e.kind()), calls), (Err(io::ErrorKind::NotFound), 1));
    }
}
