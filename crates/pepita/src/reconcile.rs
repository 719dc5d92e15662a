//! What a VM is whose monitor is not there: ended, running unwatched, gone while no monitor watched, or unreadable.
//!
//! ```text
//! a monitor answers ──────────────────────────────> the monitor's word
//! the state has an exit ──────────────────────────> ended
//! the lock is held, and no monitor answers ───────> unknown
//! the lock is free, and
//!   a file cannot be read, the VM may run ────────> unknown, with the reason; left as it is
//!   there is no state ────────────────────────────> a start that died before the VM was there: removed
//!   the VMM runs, and there is no exit record ────> unknown, unwatched: `pepita adopt`
//!   the VMM is gone ──────────────────────────────> written off, with an exit record
//! ```

use crate::client;
use crate::error::{CallError, Result, call_error};
use crate::host::cgroup::Limits;
use crate::host::clock::unix_ms;
use crate::host::strays;
use crate::rundir::files::{self, State, Sync};
use crate::rundir::lock::{Lock, Wait};
use crate::rundir::{self, RunDir, cid, layout};
use crate::vm_config::VmConfig;
use crate::vmm::Process;
use pepita_wire::record::CallErrorKind;
use pepita_wire::{Exit, ExitRecord, MonitorRequest, StatusRecord, Stored, VmId, VmState};
use std::path::Path;
use std::time::Duration;

/// How often a status is asked for while a monitor begins or ends, and the pause between two tries.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// Returns what is known of a VM: its monitor's word, or what can be found out without one.
///
/// # Errors
/// [`CallErrorKind::NoSuchVm`] when there is no such VM.
pub(crate) fn status(run_dir: &RunDir, name: &VmId) -> Result<StatusRecord> {
    let dir = run_dir.vm(name);
    // Between two tries a monitor may end, or a new one come.
    for _ in 0..TRIES {
        if !dir.is_dir() {
            break;
        }
        if let Ok(Ok(value)) = client::ask(&dir, MonitorRequest::Status)
            && let Ok(status) = serde_json::from_value(value)
        {
            return Ok(status);
        }
        // A monitor that has written its last state need not be waited for.
        if let Stored::Read(state) = files::state(&dir)
            && state.status.exit.is_some()
        {
            return Ok(ended(&dir, state));
        }
        match Lock::take(&dir.join(layout::LOCK), Wait::No) {
            Ok(Some(_lock)) => return without_monitor(run_dir, &dir, name),
            // A monitor begins or ends at this moment.
            Ok(None) => std::thread::sleep(PAUSE),
            Err(_) if !dir.is_dir() => break,
            Err(e) => return Err(e),
        }
    }
    if Lock::is_held(&dir.join(layout::LOCK)) {
        return Ok(silent(&dir, name));
    }
    Err(no_such_vm(name))
}

/// Returns the error of every call about a VM that is not there.
pub(crate) fn no_such_vm(name: &VmId) -> CallError {
    let why = format!("no VM {name}; `pepita list` shows those that there are");
    CallError { name: Some(name.to_string()), ..call_error(CallErrorKind::NoSuchVm, why) }
}

/// Returns the error of every call that has to read the files of a VM and cannot.
pub(crate) fn unreadable(why: &str) -> CallError {
    let advice = "the VM was left as it is; `pepita destroy --force` removes it";
    call_error(CallErrorKind::Unreadable, format!("{why}; {advice}"))
}

/// Returns the status of a VM whose monitor is there and does not answer: the monitor is just starting, or was stopped.
fn silent(dir: &Path, name: &VmId) -> StatusRecord {
    match files::state(dir) {
        Stored::Read(State { status, .. }) => {
            StatusRecord { name: name.to_string(), state: VmState::Unknown, ..status }
        }
        Stored::Absent => StatusRecord { name: name.to_string(), ..StatusRecord::default() },
        Stored::Unreadable(why) => unreadable_status(dir, name, None, why),
    }
}

fn unreadable_status(dir: &Path, name: &VmId, state: Option<State>, why: String) -> StatusRecord {
    let status = state.map(|state| state.status).unwrap_or_default();
    StatusRecord {
        name: name.to_string(),
        state: VmState::Unknown,
        monitor_pid: None,
        unreadable: Some(why),
        dir: dir.to_string_lossy().into_owned(),
        ..status
    }
}

/// A VM whose monitor is not there.
#[derive(Debug)]
pub(crate) enum Unwatched {
    /// Its monitor died before the VM was there.
    NotStarted,
    /// The VM has ended, and its monitor has written everything.
    Ended(Box<State>),
    /// The VM has ended, and its monitor has not written everything.
    Gone(Box<State>),
    /// The VM runs.
    Runs {
        /// What it is.
        config: Box<VmConfig>,
        /// Where it was when its monitor died.
        state: Box<State>,
        /// The process of its VMM.
        vmm: Process,
    },
    /// The VM may run, and a file of it cannot be read.
    Unreadable {
        /// The file, and why.
        why: String,
        /// Where the VM was when its monitor died, if that can be read.
        state: Option<Box<State>>,
    },
}

/// Finds out what a VM is whose monitor is not there. The caller holds its lock. Changes nothing.
pub(crate) fn find(dir: &Path) -> Unwatched {
    let config: Stored<VmConfig> = files::read(&dir.join(layout::CONFIG));
    let state = match (files::state(dir), &config) {
        (Stored::Read(state), _) => Box::new(state),
        (Stored::Unreadable(why), _) => return Unwatched::Unreadable { why, state: None },
        (Stored::Absent, Stored::Unreadable(why)) => {
            return Unwatched::Unreadable { why: why.clone(), state: None };
        }
        (Stored::Absent, Stored::Absent | Stored::Read(_)) => return Unwatched::NotStarted,
    };
    if state.status.exit.is_some() {
        return Unwatched::Ended(state);
    }
    let Some(vmm) = state.vmm.clone().and_then(Process::adopt) else { return Unwatched::Gone(state) };
    match (files::exit(dir), config) {
        // The record is written when the VMM has ended: what runs is on its way out.
        (Stored::Read(_), _) => Unwatched::Gone(state),
        (Stored::Absent, Stored::Read(config)) => Unwatched::Runs { config: Box::new(config), state, vmm },
        (Stored::Unreadable(why), _) | (Stored::Absent, Stored::Unreadable(why)) => {
            Unwatched::Unreadable { why, state: Some(state) }
        }
        (Stored::Absent, Stored::Absent) => {
            let why = format!("{}: is missing", dir.join(layout::CONFIG).display());
            Unwatched::Unreadable { why, state: Some(state) }
        }
    }
}

/// Returns the status of a VM without a monitor, and cleans up after one that did not start or is gone. The caller holds
/// the lock.
fn without_monitor(run_dir: &RunDir, dir: &Path, name: &VmId) -> Result<StatusRecord> {
    match find(dir) {
        Unwatched::NotStarted => {
            discard(run_dir, dir)?;
            Err(no_such_vm(name))
        }
        Unwatched::Ended(state) => Ok(ended(dir, *state)),
        Unwatched::Gone(state) => Ok(write_off(run_dir, dir, *state)),
        Unwatched::Runs { state, .. } => {
            let status = state.status;
            Ok(StatusRecord { state: VmState::Unknown, monitor_pid: None, ..status })
        }
        Unwatched::Unreadable { why, state } => {
            Ok(unreadable_status(dir, name, state.map(|state| *state), why))
        }
    }
}

/// Returns the status of a VM that has ended, with its exit record.
pub(crate) fn ended(dir: &Path, state: State) -> StatusRecord {
    let exit = match files::exit(dir) {
        Stored::Read(exit) => Some(exit),
        Stored::Absent | Stored::Unreadable(_) => state.status.exit,
    };
    let end = exit.as_ref().map_or(VmState::Failed, |record| VmState::after(&record.exit));
    StatusRecord { state: end, exit, monitor_pid: None, vmm_pid: None, vcpus: None, ..state.status }
}

/// Completes what a monitor has not: the VM ended after its monitor, or the monitor died in the middle of the end. The
/// caller holds the lock.
pub(crate) fn write_off(run_dir: &RunDir, dir: &Path, state: State) -> StatusRecord {
    let exit = match files::exit(dir) {
        Stored::Read(exit) => exit,
        Stored::Absent => {
            let _ = std::fs::remove_file(dir.join(layout::RESERVE));
            let exit = unseen_end(&state);
            // Without room on the disk the answer is the same, only found out anew each time.
            let _ = files::write(&dir.join(layout::EXIT), &exit, Sync::Yes);
            exit
        }
        // The file stays as it is, for a program that can read it.
        Stored::Unreadable(why) => ExitRecord { evidence: vec![why], ..unseen_end(&state) },
    };
    sweep(run_dir, dir);
    for name in layout::TRANSIENT.into_iter().chain([layout::CONTROL]) {
        let _ = std::fs::remove_file(dir.join(name));
    }
    let revision = state.status.revision + 1;
    let status = StatusRecord { exit: Some(exit), revision, ..state.status.clone() };
    let status = ended(dir, State { status, ..state });
    let state = State { status: status.clone(), ..State::default() };
    let _ = files::write(&dir.join(layout::STATE), &state, Sync::No);
    status
}

/// Returns the record of an end that no monitor saw.
fn unseen_end(state: &State) -> ExitRecord {
    ExitRecord {
        name: state.status.name.clone(),
        incarnation: state.status.incarnation,
        exit: Exit::Unknown,
        ended_at_ms: unix_ms(),
        evidence: vec!["the VMM is gone, and no process saw how it ended".to_owned()],
        ..ExitRecord::default()
    }
}

/// Ends the processes that still run of a VM, and gives back what it held outside of its run directory. The caller holds
/// the lock, and has decided that the VM is to go.
pub(crate) fn sweep(run_dir: &RunDir, dir: &Path) {
    let state = files::state(dir).ok();
    let config: Option<VmConfig> = files::read(&dir.join(layout::CONFIG)).ok();
    // The state with the exit is the last file that a monitor writes: then nothing is left.
    let is_clean = state.as_ref().is_some_and(|state| state.status.exit.is_some() && state.backend.is_none());
    let state = state.unwrap_or_default();
    let known = [state.vmm, state.daemon, state.backend].into_iter().flatten();
    known.for_each(|process| process.end());
    if !is_clean {
        // The state may not name all of them.
        strays::end_strays(dir);
    }
    Limits::adopt(state.cgroup).remove();
    if let Some(config) = config {
        cid::release(run_dir, config.cid);
    }
}

/// Sweeps ([`sweep`]), and removes the run directory. The caller holds the lock.
///
/// # Errors
/// When the directory cannot be removed.
pub(crate) fn discard(run_dir: &RunDir, dir: &Path) -> Result<()> {
    sweep(run_dir, dir);
    rundir::remove(dir)
}
