//! Follows a VM through its monitor's long polls, and gives it a new monitor where it has none.

use crate::boot::Order;
use crate::client::Client;
use crate::error::{About, Result, call_error};
use crate::ops::launch::start_monitor;
use crate::reconcile;
use crate::rundir::RunDir;
use pepita_wire::record::CallErrorKind;
use pepita_wire::{StatusRecord, VmId};
use std::time::{Duration, Instant};

/// Follows a VM until `done` says so, or the time is over; through a change of monitors, too.
pub fn follow(
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
                    Ok(status) => since = status.generation,
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
        if status.monitor_pid.is_none() {
            // Nobody else will tell: a monitor is needed to see the end.
            adopt(run_dir, name)?;
        }
    }
}

/// Waits until its agent answers.
pub fn ready(run_dir: &RunDir, name: &VmId, timeout: std::time::Duration) -> Result<StatusRecord> {
    let status = follow(run_dir, name, Some(timeout), |status| status.agent.ready)?;
    match &status.exit {
        Some(exit) => {
            let why = exit.evidence.join("; ");
            Err(call_error(
                CallErrorKind::Io,
                format!("it ended before its agent was ready: {} ({why})", exit.exit),
            ))
            .about(name.as_str())
        }
        None => Ok(status),
    }
}

/// `pepita adopt`: a new monitor, if it needs one.
pub fn adopt(run_dir: &RunDir, name: &VmId) -> Result<StatusRecord> {
    for _ in 0..50 {
        let status = reconcile::status(run_dir, name)?;
        if status.monitor_pid.is_some() || status.state.is_terminal() {
            return Ok(status);
        }
        match start_monitor(run_dir, &Order::Adopt(name.to_string())) {
            // Somebody else was quicker.
            Err(e) if e.kind == CallErrorKind::TryAgain => {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            result => return result.about(name.as_str()),
        }
    }
    Err(call_error(CallErrorKind::TryAgain, "its monitors come and go; try again")).about(name.as_str())
}
