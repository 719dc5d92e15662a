//! What a VM is whose monitor is not there: ended, running unwatched, or gone while nobody looked.

use crate::client;
use crate::error::{Result, call_error};
use crate::host::cgroup::Limits;
use crate::host::clock::unix_ms;
use crate::host::strays;
use crate::monitor::evidence::{Evidence, judge};
use crate::rundir::RunDir;
use crate::rundir::cid;
use crate::rundir::files::{self, State, Sync};
use crate::rundir::layout;
use crate::rundir::lock::{Lock, Wait};
use crate::vm_config::VmConfig;
use crate::vmm::VmmEnd;
use pepita_wire::record::CallErrorKind;
use pepita_wire::{ExitRecord, StatusRecord, VmId, VmState};
use serde_json::json;
use std::path::Path;

/// What is known of a VM: its monitor's word, or what can be found out without one.
///
/// # Errors
/// [`CallErrorKind::NoSuchVm`] when there is none.
pub fn status(run_dir: &RunDir, name: &VmId) -> Result<StatusRecord> {
    let dir = run_dir.vm(name);
    // Between two tries a monitor may end, or a new one come.
    for _ in 0..20 {
        if !dir.is_dir() {
            break;
        }
        if let Ok(Ok(value)) = client::ask(&dir, "status", json!({}))
            && let Ok(status) = serde_json::from_value(value)
        {
            return Ok(status);
        }
        // A monitor that has written all of its last words need not be waited for.
        if let Some(state) =
            files::read::<State>(&dir.join(layout::STATE)).filter(|s| s.status.exit.is_some())
        {
            return Ok(ended(&dir, state));
        }
        match Lock::take(&dir.join(layout::LOCK), Wait::No) {
            Ok(Some(_lock)) => return without_monitor(run_dir, &dir),
            // Its monitor begins or ends at this moment.
            Ok(None) => std::thread::sleep(std::time::Duration::from_millis(10)),
            Err(_) if !dir.is_dir() => break,
            Err(e) => return Err(e),
        }
    }
    if Lock::is_held(&dir.join(layout::LOCK)) {
        return Ok(silent(&dir, name));
    }
    Err(no_such_vm(name))
}

/// The failure of every call about a VM that is not there.
pub fn no_such_vm(name: &VmId) -> crate::error::CallError {
    let why = format!("no VM {name}; `pepita list` shows those that there are");
    crate::error::CallError { name: Some(name.to_string()), ..call_error(CallErrorKind::NoSuchVm, why) }
}

/// Its monitor is there and does not answer: it is just starting, or stopped by somebody.
fn silent(dir: &Path, name: &VmId) -> StatusRecord {
    let state: State = files::read(&dir.join(layout::STATE)).unwrap_or_default();
    let status = state.status;
    StatusRecord { name: name.to_string(), state: VmState::Unknown, ..status }
}

/// The lock is ours, so nobody watches the VM.
fn without_monitor(run_dir: &RunDir, dir: &Path) -> Result<StatusRecord> {
    let Some(state) = files::read::<State>(&dir.join(layout::STATE)) else {
        // Its monitor died before the VM was there.
        let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        discard(run_dir, dir)?;
        return Err(call_error(CallErrorKind::NoSuchVm, format!("no VM {name}")));
    };
    if state.status.exit.is_some() {
        return Ok(ended(dir, state));
    }
    match state.vmm.as_ref().and_then(|vmm| vmm.open()) {
        Some(_) if files::exit_in(dir).is_none() => {
            let status = state.status;
            Ok(StatusRecord { state: VmState::Unknown, monitor_pid: None, ..status })
        }
        _ => Ok(write_off(run_dir, dir, state)),
    }
}

/// The status of a VM that has ended, with its record.
pub fn ended(dir: &Path, state: State) -> StatusRecord {
    let exit = files::exit_in(dir).or(state.status.exit.clone());
    let end = exit.as_ref().map_or(VmState::Failed, |record| VmState::after(&record.exit));
    StatusRecord { state: end, exit, monitor_pid: None, vmm_pid: None, vcpus: None, ..state.status }
}

/// Brings to its end what a monitor has not: the VM went after it, or it went in the middle of the end. The lock is ours.
pub fn write_off(run_dir: &RunDir, dir: &Path, state: State) -> StatusRecord {
    let exit = files::exit_in(dir).unwrap_or_else(|| {
        let _ = std::fs::remove_file(dir.join(layout::RESERVE));
        let evidence = Evidence { vmm: VmmEnd::Unseen, vmm_ran: true, ..Evidence::default() };
        let (verdict, evidence) = judge(&evidence);
        let exit = ExitRecord {
            name: state.status.name.clone(),
            incarnation: state.status.incarnation,
            exit: verdict,
            ended_at_ms: unix_ms(),
            evidence,
            ..ExitRecord::default()
        };
        // Without a disk the answer is the same, only found out each time anew.
        let _ = files::write(&dir.join(layout::EXIT), &exit, Sync::Yes);
        exit
    });
    sweep(run_dir, dir);
    for name in layout::TRANSIENT.into_iter().chain([layout::CONTROL]) {
        let _ = std::fs::remove_file(dir.join(name));
    }
    let generation = state.status.generation + 1;
    let status = StatusRecord { exit: Some(exit), generation, ..state.status.clone() };
    let status = ended(dir, State { status, ..state });
    let state = State { status: status.clone(), ..State::default() };
    let _ = files::write(&dir.join(layout::STATE), &state, Sync::No);
    status
}

/// Ends whatever still runs of a VM, and gives back what it held outside of its run directory. The lock is ours.
pub fn sweep(run_dir: &RunDir, dir: &Path) {
    let state: Option<State> = files::read(&dir.join(layout::STATE));
    let plan: Option<VmConfig> = files::read(&dir.join(layout::PLAN));
    // When the last thing a monitor does is done, nothing is left.
    let is_clean = state.as_ref().is_some_and(|state| state.status.exit.is_some() && state.backend.is_none());
    let state = state.unwrap_or_default();
    let known = [state.vmm, state.daemon, state.backend].into_iter().flatten();
    known.for_each(|process| process.end());
    if !is_clean {
        // Not all of them may have been written down.
        strays::end_strays(dir);
    }
    Limits::adopt(state.cgroup).remove();
    if let Some(cid) = plan.and_then(|plan| plan.cid) {
        release_cid(run_dir, cid);
    }
}

/// [`sweep`]s, and removes the run directory. The lock is ours.
///
/// # Errors
/// When it cannot be removed.
pub fn discard(run_dir: &RunDir, dir: &Path) -> Result<()> {
    sweep(run_dir, dir);
    crate::rundir::remove(dir)
}

/// Removes the claim of a CID, unless another VM has it by now.
fn release_cid(run_dir: &RunDir, cid: u32) {
    let path = cid::path(run_dir, cid);
    if path.exists()
        && let Ok(Some(_lock)) = Lock::take(&path, Wait::No)
    {
        let _ = std::fs::remove_file(&path);
    }
}
