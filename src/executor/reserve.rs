//! Descriptors that are kept for calls of the launcher. When this process has no other descriptor left, VMs can still be
//! looked at, taken over and destroyed, one call at a time, and more at a time as soon as descriptors are free again: to
//! run out of descriptors is the trouble of this process, and must neither end a VM nor keep one from its end.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::convert::Infallible;
use std::fs::File;
use std::future::Future;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
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

/// The delay between two attempts to fill the reserve again while a call uses it. Many calls may wait for their turn.
const BETWEEN_RETURNS: Duration = Duration::from_millis(20);

static RESERVE: Mutex<Reserve> = Mutex::new(Reserve { files: Vec::new(), lent: false });

/// The right to borrow the reserve.
static TURN: AsyncMutex<()> = AsyncMutex::const_new(());

/// The descriptors that are kept. Whoever counts free descriptors holds the lock meanwhile, so that two that count at the
/// same time do not count each other's.
#[derive(Debug)]
struct Reserve {
    files: Vec<File>,
    /// Whether a call uses the reserve. The descriptors that seem to be free are then those of that call.
    lent: bool,
}

impl Reserve {
    /// Fills the reserve, as far as descriptors are free, and returns whether it is full.
    fn fill(&mut self) -> bool {
        while self.files.len() < KEPT && !self.lent {
            match File::open("/dev/null") {
                Ok(file) => self.files.push(file),
                Err(e) => return !is_exhausted(&e),
            }
        }
        !self.lent
    }
}

/// The descriptors of the reserve, while a call uses them. Dropping it fills the reserve again.
#[derive(Debug)]
pub(crate) struct Borrowed {
    _turn: AsyncMutexGuard<'static, ()>,
}

impl Borrowed {
    /// Waits until the reserve is full again although the call goes on: it has what it needs, and other descriptors have
    /// become free.
    async fn returned(self) {
        while !self.is_replaced() {
            tokio::time::sleep(BETWEEN_RETURNS).await;
        }
    }

    fn is_replaced(&self) -> bool {
        let mut reserve = reserve();
        reserve.lent = false;
        let is_full = reserve.fill();
        if !is_full {
            // What is free meanwhile is left to others, such as the control socket.
            reserve.files.clear();
            reserve.lent = true;
        }
        is_full
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let mut reserve = reserve();
        reserve.lent = false;
        reserve.fill();
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

/// Fills the reserve, as far as descriptors are free.
pub(super) fn fill() {
    reserve().fill();
}

fn reserve() -> MutexGuard<'static, Reserve> {
    RESERVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the turn, and makes the descriptors of the reserve free.
pub(crate) async fn borrow() -> Borrowed {
    let turn = TURN.lock().await;
    let mut reserve = reserve();
    reserve.lent = true;
    reserve.files.clear();
    Borrowed { _turn: turn }
}

/// Does work that has begun with the descriptors of the reserve, and lets the next call borrow the reserve as soon as it is
/// full again. Without that, calls would go on one by one however many descriptors have become free.
pub(crate) async fn beside<T>(borrowed: Option<Borrowed>, work: impl Future<Output = T>) -> T {
    let give_back = async {
        if let Some(borrowed) = borrowed {
            borrowed.returned().await;
        }
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        biased;
        done = work => done,
        never = give_back => match never {},
    }
}

/// Waits until enough descriptors are free for one more VM.
pub(super) async fn room() {
    while !is_free(ROOM) {
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
    let mut reserve = reserve();
    if !reserve.fill() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_look_for_free_descriptors_at_the_same_time_do_not_hinder_each_other() {
        let look = || (0..2000).all(|_| !is_short());
        let all_free = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(look)).collect();
            threads.into_iter().all(|thread| thread.join().expect("no panic"))
        });
        assert!(all_free, "descriptors are free, and one look found none");
    }
}
