//! Takes a VM down and removes all traces of it.

use crate::client;
use crate::error::{Result, call_error};
use crate::host::process_id::ProcessId;
use crate::host::wait::wait_readable;
use crate::ops::follow::follow;
use crate::reconcile::{self, Unwatched};
use crate::rundir::files;
use crate::rundir::lock::{Lock, Wait};
use crate::rundir::{RunDir, layout};
use pepita_wire::record::CallErrorKind;
use pepita_wire::{MonitorRequest, Signal, VmId};
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

/// How a VM is taken down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Its daemon gets a signal and a time to end.
    Graceful {
        /// The signal for the daemon.
        signal: Signal,
        /// How long the daemon may take.
        timeout: Duration,
    },
    /// At once. A VM whose files cannot be read is taken down only so.
    Force,
}

/// How long after the end that was ordered the VM may take to be gone.
const SLACK: Duration = Duration::from_secs(10);

/// How long a monitor that has given its lock back may take to be gone.
const MONITOR_END: Duration = Duration::from_secs(1);

/// How often the lock is tried, and how long it is waited for each time.
const TRIES: usize = 100;
const LOCK_WAIT: Duration = Duration::from_millis(500);

/// Takes a VM down and removes all traces of it. Returns whether there was one.
///
/// # Errors
/// When it does not go, or its files cannot be read and the end is not forced.
pub(crate) fn destroy(run_dir: &RunDir, name: &VmId, how: How) -> Result<bool> {
    let dir = run_dir.vm(name);
    let monitor = monitor(&dir).and_then(|monitor| monitor.open());
    let destroyed = take_down(run_dir, name, how, &dir);
    if let (Ok(true), Some(monitor)) = (&destroyed, monitor) {
        // The monitor gives its lock back a moment before it is gone. Nothing of a VM is left when this returns.
        wait_readable(&monitor, MONITOR_END);
    }
    destroyed
}

fn take_down(run_dir: &RunDir, name: &VmId, how: How, dir: &Path) -> Result<bool> {
    for _ in 0..TRIES {
        if !dir.is_dir() {
            return Ok(false);
        }
        if !stop(run_dir, name, how, dir) {
            end_monitor(dir);
        }
        let lock = match Lock::take(&dir.join(layout::LOCK), Wait::No) {
            Ok(lock) => lock,
            Err(_) if !dir.is_dir() => return Ok(true),
            Err(e) => return Err(e),
        };
        let Some(_lock) = lock else {
            // A monitor begins or ends at this moment, or another destroy is at work.
            await_lock(dir);
            continue;
        };
        if let (How::Graceful { .. }, Unwatched::Unreadable { why, .. }) = (how, reconcile::find(dir)) {
            return Err(reconcile::unreadable(&why));
        }
        reconcile::discard(run_dir, dir)?;
        return Ok(true);
    }
    Err(call_error(CallErrorKind::TryAgain, "another process holds its run directory; try again"))
}

/// Has the monitor stop the VM and waits for the end. Returns `false` when there is a monitor that does not do it.
fn stop(run_dir: &RunDir, name: &VmId, how: How, dir: &Path) -> bool {
    let (request, limit) = match how {
        How::Graceful { signal, timeout } => {
            let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            (MonitorRequest::Stop { signal, timeout_ms, force: false }, timeout + SLACK)
        }
        How::Force => (MonitorRequest::Stop { signal: Signal::KILL, timeout_ms: 0, force: true }, SLACK),
    };
    match client::ask(dir, request) {
        Ok(_) => {
            let ended = follow(run_dir, name, Some(limit), |_| false);
            ended.err().is_none_or(|e| e.kind != CallErrorKind::Timeout)
        }
        // Without a monitor the connection is refused; one that does not answer lets it time out.
        Err(e) => !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

/// Ends a monitor that does not do what it is told.
fn end_monitor(dir: &Path) {
    if let Some(monitor) = monitor(dir) {
        monitor.end();
    }
}

/// Returns the monitor of a VM: the one that its state names, or else the process that listens on its control socket.
fn monitor(dir: &Path) -> Option<ProcessId> {
    files::state(dir).ok().and_then(|state| state.monitor).or_else(|| client::listener(dir))
}

/// Waits until the lock is free, for [`LOCK_WAIT`] at most.
fn await_lock(dir: &Path) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let path = dir.join(layout::LOCK);
    std::thread::spawn(move || {
        // Taken and given back: the next try takes it for good, or finds the directory gone.
        let taken = path.exists().then(|| Lock::take(&path, Wait::Yes));
        drop(taken);
        let _ = sender.send(());
    });
    let _ = receiver.recv_timeout(LOCK_WAIT);
}
