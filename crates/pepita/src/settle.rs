//! What a VM is whose monitor is not there: ended, running unwatched, or gone while nobody looked.

use crate::cid;
use crate::client;
use crate::failure::{Outcome, failure};
use crate::monitor::evidence::{Evidence, VmmEnd, judge};
use crate::monitor::unix_ms;
use crate::names;
use crate::record::{self, State, Sync};
use crate::rundir::{Lock, RunDir, Wait};
use pepita_wire::record::CallErrorKind;
use pepita_wire::{ExitRecord, StatusRecord, VmId, VmState, rundir};
use serde_json::json;
use std::path::Path;

/// What is known of a VM: its monitor's word, or what can be found out without one.
///
/// # Errors
/// [`CallErrorKind::NoSuchVm`] when there is none.
pub fn status(run_dir: &RunDir, name: &VmId) -> Outcome<StatusRecord> {
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
        match Lock::take(&dir.join(names::LOCK), Wait::No) {
            Ok(Some(_lock)) => return without_monitor(run_dir, &dir),
            // Its monitor begins or ends at this moment.
            Ok(None) => std::thread::sleep(std::time::Duration::from_millis(10)),
            Err(_) if !dir.is_dir() => break,
            Err(e) => return Err(e),
        }
    }
    if Lock::is_held(&dir.join(names::LOCK)) {
        return Ok(silent(&dir, name));
    }
    Err(no_such_vm(name))
}

/// The failure of every call about a VM that is not there.
pub fn no_such_vm(name: &VmId) -> crate::failure::Failure {
    let why = format!("no VM {name}; `pepita list` shows those that there are");
    crate::failure::Failure { name: Some(name.to_string()), ..failure(CallErrorKind::NoSuchVm, why) }
}

/// Its monitor is there and does not answer: it is just starting, or stopped by somebody.
fn silent(dir: &Path, name: &VmId) -> StatusRecord {
    let state: State = record::read(&dir.join(names::STATE)).unwrap_or_default();
    let status = state.status;
    StatusRecord { name: name.to_string(), state: VmState::Unknown, ..status }
}

/// The lock is ours, so nobody watches the VM.
fn without_monitor(run_dir: &RunDir, dir: &Path) -> Outcome<StatusRecord> {
    let name = || dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let Some(state) = record::read::<State>(&dir.join(names::STATE)) else {
        let _ = std::fs::remove_dir_all(dir);
        return Err(failure(CallErrorKind::NoSuchVm, format!("no VM {}", name())));
    };
    if state.status.exit.is_some() || record::exit_in(dir).is_some() {
        return Ok(ended(dir, state));
    }
    match state.vmm.as_ref().and_then(|vmm| vmm.open()) {
        Some(_) => {
            let status = state.status;
            Ok(StatusRecord { state: VmState::Unknown, monitor_pid: None, ..status })
        }
        None => Ok(write_off(run_dir, dir, state)),
    }
}

/// The status of a VM that has ended, with its record.
pub fn ended(dir: &Path, state: State) -> StatusRecord {
    let exit = record::exit_in(dir).or(state.status.exit.clone());
    let reason = exit.as_ref().map(|exit| exit.reason).unwrap_or_default();
    use pepita_wire::ExitReason::{Completed, Killed, StopRequested};
    let end =
        if matches!(reason, Completed | Killed | StopRequested) { VmState::Stopped } else { VmState::Failed };
    StatusRecord { state: end, exit, monitor_pid: None, vmm_pid: None, vcpus: None, ..state.status }
}

/// Writes the record of a VM that is gone, and whose monitor was gone before it.
pub fn write_off(run_dir: &RunDir, dir: &Path, state: State) -> StatusRecord {
    let evidence = Evidence { vmm: VmmEnd::Unseen, vmm_ran: true, ..Evidence::default() };
    let (reason, evidence) = judge(&evidence);
    let exit = ExitRecord {
        name: state.status.name.clone(),
        incarnation: state.status.incarnation,
        reason,
        ended_at: unix_ms(),
        evidence,
        ..ExitRecord::default()
    };
    // Without a disk the answer is the same, only found out each time anew.
    let _ = record::write(&dir.join(rundir::EXIT), &exit, Sync::Yes);
    for rest in [&state.backend, &state.daemon].into_iter().flatten() {
        rest.signal(rustix::process::Signal::KILL);
    }
    release_cid(run_dir, &state);
    for name in crate::monitor::TRANSIENT {
        let _ = std::fs::remove_file(dir.join(name));
    }
    let state = State { vmm: None, backend: None, daemon: None, ..state };
    ended(dir, State { status: StatusRecord { exit: Some(exit), ..state.status.clone() }, ..state })
}

/// Removes the claim of a VM's CID, unless another VM has it by now.
pub fn release_cid(run_dir: &RunDir, state: &State) {
    let path = cid::path(run_dir, state.status.vsock.cid);
    if path.exists()
        && let Ok(Some(_lock)) = Lock::take(&path, Wait::No)
    {
        let _ = std::fs::remove_file(&path);
    }
}
