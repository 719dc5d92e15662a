//! Follows a VM through long polls of its monitor, and gives the VM a new monitor when its monitor has died.

use crate::client::Client;
use crate::error::{About, Result, call_error};
use crate::host::process_id::ProcessId;
use crate::host::wait::wait_readable;
use crate::ops::launch::adopt;
use crate::reconcile;
use crate::rundir::RunDir;
use pepita_wire::record::{CallErrorKind, Reach};
use pepita_wire::{StatusRecord, VmId};
use std::time::{Duration, Instant};

/// The time after which a monitor that does not answer is asked again.
const SILENCE: Duration = Duration::from_secs(1);

/// Follows a VM until `done` returns true or the VM has ended, also when the monitor changes. Returns the last status.
///
/// # Errors
/// [`CallErrorKind::Timeout`] after `timeout`; other kinds when there is no such VM, or its files cannot be read.
pub(crate) fn follow(
    run_dir: &RunDir,
    name: &VmId,
    timeout: Option<Duration>,
    mut done: impl FnMut(&StatusRecord) -> bool,
) -> Result<StatusRecord> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let left = || deadline.map(|at| at.saturating_duration_since(Instant::now()));
    let late = || call_error(CallErrorKind::Timeout, "it took too long");
    loop {
        if let Ok(mut client) = Client::open(&run_dir.vm(name)) {
            let mut since = 0;
            loop {
                if left().is_some_and(|left| left.is_zero()) {
                    return Err(late()).about(name.as_str());
                }
                match client.watch(since, left()) {
                    Ok(status) if done(&status) || status.state.is_terminal() => return Ok(status),
                    Ok(status) => since = status.revision,
                    Err(_) => break,
                }
            }
        }
        if left().is_some_and(|left| left.is_zero()) {
            return Err(late()).about(name.as_str());
        }
        let status = reconcile::status(run_dir, name)?;
        if done(&status) || status.state.is_terminal() {
            return Ok(status);
        }
        if let Some(why) = &status.unreadable {
            return Err(reconcile::unreadable(why)).about(name.as_str());
        }
        if status.reach == Reach::Silent {
            // The monitor cannot be asked, so its end is awaited, for a while at a time.
            let pause = left().map_or(SILENCE, |left| left.min(SILENCE));
            match status.monitor_pid.and_then(ProcessId::of).and_then(|monitor| monitor.open()) {
                Some(monitor) => drop(wait_readable(&monitor, pause)),
                None => std::thread::sleep(pause),
            }
        } else if status.monitor_pid.is_none() {
            // Only a monitor observes the end of a VM, so a VM without one is adopted.
            adopt(run_dir, name)?;
        }
    }
}

/// Waits until the agent of a VM answers.
///
/// # Errors
/// When the VM ends before its agent answers, and the errors of [`follow`].
pub(crate) fn ready(run_dir: &RunDir, name: &VmId, timeout: Duration) -> Result<StatusRecord> {
    let status = follow(run_dir, name, Some(timeout), |status| status.agent.ready)?;
    match &status.exit {
        Some(record) => {
            let why = record.evidence.join("; ");
            let message = format!("it ended before its agent was ready: {} ({why})", record.exit);
            Err(call_error(CallErrorKind::Io, message)).about(name.as_str())
        }
        None => Ok(status),
    }
}
