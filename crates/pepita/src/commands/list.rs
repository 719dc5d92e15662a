//! The commands that change nothing: `pepita list` and `pepita wait`.

use super::output::print;
use crate::cli::Format;
use crate::error::{About, Result, call_error};
use crate::ops::follow::follow;
use crate::reconcile;
use crate::rundir::RunDir;
use pepita_wire::record::{CallErrorKind, Reach, pretty};
use pepita_wire::{ExitRecord, StatusRecord, VmId};
use std::time::Duration;

/// Carries out `pepita list`.
pub(super) fn list(run_dir: &RunDir, format: Format) -> Result<()> {
    let all = records(run_dir)?;
    print(&match format {
        Format::Json => pretty(&all),
        Format::Name => all.iter().map(|status| format!("{}\n", status.name)).collect(),
        Format::Table => table(&all),
    })
}

/// Returns the status of each VM, sorted by name, also of those that an earlier version has put elsewhere.
fn records(run_dir: &RunDir) -> Result<Vec<StatusRecord>> {
    let mut all = records_in(run_dir)?;
    for former in run_dir.former() {
        let elsewhere = records_in(&former)?;
        all.extend(elsewhere.into_iter().filter(|status| {
            VmId::new(&status.name).is_ok_and(|name| run_dir.holding(&name).path() == former.path())
        }));
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

fn records_in(run_dir: &RunDir) -> Result<Vec<StatusRecord>> {
    // The processes are looked for first: a VM that starts meanwhile is found by its directory.
    let vanished = reconcile::vanished_names(run_dir);
    let mut names = run_dir.names()?;
    names.extend(vanished);
    names.sort();
    names.dedup();
    let statuses = reconcile::statuses(run_dir, &names);
    Ok(names.iter().zip(statuses).filter_map(|(name, status)| listed(name, status)).collect())
}

/// Returns the record for a list; its state is `unknown` when the files of the VM cannot be read. Returns `None` for a
/// VM that was removed meanwhile.
fn listed(name: &VmId, status: Result<StatusRecord>) -> Option<StatusRecord> {
    match status {
        Ok(status) => Some(status),
        Err(e) if e.kind == CallErrorKind::NoSuchVm => None,
        Err(e) => {
            let unreadable = Some(e.message);
            Some(StatusRecord { name: name.to_string(), unreadable, ..StatusRecord::default() })
        }
    }
}

fn table(all: &[StatusRecord]) -> String {
    let head = ["NAME", "STATE", "CID", "VMM", "PID", "UPTIME", "EXIT"].map(str::to_owned);
    let rows: Vec<[String; 7]> = std::iter::once(head).chain(all.iter().map(row)).collect();
    let widths: Vec<usize> = (0..7).map(|c| rows.iter().map(|row| row[c].len()).max().unwrap_or(0)).collect();
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn row(status: &StatusRecord) -> [String; 7] {
    let uptime = humantime::format_duration(Duration::from_secs(status.uptime_ms / 1000)).to_string();
    let exit = match (&status.exit, &status.unreadable, status.reach) {
        (Some(ExitRecord { exit, daemon: Some(daemon), .. }), ..) => format!("{exit} ({daemon})"),
        (Some(ExitRecord { exit, daemon: None, .. }), ..) => exit.to_string(),
        (None, Some(why), Reach::Vanished) => format!("vanished: {why}"),
        (None, Some(why), Reach::Usual | Reach::Silent) => format!("unreadable: {why}"),
        (None, None, Reach::Silent) => "its monitor does not answer".to_owned(),
        (None, None, Reach::Usual | Reach::Vanished) => String::new(),
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
            Err(call_error(CallErrorKind::Internal, "it has ended without a record")).about(name.as_str())
        }
    }
}
