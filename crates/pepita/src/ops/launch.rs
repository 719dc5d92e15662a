//! Launches or adopts a VM: starts a monitor and waits for its answer.

use crate::boot::Order;
use crate::error::{About, Result, call_error, system};
use crate::host::{cgroup, inherited};
use crate::monitor::Answer;
use crate::ops::resolve::resolve;
use crate::reconcile;
use crate::rundir::RunDir;
use pepita_wire::record::CallErrorKind;
use pepita_wire::{LaunchSpec, StatusRecord, VmId};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The maximum size of a monitor's answer, in bytes.
const ANSWER_CAP: u64 = 1 << 20;

/// The number of attempts of an adoption while monitors start and end, and the pause between two attempts.
const ADOPT_TRIES: usize = 50;
const ADOPT_PAUSE: Duration = Duration::from_millis(20);

/// Starts the VM `name` as `spec` describes it. Returns its status when its VMM runs.
///
/// # Errors
/// When the request cannot be met. Nothing of the VM is left then.
pub(crate) fn launch(run_dir: &RunDir, name: &VmId, spec: LaunchSpec) -> Result<StatusRecord> {
    let launched = || {
        // The length of the path is checked first, so that no directory is created that no VM can use.
        run_dir.checked_vm(name)?;
        run_dir.create()?;
        let requested = resolve(run_dir, name, spec)?;
        start_monitor(run_dir, &Order::Launch(Box::new(requested)))
    };
    launched().about(name.as_str())
}

/// Gives a VM a new monitor when it has none. Returns the status of the VM.
///
/// # Errors
/// When there is no such VM, or its files cannot be read.
pub(crate) fn adopt(run_dir: &RunDir, name: &VmId) -> Result<StatusRecord> {
    for _ in 0..ADOPT_TRIES {
        let status = reconcile::status(run_dir, name)?;
        if let Some(why) = &status.unreadable {
            return Err(reconcile::unreadable(why)).about(name.as_str());
        }
        if status.monitor_pid.is_some() || status.state.is_terminal() {
            return Ok(status);
        }
        match start_monitor(run_dir, &Order::Adopt(name.clone())) {
            // Another adoption was faster, and its monitor watches the VM.
            Err(e) if e.kind == CallErrorKind::TryAgain => std::thread::sleep(ADOPT_PAUSE),
            result => return result.about(name.as_str()),
        }
    }
    Err(call_error(CallErrorKind::TryAgain, "its monitors come and go; try again")).about(name.as_str())
}

/// Starts a monitor and waits for its answer. The monitor outlives this process.
fn start_monitor(run_dir: &RunDir, order: &Order) -> Result<StatusRecord> {
    let own = std::env::current_exe().map_err(|e| system("our own program", e))?;
    let mut command = Command::new(own);
    inherited::clean_environment(&mut command);
    // The monitor makes the cgroup of the VM.
    command.envs(std::env::var_os(cgroup::ENVIRONMENT).map(|place| (cgroup::ENVIRONMENT, place)));
    let mut child = command
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
        // The output is read to its end: the monitor closes it when the answer is complete.
        stdout.take(ANSWER_CAP).read_to_end(&mut line).map_err(|e| system("the monitor", e))?;
    }
    match serde_json::from_slice(&line) {
        Ok(Answer::Up(status)) => Ok(*status),
        Ok(Answer::Failed(e)) => {
            let _ = child.wait();
            Err(e)
        }
        Err(_) => {
            let how = child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
            Err(call_error(CallErrorKind::Internal, format!("the monitor ended without an answer ({how})")))
        }
    }
}
