//! The commands that change nothing: `pepita list` and `pepita wait`.

use super::output::print;
use crate::cli::Format;
use crate::error::{About, Result, call_error};
use crate::ops::follow::follow;
use crate::reconcile;
use crate::rundir::RunDir;
use pepita_wire::record::{CallErrorKind, pretty};
use pepita_wire::{ExitRecord, StatusRecord, VmId};
use std::time::Duration;

/// Carries out `pepita list`.
pub(super) fn list(run_dir: &RunDir, format: Format) -> Result<()> {
    let all: Vec<StatusRecord> =
        run_dir.names()?.iter().filter_map(|name| status_of(run_dir, name)).collect();
    match format {
        Format::Json => print(&pretty(&all)),
        Format::Name => all.iter().for_each(|status| print(&status.name)),
        Format::Table => table(&all),
    }
    Ok(())
}

/// Returns the status of a VM; its state is `unknown` when the files of the VM cannot be read. Returns `None` for a VM
/// that was removed meanwhile.
fn status_of(run_dir: &RunDir, name: &VmId) -> Option<StatusRecord> {
    match reconcile::status(run_dir, name) {
        Ok(status) => Some(status),
        Err(e) if e.kind == CallErrorKind::NoSuchVm => None,
        Err(e) => {
            let unreadable = Some(e.message);
            Some(StatusRecord { name: name.to_string(), unreadable, ..StatusRecord::default() })
        }
    }
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
    let exit = match (&status.exit, &status.unreadable) {
        (Some(ExitRecord { exit, daemon: Some(daemon), .. }), _) => format!("{exit} ({daemon})"),
        (Some(ExitRecord { exit, daemon: None, .. }), _) => exit.to_string(),
        (None, Some(why)) => format!("unreadable: {why}"),
        (None, None) => String::new(),
    };
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

/// Carries out `pepita wait`.
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
