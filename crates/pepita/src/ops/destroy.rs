//! Takes a VM down and removes all traces of it.

use crate::client;
use crate::error::{Result, call_error};
use crate::host::process_id::ProcessId;
use crate::host::wait::wait_readable;
use crate::ops::follow::follow;
use crate::reconcile;
use crate::rundir::RunDir;
use crate::rundir::files::{self, State};
use crate::rundir::layout;
use crate::rundir::lock::{Lock, Wait};
use pepita_wire::record::CallErrorKind;
use pepita_wire::{Signal, VmId};
use serde_json::json;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

/// How.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// With a signal first.
    Graceful {
        /// This one.
        signal: Signal,
        /// Then it is ended.
        timeout: Duration,
    },
    /// At once.
    Force,
}

/// From the end that was ordered until it has to be there.
const SLACK: Duration = Duration::from_secs(10);

/// For a monitor that has given its lock back to be gone.
const LAST_BREATH: Duration = Duration::from_secs(1);

/// Destroys a VM; `false` when there was none.
pub fn destroy(run_dir: &RunDir, name: &VmId, how: How) -> Result<bool> {
    let dir = run_dir.vm(name);
    let monitor = monitor(&dir).and_then(|monitor| monitor.open());
    let destroyed = take_down(run_dir, name, how, &dir);
    if let (Ok(true), Some(monitor)) = (&destroyed, monitor) {
        // It gives its lock back a moment before it is gone: nothing of a VM is to be left when this returns.
        wait_readable(&monitor, LAST_BREATH);
    }
    destroyed
}

fn take_down(run_dir: &RunDir, name: &VmId, how: How, dir: &Path) -> Result<bool> {
    for _ in 0..100 {
        if !dir.is_dir() {
            return Ok(false);
        }
        let params = match how {
            How::Graceful { signal, timeout } => {
                let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                json!({ "signal": signal.number(), "timeout_ms": timeout_ms, "force": false })
            }
            How::Force => json!({ "force": true }),
        };
        let limit = match how {
            How::Graceful { timeout, .. } => timeout + SLACK,
            How::Force => SLACK,
        };
        // Without a monitor there is nobody to ask; with one, it is waited for.
        let heard = match client::ask(dir, "stop", params) {
            Ok(_) => {
                let ended = follow(run_dir, name, Some(limit), |_| false);
                ended.err().is_none_or(|e| e.kind != CallErrorKind::Timeout)
            }
            // It is there and does not answer.
            Err(e) => !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        };
        if !heard {
            end_monitor(dir);
        }
        let lock = match Lock::take(&dir.join(layout::LOCK), Wait::No) {
            Ok(lock) => lock,
            Err(_) if !dir.is_dir() => return Ok(true),
            Err(e) => return Err(e),
        };
        let Some(_lock) = lock else {
            // Its monitor begins or ends at this moment, or another destroy is at work.
            await_lock(dir);
            continue;
        };
        reconcile::discard(run_dir, dir)?;
        return Ok(true);
    }
    Err(call_error(CallErrorKind::TryAgain, "somebody else holds its run directory; try again"))
}

/// A monitor that does not do what it is told is no use.
fn end_monitor(dir: &Path) {
    if let Some(monitor) = monitor(dir) {
        monitor.end();
    }
}

fn monitor(dir: &Path) -> Option<ProcessId> {
    files::read::<State>(&dir.join(layout::STATE))?.monitor
}

/// Waits until a lock is free, but not for long.
fn await_lock(dir: &Path) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let path = dir.join(layout::LOCK);
    std::thread::spawn(move || {
        // Taken and given back: whoever loops next takes it for good, or finds the directory gone.
        let taken = path.exists().then(|| Lock::take(&path, Wait::Yes));
        drop(taken);
        let _ = sender.send(());
    });
    let _ = receiver.recv_timeout(Duration::from_millis(500));
}
