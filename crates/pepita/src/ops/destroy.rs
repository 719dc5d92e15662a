//! Ends a VM and removes all traces of it. What is kept of the ends of a VM that a supervisor has launched stays: the
//! supervisor calls this between two incarnations (semantics 10.8).

use crate::client::{self, Client};
use crate::error::{Result, call_error};
use crate::host::patience;
use crate::host::process_id::ProcessId;
use crate::host::strays::{self, Member};
use crate::host::wait::wait_readable;
use crate::ops::follow::follow;
use crate::ops::launch::adopt;
use crate::reconcile::{self, Unwatched};
use crate::rundir::files;
use crate::rundir::lock::{Lock, VmLock, Wait};
use crate::rundir::{self, RunDir, ends, layout, promoted};
use crate::vm_config::Carried;
use pepita_wire::monitor::REQUEST_PATIENCE;
use pepita_wire::record::CallErrorKind;
use pepita_wire::{MonitorRequest, Signal, StatusRecord, VmId};
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

/// The way in which a VM is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// The daemon gets a signal and a time in which to end.
    Graceful {
        /// The signal for the daemon; `None` for the stop signal of the VM's image, else TERM.
        signal: Option<Signal>,
        /// The time limit for the daemon to end.
        timeout: Duration,
    },
    /// The VM is ended at once. A VM whose files cannot be read is ended only in this way.
    Force,
}

/// The time limit for a VM to be gone after its ordered end.
const SLACK: Duration = Duration::from_secs(10);

/// The time limit for a monitor to be gone after it has released its lock.
const MONITOR_END: Duration = Duration::from_secs(1);

/// The number of attempts to take the lock, and the time limit of each wait for it.
const TRIES: usize = 100;
const LOCK_WAIT: Duration = Duration::from_millis(500);

/// The number of attempts after which a monitor that holds the lock, and cannot be reached, counts as one without a
/// socket.
const ROUNDS_UNREACHABLE: usize = 4;

/// The order to end a VM at once.
const KILL: MonitorRequest =
    MonitorRequest::Stop { signal: Signal::KILL, timeout_ms: 0, force: true, if_idle: false };

/// The number of monitors that are given the order of [`kill`], one after the other.
const KILL_TRIES: usize = 3;

/// Ends a VM and removes all traces of it. Returns whether there was such a VM.
///
/// # Errors
/// When the VM does not end, or its files cannot be read and the end is not forced.
pub(crate) fn destroy(run_dir: &RunDir, name: &VmId, how: How) -> Result<bool> {
    let dir = run_dir.vm(name);
    let monitor = monitor(&dir).and_then(|monitor| monitor.open());
    let destroyed = take_down(run_dir, name, how, &dir);
    if let (Ok(true), Some(monitor)) = (&destroyed, monitor) {
        // The monitor releases its lock shortly before its process is gone. No process of the VM may be left when this
        // function returns, so the end of the monitor is awaited.
        wait_readable(&monitor, MONITOR_END);
    }
    destroyed
}

fn take_down(run_dir: &RunDir, name: &VmId, how: How, dir: &Path) -> Result<bool> {
    // The processes of a VM that was promoted name the directory that is lent to it.
    if promoted::is_lent(dir) {
        return Ok(false);
    }
    // The VM that was ordered to end first. Another one that takes the name meanwhile is not the one to end.
    let mut ordered = None;
    for round in 0..TRIES {
        if !is_there(dir) {
            if round > 0 {
                return Ok(true);
            }
            let mut members = strays::members(dir);
            if let How::Graceful { .. } = how
                && !is_there(dir)
            {
                // The monitor of a VM that another call has just removed may still be on its way out.
                members = strays::settled_members(dir);
            }
            // A launch that goes on at the same time may have made the directory after the first look.
            if !is_there(dir) {
                return end_vanished(dir, how, &members);
            }
        }
        match stop(run_dir, name, how, dir, &mut ordered) {
            Obeyed::Yes => {}
            Obeyed::Replaced => return Ok(true),
            Obeyed::No => end_monitor(dir),
            // A monitor that starts has no socket yet, and one that ends has none any more.
            Obeyed::Unreachable if round < ROUNDS_UNREACHABLE => {}
            Obeyed::Unreachable => end_unreachable(dir, how)?,
        }
        let _lock = match Lock::take_of_vm(dir)? {
            VmLock::Taken(lock) => lock,
            VmLock::Absent => return Ok(true),
            VmLock::Held => {
                // A monitor is starting or ending, or another process is destroying the VM.
                await_lock(dir);
                continue;
            }
        };
        if let How::Graceful { .. } = how {
            match reconcile::find(dir) {
                Unwatched::Unreadable { why, .. } => return Err(reconcile::unreadable(&why)),
                Unwatched::Unlocked { monitor, .. } => {
                    return Err(reconcile::unreadable(&reconcile::unlocked(dir, &monitor)));
                }
                Unwatched::NotStarted if strays::members(dir).iter().any(Member::watches) => {
                    let why = format!("{}: its files were removed while the VM runs", dir.display());
                    return Err(reconcile::unreadable(&why));
                }
                Unwatched::NotStarted | Unwatched::Ended(_) | Unwatched::Gone(_) | Unwatched::Runs { .. } => {
                }
            }
        }
        reconcile::discard(run_dir, dir)?;
        return Ok(true);
    }
    Err(call_error(CallErrorKind::TryAgain, "another process holds its run directory; try again"))
}

/// Returns whether a directory is the run directory of a VM.
fn is_there(dir: &Path) -> bool {
    dir.is_dir() && !rundir::is_foreign(dir)
}

/// Ends the VM whose run directory is gone, with these processes. Returns whether there was one.
fn end_vanished(dir: &Path, how: How, members: &[Member]) -> Result<bool> {
    if members.is_empty() {
        return Ok(false);
    }
    match how {
        How::Force => {
            let carried = members.iter().find_map(|member| Carried::of_json(member.record.as_deref()?));
            strays::end_members(dir);
            if carried.is_some_and(|carried| !carried.is_supervised()) {
                ends::forget(dir);
            }
        }
        How::Graceful { .. } => {
            let why = format!("{}: was removed while the VM runs", dir.display());
            return Err(reconcile::unreadable(&why));
        }
    }
    Ok(true)
}

/// Ends a VM whose monitor holds the lock, and has lost its control socket. The monitor releases the lock at its end.
fn end_unreachable(dir: &Path, how: How) -> Result<()> {
    if !Lock::is_held(&dir.join(layout::LOCK)) {
        return Ok(());
    }
    match how {
        How::Force => strays::end_members(dir),
        // Without a state the VM is still starting.
        How::Graceful { .. } if monitor(dir).is_none_or(|monitor| monitor.open().is_none()) => {}
        How::Graceful { .. } => {
            let why = format!("{}: was removed while the VM runs", dir.join(layout::CONTROL).display());
            return Err(reconcile::unreadable(&why));
        }
    }
    Ok(())
}

/// The effect of a request to a monitor to stop its VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obeyed {
    /// The VM has ended.
    Yes,
    /// The VM that was ordered to end has ended, and another one has its name.
    Replaced,
    /// There is a monitor that does not obey.
    No,
    /// There is no monitor, or its control socket is missing.
    Unreachable,
}

/// Orders the end of a VM at once, and leaves its files and its record. A monitor that does not answer is ended, and a
/// new one carries the order out.
///
/// # Errors
/// When no monitor of the VM takes the order.
pub(crate) fn kill(run_dir: &RunDir, name: &VmId) -> Result<()> {
    let dir = run_dir.vm(name);
    for _ in 0..KILL_TRIES {
        match client::ask(&dir, KILL) {
            Ok(_) => return Ok(()),
            Err(e) if is_silence(&e) => end_monitor(&dir),
            // Without a monitor the connection is refused.
            Err(_) => {}
        }
        if adopt(run_dir, name)?.state.is_terminal() {
            return Ok(());
        }
    }
    Err(call_error(CallErrorKind::TryAgain, "none of its monitors takes the order to end it; try again"))
}

/// Returns whether a monitor that exists has not answered: the call has timed out.
fn is_silence(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Asks the monitor to stop the VM and waits for the end.
///
/// `ordered` is the status of the VM that was ordered to end, once one was.
fn stop(run_dir: &RunDir, name: &VmId, how: How, dir: &Path, ordered: &mut Option<StatusRecord>) -> Obeyed {
    let (request, limit) = match how {
        How::Graceful { signal, timeout } => {
            let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            let signal = signal.unwrap_or_else(|| stop_signal(dir));
            (MonitorRequest::Stop { signal, timeout_ms, force: false, if_idle: false }, timeout + SLACK)
        }
        How::Force => (KILL, SLACK),
    };
    match order(dir, request, ordered) {
        Ok(true) => {}
        Ok(false) => return Obeyed::Replaced,
        Err(e) if is_silence(&e) => return Obeyed::No,
        // Without a monitor the connection is refused.
        Err(_) => return Obeyed::Unreachable,
    }
    let is_other = |now: &StatusRecord| ordered.as_ref().is_some_and(|then| are_two(then, now));
    loop {
        match follow(run_dir, name, Some(limit), is_other) {
            // A daemon may have asked for more time (semantics 7.14).
            Err(e) if e.kind == CallErrorKind::Timeout => {
                if matches!(how, How::Force) || !has_grace(dir) {
                    return Obeyed::No;
                }
            }
            Ok(status) if is_other(&status) => return Obeyed::Replaced,
            Ok(_) | Err(_) => return Obeyed::Yes,
        }
    }
}

/// Gives an order to the monitor of a VM, and notes the status of the VM from just before, over the same connection. Returns
/// `false`, and gives no order, when another VM than the noted one has the name now.
fn order(dir: &Path, order: MonitorRequest, noted: &mut Option<StatusRecord>) -> std::io::Result<bool> {
    let mut client = Client::open(dir)?;
    let status = client.ask(MonitorRequest::Status, Some(REQUEST_PATIENCE))?;
    let status = status.ok().and_then(|status| serde_json::from_value::<StatusRecord>(status).ok());
    match (noted.as_ref(), status) {
        (Some(then), Some(now)) if are_two(then, &now) => return Ok(false),
        (None, now) => *noted = now,
        (Some(_), _) => {}
    }
    let _taken = client.ask(order, Some(REQUEST_PATIENCE))?;
    Ok(true)
}

/// Returns whether two statuses under one name are of two VMs that run. A VM keeps the process of its VMM when another monitor
/// adopts it, and the time of its start changes when it is promoted. A status that was made without the VM's files has no
/// process, and proves nothing.
fn are_two(then: &StatusRecord, now: &StatusRecord) -> bool {
    let processes = then.vmm_pid.zip(now.vmm_pid);
    processes.is_some_and(|(then, now)| then != now) && then.started_at != now.started_at
}

/// Returns the signal that asks the daemon of a VM to end: the stop signal of its image, else TERM.
pub(crate) fn stop_signal(dir: &Path) -> Signal {
    let image = files::state(dir).ok().and_then(|state| state.status.image);
    image.and_then(|image| image.stop_signal).unwrap_or(Signal::TERM)
}

/// Returns whether a monitor answers and says that the daemon's grace is not over.
fn has_grace(dir: &Path) -> bool {
    let status = client::ask(dir, MonitorRequest::Status)
        .ok()
        .and_then(|answer| serde_json::from_value::<StatusRecord>(answer.ok()?).ok());
    status.is_some_and(|status| status.grace_left_ms.is_some_and(|left| left > 0))
}

/// Kills a monitor that does not obey.
fn end_monitor(dir: &Path) {
    if let Some(monitor) = monitor(dir) {
        monitor.end();
    }
}

/// Returns the monitor of a VM: the process that the VM's state names, else the process that listens on its control
/// socket.
fn monitor(dir: &Path) -> Option<ProcessId> {
    files::state(dir).ok().and_then(|state| state.monitor).or_else(|| client::listener(dir))
}

/// Waits until the lock is free, for [`LOCK_WAIT`] at most.
fn await_lock(dir: &Path) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let path = dir.join(layout::LOCK);
    // Without a thread the next attempt comes at once.
    let _ = patience::spawn(move || {
        // The lock is taken and released at once. The next attempt takes it for good, or finds that the directory is
        // gone.
        let taken = path.exists().then(|| Lock::take(&path, Wait::Yes));
        drop(taken);
        let _ = sender.send(());
    });
    let _ = receiver.recv_timeout(LOCK_WAIT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_vm_under_the_name_has_another_process_and_another_start() {
        let status = |started_at, vmm_pid| StatusRecord { started_at, vmm_pid, ..StatusRecord::default() };
        let then = status(5, Some(7));
        assert!(are_two(&then, &status(6, Some(8))));
        assert!(!are_two(&then, &status(5, Some(7))), "watched by another monitor");
        assert!(!are_two(&then, &status(6, Some(7))), "promoted");
        assert!(!are_two(&then, &status(6, None)), "ended after a promotion");
        assert!(!are_two(&then, &StatusRecord::default()), "without files");
    }
}
