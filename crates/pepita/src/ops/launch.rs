//! Launches a VM: starts its monitor and waits for the monitor's word.

use crate::boot::Order;
use crate::cli::Run;
use crate::error::{About, Result, call_error, system};
use crate::monitor::starter::Answer;
use crate::ops::resolve::{ENV_CAP, plan};
use crate::rundir::RunDir;
use pepita_wire::record::CallErrorKind;
use pepita_wire::{StatusRecord, VmId};
use std::io::{Read, Write};
use std::process::{Command, Stdio};

/// Starts a VM; returns when its VMM runs.
pub fn launch(run_dir: &RunDir, name: &VmId, run: Run) -> Result<StatusRecord> {
    // Looked at first: a directory that no VM can have is not made.
    run_dir.checked_vm(name).about(name.as_str())?;
    run_dir.create()?;
    let plan = plan(run_dir, name, run).about(name.as_str())?;
    start_monitor(run_dir, &Order::Launch(Box::new(plan))).about(name.as_str())
}

/// Starts a monitor and waits for its word. It stays when we go.
pub fn start_monitor(run_dir: &RunDir, order: &Order) -> Result<StatusRecord> {
    let own = std::env::current_exe().map_err(|e| system("our own program", e))?;
    let mut child = Command::new(own)
        .arg("monitor")
        .arg(run_dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| call_error(CallErrorKind::TryAgain, format!("cannot start a monitor: {e}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        let order = serde_json::to_vec(order).expect("an order becomes JSON");
        stdin.write_all(&order).map_err(|e| system("the monitor", e))?;
    }
    let mut line = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        // Up to its end: the monitor closes it when it has answered.
        stdout.take(ENV_CAP).read_to_end(&mut line).map_err(|e| system("the monitor", e))?;
    }
    match serde_json::from_slice(&line) {
        Ok(Answer::Up(status)) => Ok(*status),
        Ok(Answer::Failed(e)) => {
            let _ = child.wait();
            Err(e)
        }
        Err(_) => {
            let how = child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
            Err(call_error(CallErrorKind::Internal, format!("the monitor ended without a word ({how})")))
        }
    }
}
