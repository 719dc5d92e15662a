//! The commands that a VM's monitor carries out, `pepita signal` and `pepita start`, and the one that gives it another,
//! `pepita adopt`.

use super::environment::environment;
use crate::cli::DaemonArgs;
use crate::client;
use crate::error::{About, Result, call_error};
use crate::ops::launch;
use crate::ops::resolve::check_start;
use crate::reconcile;
use crate::rundir::RunDir;
use pepita_wire::agent::Start;
use pepita_wire::record::{CallErrorKind, Reach};
use pepita_wire::{Ask, MonitorRequest, Signal, StatusRecord, VmId};
use std::io;

/// Carries out `pepita signal`.
pub(super) fn signal(run_dir: &RunDir, name: &VmId, signal: Signal) -> Result<()> {
    order(run_dir, name, MonitorRequest::Signal(signal))
}

/// Carries out `pepita start`.
pub(super) fn start(run_dir: &RunDir, name: &VmId, daemon: &DaemonArgs) -> Result<()> {
    let start = Start { command: daemon.command.clone(), env: environment(daemon)?, ..Start::default() };
    check_start(&start).about(name.as_str())?;
    order(run_dir, name, MonitorRequest::Forward(Ask::Start(start)))
}

/// Asks a VM's monitor to do something.
fn order(run_dir: &RunDir, name: &VmId, request: MonitorRequest) -> Result<()> {
    let failed = match client::ask(&run_dir.vm(name), request) {
        Ok(answer) => return client::accepted(answer).map(drop).about(name.as_str()),
        Err(e) => e,
    };
    // The reason why there is no monitor is a better message than the failed connection.
    let status = reconcile::status(run_dir, name)?;
    let why = match status.state.is_terminal() {
        true => call_error(CallErrorKind::NoSuchVm, format!("VM {name} has ended ({})", status.state)),
        false => call_error(CallErrorKind::TryAgain, unanswered(name, &status, &failed)),
    };
    Err(why).about(name.as_str())
}

/// Carries out `pepita adopt`. Returns the status of the VM.
pub(super) fn adopt(run_dir: &RunDir, name: &VmId) -> Result<StatusRecord> {
    let status = launch::adopt_settled(run_dir, name)?;
    match status.reach {
        // There is a monitor, and nobody can tell whether it will ever serve.
        Reach::Silent => {
            let why = silent(name, status.monitor_pid);
            Err(call_error(CallErrorKind::TryAgain, why)).about(name.as_str())
        }
        Reach::Usual | Reach::Vanished => Ok(status),
    }
}

/// Returns the sentence about a VM whose monitor exists and does not answer.
fn silent(name: &VmId, monitor: Option<u32>) -> String {
    match monitor {
        Some(pid) => format!(
            "its monitor (pid {pid}) does not answer: it is stopped (`kill -CONT {pid}`), or it hangs; \
             `pepita destroy --force --name {name}` ends both"
        ),
        None => "its monitor does not answer: it is starting or ending; try again".to_owned(),
    }
}

/// Returns the sentence about a VM whose monitor has not answered.
fn unanswered(name: &VmId, status: &StatusRecord, failed: &io::Error) -> String {
    match (status.reach, status.monitor_pid) {
        (Reach::Silent, Some(pid)) => silent(name, Some(pid)),
        _ => {
            format!("its monitor does not answer ({failed}); `pepita adopt --name {name}` gives it a new one")
        }
    }
}
