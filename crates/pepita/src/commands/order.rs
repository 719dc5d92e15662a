//! The commands that a VM's monitor carries out, `pepita signal` and `pepita start`, and the one that gives it another,
//! `pepita adopt`.

use super::environment::environment;
use crate::cli::DaemonArgs;
use crate::client;
use crate::error::{About, CallError, Result, call_error};
use crate::ops::follow::follow;
use crate::ops::launch;
use crate::ops::resolve::check_start;
use crate::reconcile;
use crate::rundir::RunDir;
use pepita_wire::agent::Start;
use pepita_wire::frame::Outcome;
use pepita_wire::record::{CallErrorKind, Reach};
use pepita_wire::{Ask, ErrorKind, Exit, MonitorRequest, Signal, StatusRecord, VmId, WireError};
use std::io;
use std::time::Duration;

/// The time that a guest without a daemon has to end.
const END: Duration = Duration::from_secs(10);

/// Carries out `pepita signal`.
pub(super) fn signal(run_dir: &RunDir, name: &VmId, signal: Signal) -> Result<()> {
    order(run_dir, name, MonitorRequest::Signal(signal))
}

/// Carries out `pepita start`.
pub(super) fn start(run_dir: &RunDir, name: &VmId, daemon: &DaemonArgs) -> Result<()> {
    let start = Start { command: daemon.command.clone(), env: environment(daemon)?, ..Start::default() };
    check_start(&start).about(name.as_str())?;
    let request = MonitorRequest::Forward(Ask::Start(start));
    match client::ask(&run_dir.vm(name), request) {
        Ok(Err(refusal)) if refusal.kind == ErrorKind::Os => {
            Err(not_started(run_dir, name, refusal)).about(name.as_str())
        }
        answer => concluded(run_dir, name, answer),
    }
}

/// Returns why a daemon was not started. A guest whose daemon cannot be executed ends, and the agent's answer may be lost with
/// it; the record of the end tells the reason then.
fn not_started(run_dir: &RunDir, name: &VmId, refusal: WireError) -> CallError {
    let refused = client::refused(refusal);
    let exit = follow(run_dir, name, Some(END), |_| false).ok().and_then(|status| status.exit);
    match exit.map(|record| record.exit) {
        Some(exit @ Exit::NotExecutable { .. }) => call_error(refused.kind, exit.to_string()),
        Some(_) | None => refused,
    }
}

/// Asks a VM's monitor to do something.
fn order(run_dir: &RunDir, name: &VmId, request: MonitorRequest) -> Result<()> {
    concluded(run_dir, name, client::ask(&run_dir.vm(name), request))
}

/// Returns what a monitor's answer means for the caller.
fn concluded(run_dir: &RunDir, name: &VmId, answer: io::Result<Outcome>) -> Result<()> {
    let failed = match answer {
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
pub(super) fn silent(name: &VmId, monitor: Option<u32>) -> String {
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
