//! Descriptors that are kept for calls of the launcher. When this process has no other descriptor left, VMs can still be
//! looked at, taken over and destroyed, one call at a time: to run out of descriptors is the trouble of this process, and
//! must neither end a VM nor keep one from its end.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::File;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard};

/// The number of descriptors that the start of a program takes: three pipes, the pipe by which a failed exec is told,
/// and the descriptor of the process, with some left for what is opened meanwhile.
const KEPT: usize = 12;

/// The number of descriptors that must be free before a VM is launched: the call, the connections to the monitor and to
/// the guest, and the reserve of others.
const ROOM: usize = 20;

/// The number of descriptors that must be free before a connection to a monitor or a guest is made: the connection takes
/// two of them, and the others are left to clients of the control socket.
const BESIDE_CONNECTIONS: usize = 5;

/// The delay between two looks for free descriptors. No event tells that a descriptor is free.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

static RESERVE: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// The right to use the reserve.
static TURN: AsyncMutex<()> = AsyncMutex::const_new(());

/// The descriptors of the reserve, while a call uses them. Dropping it fills the reserve again.
#[derive(Debug)]
pub(crate) struct Borrowed {
    _turn: AsyncMutexGuard<'static, ()>,
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        fill();
    }
}

/// Raises the soft limit of open files to the hard one, and returns the limit that holds then.
pub(crate) fn raise_file_limit() -> io::Result<Option<u64>> {
    let limits = getrlimit(Resource::Nofile);
    if limits.current != limits.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, maximum: limits.maximum })?;
    }
    Ok(limits.maximum)
}

/// Fills the reserve, as far as descriptors are free, and returns whether it is full.
pub(super) fn fill() -> bool {
    let mut reserve = RESERVE.lock().unwrap_or_else(PoisonError::into_inner);
    while reserve.len() < KEPT {
        match File::open("/dev/null") {
            Ok(file) => reserve.push(file),
            Err(e) => return !is_exhausted(&e),
        }
    }
    true
}

/// Waits for the turn, and makes the descriptors of the reserve free.
pub(crate) async fn borrow() -> Borrowed {
    let turn = TURN.lock().await;
    RESERVE.lock().unwrap_or_else(PoisonError::into_inner).clear();
    Borrowed { _turn: turn }
}

/// Waits until enough descriptors are free for one more VM.
pub(super) async fn room() {
    let mut waited = false;
    while !is_free(ROOM) {
        if !std::mem::replace(&mut waited, true) {
            tracing::warn!("no file descriptor is free: a launch waits until one is");
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// Refuses a connection that would take a descriptor of the reserve, or the last one for a client of the control socket:
/// the connection is made later.
///
/// # Errors
/// Returns the error of a process that has no descriptor left.
pub(crate) fn spare() -> io::Result<()> {
    if is_free(BESIDE_CONNECTIONS) { Ok(()) } else { Err(rustix::io::Errno::MFILE.into()) }
}

/// Returns whether connections to monitors and guests cannot be made for lack of descriptors.
pub(crate) fn is_short() -> bool {
    !is_free(BESIDE_CONNECTIONS)
}

/// Returns whether this number of descriptors is free beside the reserve.
fn is_free(number: usize) -> bool {
    // While a call uses the reserve, the descriptors that seem to be free are those of that call.
    let Ok(_turn) = TURN.try_lock() else { return false };
    if !fill() {
        return false;
    }
    let files: Vec<io::Result<File>> = (0..number).map(|_| File::open("/dev/null")).collect();
    // Another error has another reason, which the call or the connection will tell.
    !files.iter().any(|file| file.as_ref().is_err_and(is_exhausted))
}

/// Returns whether an error says that this process, or the system, has no descriptor left.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    matches!(errno, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
}
