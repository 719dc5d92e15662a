//! Calls that only look: list and wait.

use super::say;
use crate::cli::Format;
use crate::client::Client;
use crate::failure::{About, Outcome, failure};
use crate::rundir::RunDir;
use crate::settle;
use pepita_wire::record::{CallErrorKind, pretty};
use pepita_wire::{StatusRecord, VmId};
use std::time::{Duration, Instant};

/// `pepita list`.
pub(super) fn list(run_dir: &RunDir, format: Format) -> Outcome<()> {
    // One that goes away while we look is not there.
    let all = run_dir.names()?.into_iter().filter_map(|name| settle::status(run_dir, &name).ok());
    let all: Vec<StatusRecord> = all.collect();
    match format {
        Format::Json => say(&pretty(&all)),
        Format::Name => all.iter().for_each(|status| say(&status.name)),
        Format::Table => table(&all),
    }
    Ok(())
}

fn table(all: &[StatusRecord]) {
    let head = ["NAME", "STATE", "CID", "VMM", "PID", "UPTIME", "EXIT"].map(str::to_owned);
    let rows: Vec<[String; 7]> = std::iter::once(head).chain(all.iter().map(row)).collect();
    let widths: Vec<usize> = (0..7).map(|c| rows.iter().map(|row| row[c].len()).max().unwrap_or(0)).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        say(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

fn row(status: &StatusRecord) -> [String; 7] {
    let uptime = humantime::format_duration(Duration::from_secs(status.uptime_ms / 1000)).to_string();
    let exit = status.exit.as_ref().map_or(String::new(), |exit| match &exit.guest {
        Some(guest) => format!("{} ({guest})", exit.reason),
        None => exit.reason.to_string(),
    });
    [
        status.name.clone(),
        status.state.to_string(),
        status.vsock.cid.to_string(),
        format!("{}/{}", status.vmm, status.accel),
        status.vmm_pid.map_or("-".to_owned(), |pid| pid.to_string()),
        uptime,
        exit,
    ]
}

/// Follows a VM until `done` says so, or the time is over; through a change of monitors, too.
pub(super) fn follow(
    run_dir: &RunDir,
    name: &VmId,
    timeout: Option<Duration>,
    mut done: impl FnMut(&StatusRecord) -> bool,
) -> Outcome<StatusRecord> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let left = || deadline.map(|at| at.saturating_duration_since(Instant::now()));
    let late = || failure(CallErrorKind::Timeout, "it took too long");
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
        let status = settle::status(run_dir, name)?;
        if done(&status) || status.state.is_terminal() {
            return Ok(status);
        }
        if status.monitor_pid.is_none() {
            // Nobody else will tell: a monitor is needed to see the end.
            super::launch::adopt(run_dir, name)?;
        }
    }
}

/// `pepita wait`.
pub(super) fn wait(run_dir: &RunDir, name: &VmId, timeout: Option<Duration>) -> Outcome<()> {
    let status = follow(run_dir, name, timeout, |_| false)?;
    match &status.exit {
        Some(exit) => say(&pretty(exit)),
        None => {
            return Err(failure(CallErrorKind::Internal, "it has ended without a record"))
                .about(name.as_str());
        }
    }
    Ok(())
}
