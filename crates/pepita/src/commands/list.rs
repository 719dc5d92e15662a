//! Calls that only look: list and wait.

use super::print;
use crate::cli::Format;
use crate::error::{About, Result, call_error};
use crate::ops::follow::follow;
use crate::reconcile;
use crate::rundir::RunDir;
use pepita_wire::record::{CallErrorKind, pretty};
use pepita_wire::{StatusRecord, VmId};
use std::time::Duration;

/// `pepita list`.
pub(super) fn list(run_dir: &RunDir, format: Format) -> Result<()> {
    // One that goes away while we look is not there.
    let all = run_dir.names()?.into_iter().filter_map(|name| reconcile::status(run_dir, &name).ok());
    let all: Vec<StatusRecord> = all.collect();
    match format {
        Format::Json => print(&pretty(&all)),
        Format::Name => all.iter().for_each(|status| print(&status.name)),
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
        print(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

fn row(status: &StatusRecord) -> [String; 7] {
    let uptime = humantime::format_duration(Duration::from_secs(status.uptime_ms / 1000)).to_string();
    let exit = status.exit.as_ref().map_or(String::new(), |record| match &record.daemon {
        Some(daemon) => format!("{} ({daemon})", record.exit),
        None => record.exit.to_string(),
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

/// `pepita wait`.
pub(super) fn wait(run_dir: &RunDir, name: &VmId, timeout: Option<Duration>) -> Result<()> {
    let status = follow(run_dir, name, timeout, |_| false)?;
    match &status.exit {
        Some(exit) => print(&pretty(exit)),
        None => {
            return Err(call_error(CallErrorKind::Internal, "it has ended without a record"))
                .about(name.as_str());
        }
    }
    Ok(())
}
