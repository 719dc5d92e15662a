//! Determines the state of a VM without a monitor: ended, running unwatched, ended while no monitor watched, or
//! unreadable.
//!
//! ```text
//! a monitor answers ──────────────────────────────> the monitor's answer
//! the state has an exit ──────────────────────────> ended
//! the lock is held, and no monitor answers ───────> unknown, silent
//! there is no directory, and processes run ───────> unknown, vanished
//! the lock is free, and
//!   its monitor runs ─────────────────────────────> unknown, with the reason; left as it is
//!   a file cannot be read, the VM may run ────────> unknown, with the reason; left as it is
//!   there is no state ────────────────────────────> a start that died before the VM was there: removed
//!   the VMM runs, and there is no exit record ────> unknown, unwatched: `pepita adopt`
//!   the VMM is gone ──────────────────────────────> written off, with an exit record
//! ```

use crate::client;
use crate::error::{CallError, Result, call_error};
use crate::host::cgroup::Limits;
use crate::host::clock::unix_ms;
use crate::host::process_id::ProcessId;
use crate::host::strays;
use crate::host::tap;
use crate::rundir::files::{self, State, Sync};
use crate::rundir::lock::{Lock, VmLock};
use crate::rundir::{self, RunDir, cid, ends, layout, promoted, uids};
use crate::vm_config::{Carried, Cid, VmConfig};
use crate::vmm::Process;
use pepita_wire::launch::OWNER_LABEL;
use pepita_wire::monitor::STATUS_PATIENCE;
use pepita_wire::record::{CallErrorKind, Reach, VsockStatus};
use pepita_wire::{Exit, ExitRecord, MonitorRequest, Outcome, StatusRecord, Stored, VmId, VmState};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The number of requests for a status while a monitor starts or ends, and the pause between two requests.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// Returns the status of a VM: the answer of its monitor, or what its files say when there is no monitor.
///
/// # Errors
/// [`CallErrorKind::NoSuchVm`] when there is no such VM.
pub(crate) fn status(run_dir: &RunDir, name: &VmId) -> Result<StatusRecord> {
    let asked = statuses(run_dir, std::slice::from_ref(name)).pop();
    asked.unwrap_or_else(|| Err(no_such_vm(name)))
}

/// Returns the status of each of these VMs, in this order. The monitors are asked at the same time, so that the ones that
/// do not answer cost one [`STATUS_PATIENCE`] together.
pub(crate) fn statuses(run_dir: &RunDir, names: &[VmId]) -> Vec<Result<StatusRecord>> {
    let deadline = Instant::now() + STATUS_PATIENCE;
    let mut found: Vec<Option<Result<StatusRecord>>> = names.iter().map(|_| None).collect();
    // Between two requests a monitor may end, or a new monitor may start.
    for _ in 0..TRIES {
        let left: Vec<usize> = (0..names.len()).filter(|at| found[*at].is_none()).collect();
        if left.is_empty() {
            break;
        }
        let dirs: Vec<PathBuf> = left.iter().map(|at| run_dir.vm(&names[*at])).collect();
        let answers = client::ask_all(&dirs, &MonitorRequest::Status, deadline);
        for ((at, dir), answer) in left.into_iter().zip(&dirs).zip(answers) {
            found[at] = after_answer(run_dir, dir, &names[at], answer).transpose();
        }
        if found.iter().any(Option::is_none) {
            // A monitor is starting or ending.
            std::thread::sleep(PAUSE);
        }
    }
    let found = found.into_iter().zip(names);
    let found =
        found.map(|(found, name)| (found.unwrap_or_else(|| unsettled(&run_dir.vm(name), name)), name));
    found.map(|(found, name)| found.and_then(|status| under_name(run_dir, name, status))).collect()
}

/// Returns a status under the name that was asked for. The record of a VM that is being promoted has the other name for a
/// moment, and a directory that is lent to another VM is no VM of its own.
fn under_name(run_dir: &RunDir, name: &VmId, status: StatusRecord) -> Result<StatusRecord> {
    if status.name == name.as_str() {
        return Ok(status);
    }
    match promoted::is_lent(&run_dir.vm(name)) {
        true => Err(no_such_vm(name)),
        false => Ok(StatusRecord { name: name.to_string(), ..status }),
    }
}

/// Returns the status of a VM whose monitor was starting or ending all the time.
fn unsettled(dir: &Path, name: &VmId) -> Result<StatusRecord> {
    if Lock::is_held(&dir.join(layout::LOCK)) { Ok(silent(dir, name)) } else { Err(no_such_vm(name)) }
}

/// Returns the status of a VM whose monitor gave this answer, or none. `None`: a monitor is starting or ending, so the
/// question has to be repeated.
fn after_answer(
    run_dir: &RunDir,
    dir: &Path,
    name: &VmId,
    answer: io::Result<Outcome>,
) -> Result<Option<StatusRecord>> {
    match answer {
        Ok(Ok(value)) => {
            if let Ok(status) = serde_json::from_value(value) {
                return Ok(Some(status));
            }
        }
        // The monitor is there and says nothing.
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            return Ok(Some(silent(dir, name)));
        }
        Ok(Err(_)) | Err(_) => {}
    }
    if rundir::is_foreign(dir) || is_empty(dir) {
        return vanished(dir, name).map(Some).ok_or_else(|| no_such_vm(name));
    }
    if !dir.is_dir() {
        let vanished = vanished(dir, name);
        // A launch may have made the directory during the search.
        return if dir.is_dir() { Ok(None) } else { vanished.map(Some).ok_or_else(|| no_such_vm(name)) };
    }
    // A monitor that has written its last state changes nothing any more, so there is no wait for its end.
    if let Stored::Read(state) = files::state(dir)
        && state.status.exit.is_some()
    {
        return Ok(Some(ended(dir, state)));
    }
    match Lock::take_of_vm(dir)? {
        VmLock::Taken(_lock) => without_monitor(run_dir, dir, name).map(Some),
        VmLock::Held | VmLock::Absent => Ok(None),
    }
}

/// Returns whether a directory has no files. A launch that has just made it is not a VM yet.
fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

/// Returns the names of the VMs that run and whose run directories were removed.
pub(crate) fn vanished_names(run_dir: &RunDir) -> Vec<VmId> {
    let found = strays::members_in(run_dir.path());
    let gone = found.into_iter().filter(|(_, members)| members.iter().any(|m| m.process.open().is_some()));
    let names = gone.filter_map(|(dir, _)| VmId::new(dir.file_name()?.to_str()?).ok());
    names.filter(|name| !run_dir.vm(name).exists()).collect()
}

/// Returns the status of a VM whose files were removed while it runs: what its processes tell. `None`: no process of the
/// VM runs.
fn vanished(dir: &Path, name: &VmId) -> Option<StatusRecord> {
    let members = strays::settled_members(dir);
    if members.is_empty() {
        return None;
    }
    let carried = members.iter().find_map(|member| Carried::of_json(member.record.as_deref()?));
    let Carried { cid, incarnation, vmm, labels } = carried.unwrap_or_default();
    let monitor_pid = members.iter().find(|member| member.watches()).map(|member| member.process.pid);
    let pids: Vec<String> = members.iter().map(|member| member.process.pid.to_string()).collect();
    let why = format!("{}: was removed while the VM runs, as process {}", dir.display(), pids.join(", "));
    Some(StatusRecord {
        name: name.to_string(),
        state: VmState::Unknown,
        incarnation,
        vmm,
        monitor_pid,
        vsock: VsockStatus { cid, ..VsockStatus::default() },
        unreadable: Some(why),
        reach: Reach::Vanished,
        dir: dir.to_string_lossy().into_owned(),
        labels,
        ..StatusRecord::default()
    })
}

/// Returns the error for a call about a VM that does not exist.
pub(crate) fn no_such_vm(name: &VmId) -> CallError {
    let why = format!("no VM {name}; `pepita list` shows those that there are");
    CallError { name: Some(name.to_string()), ..call_error(CallErrorKind::NoSuchVm, why) }
}

/// Returns the error for a call that needs the files of a VM when the files cannot be read.
pub(crate) fn unreadable(why: &str) -> CallError {
    let advice = "the VM was left as it is; `pepita destroy --force` removes it";
    call_error(CallErrorKind::Unreadable, format!("{why}; {advice}"))
}

/// Returns the reason why a VM cannot be reached whose lock was removed under its monitor.
pub(crate) fn unlocked(dir: &Path, monitor: &ProcessId) -> String {
    format!(
        "{}: was removed while the monitor runs, as process {}",
        dir.join(layout::LOCK).display(),
        monitor.pid
    )
}

/// Returns the status of a VM whose monitor exists and does not answer: the monitor is starting, or was stopped by a
/// signal.
fn silent(dir: &Path, name: &VmId) -> StatusRecord {
    match files::state(dir) {
        Stored::Read(State { status, .. }) => {
            StatusRecord { name: name.to_string(), state: VmState::Unknown, reach: Reach::Silent, ..status }
        }
        Stored::Absent => {
            StatusRecord { name: name.to_string(), reach: Reach::Silent, ..StatusRecord::default() }
        }
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

/// The state of a VM without a monitor.
#[derive(Debug)]
pub(crate) enum Unwatched {
    /// The monitor died before the VM was started.
    NotStarted,
    /// The VM has ended, and its monitor has written all of its files.
    Ended(Box<State>),
    /// The VM has ended, and its monitor has not written all of its files.
    Gone(Box<State>),
    /// The VM runs.
    Runs {
        /// The configuration of the VM.
        config: Box<VmConfig>,
        /// The state of the VM at the death of its monitor.
        state: Box<State>,
        /// The process of the VMM.
        vmm: Process,
    },
    /// The VM has a monitor, whose lock was removed.
    Unlocked {
        /// The monitor that watches the VM.
        monitor: ProcessId,
        /// The state that the monitor wrote last.
        state: Box<State>,
    },
    /// The VM may run, and one of its files cannot be read.
    Unreadable {
        /// The file that cannot be read, and the reason.
        why: String,
        /// The state of the VM at the death of its monitor, if that file can be read.
        state: Option<Box<State>>,
    },
}

/// Determines the state of a VM without a monitor. Changes nothing. The caller holds the lock of the VM.
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
    // The lock shows whether a monitor lives, unless its file was removed.
    if let Some(monitor) = state.monitor.clone().filter(|m| m.open().is_some() && !m.is_exiting()) {
        return Unwatched::Unlocked { monitor, state };
    }
    let Some(vmm) = state.vmm.clone().and_then(Process::adopt) else { return Unwatched::Gone(state) };
    match (files::exit(dir), config) {
        // The exit record is written after the end of the VMM, so a process that still runs is exiting.
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

/// Returns the status of a VM without a monitor, and cleans up after a VM that did not start or has ended unwatched.
/// The caller holds the lock.
fn without_monitor(run_dir: &RunDir, dir: &Path, name: &VmId) -> Result<StatusRecord> {
    match find(dir) {
        Unwatched::NotStarted => match vanished(dir, name).filter(|status| status.monitor_pid.is_some()) {
            Some(status) => Ok(status),
            None => {
                discard(run_dir, dir)?;
                Err(no_such_vm(name))
            }
        },
        Unwatched::Ended(state) => Ok(ended(dir, *state)),
        Unwatched::Gone(state) => Ok(write_off(run_dir, dir, *state)),
        Unwatched::Runs { state, .. } => {
            let status = state.status;
            Ok(StatusRecord { state: VmState::Unknown, monitor_pid: None, ..status })
        }
        Unwatched::Unlocked { monitor, state } => {
            let why = unlocked(dir, &monitor);
            let status = unreadable_status(dir, name, Some(*state), why);
            Ok(StatusRecord { monitor_pid: Some(monitor.pid), reach: Reach::Vanished, ..status })
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

/// Completes the files of a VM that has ended without its monitor: the VM ended after its monitor, or the monitor died
/// while it recorded the end. The caller holds the lock.
pub(crate) fn write_off(run_dir: &RunDir, dir: &Path, state: State) -> StatusRecord {
    let exit = match files::exit(dir) {
        Stored::Read(exit) => exit,
        Stored::Absent => {
            let _ = std::fs::remove_file(dir.join(layout::RESERVE));
            let exit = unseen_end(&state);
            // On a full disk the record is not stored. The answer is the same, but is determined again for each call.
            let _ = files::write(&dir.join(layout::EXIT), &exit, Sync::Yes);
            exit
        }
        // The unreadable file stays as it is, for a program that can read it.
        Stored::Unreadable(why) => ExitRecord { evidence: vec![why], ..unseen_end(&state) },
    };
    ends::keep(dir, &exit);
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

/// Ends the remaining processes of a VM, and releases what the VM held outside of its run directory: its cgroup, its user ids
/// and its CID. The caller holds the lock, and has decided to remove the VM.
pub(crate) fn sweep(run_dir: &RunDir, dir: &Path) {
    let state = files::state(dir).ok();
    let config: Option<VmConfig> = files::read(&dir.join(layout::CONFIG)).ok();
    // The state with the exit is the last file that a monitor writes, after it has ended all processes.
    let is_clean = state.as_ref().is_some_and(|state| state.status.exit.is_some() && state.backend.is_none());
    let state = state.unwrap_or_default();
    let known =
        [&state.vmm, &state.daemon, &state.backend].into_iter().flatten().chain(state.shares.values());
    known.for_each(ProcessId::end);
    if !is_clean {
        // The state may be older than the newest processes, or be gone.
        strays::end_members(dir);
    }
    Limits::adopt(state.cgroup).remove();
    if let Some(tap) = config.as_ref().and_then(|config| config.request.tap.as_ref()).filter(|_| !is_clean) {
        tap::down(tap);
    }
    if let Some(first) = config.as_ref().and_then(|config| config.first_uid) {
        uids::release(first);
    }
    let known = config.map(|config| config.cid).or_else(|| Cid::new(state.status.vsock.cid));
    match known {
        Some(cid) => cid::release(run_dir, cid),
        None if is_clean => {}
        None => cid::release_unheld(run_dir),
    }
}

/// Keeps the last words of a VM whose files are about to be removed, in case that no monitor has done so.
pub(crate) fn keep_end(dir: &Path) {
    match (files::exit(dir), files::state(dir)) {
        (Stored::Read(exit), _) => ends::keep(dir, &exit),
        (Stored::Absent, Stored::Read(state)) => {
            let exit = state.status.exit.clone().unwrap_or_else(|| unseen_end(&state));
            ends::keep(dir, &exit);
        }
        // What cannot be read says nothing about an end.
        (Stored::Unreadable(_), _) | (Stored::Absent, Stored::Absent | Stored::Unreadable(_)) => {}
    }
}

/// Returns whether the ends of a VM stay when its files are removed: when a supervisor has launched it, which may not
/// have seen its last end, and when nothing tells who has launched it.
fn keeps_ends(dir: &Path) -> bool {
    let config: Option<VmConfig> = files::read(&dir.join(layout::CONFIG)).ok();
    let state = || files::state(dir).ok().map(|state| state.status.labels.contains_key(OWNER_LABEL));
    config.map(|config| config.is_supervised()).or_else(state).unwrap_or(true)
}

/// Ends the remaining processes of a VM ([`sweep`]) and removes its run directory. The last ends of a VM that no
/// supervisor has launched go with it. The caller holds the lock.
///
/// # Errors
/// When the directory cannot be removed.
pub(crate) fn discard(run_dir: &RunDir, dir: &Path) -> Result<()> {
    sweep(run_dir, dir);
    match keeps_ends(dir) {
        true => keep_end(dir),
        false => drop(ends::forget(dir)),
    }
    rundir::remove(dir)
}
