//! How a monitor comes to its VM: launches it, or takes over one whose monitor has died.
//!
//! `pepita run` and `pepita adopt` start the monitor as a process of its own, hand it the plan on its standard input
//! and read one line from its standard output: the VM's status, or why there is none.

mod claim;

use crate::error::{About, CallError, Result, call_error, io, system};
use crate::host::cgroup::Limits;
use crate::host::clock::unix_ms;
use crate::host::process_id::ProcessId;
use crate::host::random::secret;
use crate::monitor::agent::{Address, Agent};
use crate::monitor::control::Control;
use crate::monitor::life::Life;
use crate::monitor::log::Log;
use crate::monitor::starter::{Answer, Starter};
use crate::monitor::{Monitor, Parts};
use crate::rundir::RunDir;
use crate::rundir::cid::{self, Wanted};
use crate::rundir::files::{self, State, Sync};
use crate::rundir::layout;
use crate::rundir::lock::{Lock, Wait};
use crate::vm_config::{VmConfig, VmmKind};
use crate::vmm::{self, Process, Started};
use pepita_wire::record::{AgentState, CallErrorKind, Transport, VsockStatus};
use pepita_wire::{StatusRecord, VmId, VmState};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What is kept of the disk for the exit record and the last state: twice the most that both can come to.
const RESERVE: u64 = 64 * 1024;

/// What a monitor is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Launch this.
    Launch(Box<VmConfig>),
    /// Take over the VM of this name.
    Adopt(String),
}

/// The monitor's process. `run_dir` is the directory of run directories.
pub fn main(run_dir: &Path) {
    // A session of its own: no terminal's signals, no shell's job control.
    let _ = rustix::process::setsid();
    // The host's OOM killer is to take VMs, not those who watch them.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-900");
    let starter = Starter::on_stdout();
    let order = serde_json::from_reader(std::io::stdin());
    if let Ok(null) = File::open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(null);
    }
    let order = order.map_err(|e| call_error(CallErrorKind::Usage, format!("the monitor's order: {e}")));
    let run_dir = RunDir::choose(Some(run_dir));
    let (order, run_dir) = match (order, run_dir) {
        (Ok(order), Ok(run_dir)) => (order, run_dir),
        (Err(e), _) | (_, Err(e)) => return starter.answer(&Answer::Failed(e)),
    };
    match order {
        Order::Launch(plan) => {
            let name = plan.name.clone();
            match launch(&run_dir, *plan).about(&name) {
                Ok((lock, parts)) => Monitor::new(parts(lock, starter)).run(),
                Err(e) => starter.answer(&Answer::Failed(e)),
            }
        }
        Order::Adopt(name) => match adopt(&run_dir, &name).about(&name) {
            Ok(Taken::Over(lock, parts)) => {
                let mut monitor = Monitor::new(parts(lock, starter));
                if monitor.backend.is_none() && needs_backend(&monitor.plan) {
                    monitor.backend_ended();
                }
                monitor.run();
            }
            Ok(Taken::Ended(status)) => starter.started(&status),
            Err(e) => starter.answer(&Answer::Failed(e)),
        },
    }
}

type Prepared = Box<dyn FnOnce(Lock, Starter) -> Parts>;

fn needs_backend(plan: &VmConfig) -> bool {
    plan.vmm == VmmKind::Qemu && plan.transport == Transport::Hybrid
}

fn launch(run_dir: &RunDir, plan: VmConfig) -> Result<(Lock, Prepared)> {
    run_dir.create()?;
    let name = VmId::new(&plan.name).map_err(|e| call_error(CallErrorKind::Usage, e.to_string()))?;
    let dir = run_dir.checked_vm(&name)?;
    let lock = claim::name(&dir)?;
    let has_former = dir.join(layout::PLAN).exists();
    match launch_in(run_dir, &dir, plan) {
        Ok(prepared) => Ok((lock, prepared)),
        // What a former VM of this name has left stays until there is a new one.
        Err((Left::Untouched, e)) if has_former => Err(e),
        Err((_, e)) => {
            // Nothing half made stays. The lock goes after the directory, so that nobody else's is removed.
            let _ = crate::rundir::remove(&dir);
            drop(lock);
            Err(e)
        }
    }
}

/// In which state a launch that failed has left the run directory.
enum Left {
    Untouched,
    HalfMade,
}

/// Removes what a former VM of this name left in its run directory.
fn clean(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(|e| io(dir, e))?.flatten() {
        if entry.file_name() != layout::LOCK {
            std::fs::remove_file(entry.path()).map_err(|e| io(&entry.path(), e))?;
        }
    }
    Ok(())
}

fn launch_in(run_dir: &RunDir, dir: &Path, mut plan: VmConfig) -> Result<Prepared, (Left, CallError)> {
    let untouched = |e| (Left::Untouched, e);
    std::env::set_current_dir(dir).map_err(|e| untouched(io(dir, e)))?;
    let former: Option<VmConfig> = files::read(&dir.join(layout::PLAN));
    if plan.incarnation == 0 {
        plan.incarnation = former.as_ref().map_or(1, |former| former.incarnation + 1);
    }
    if former.is_some() {
        // What of it still runs may hold the CID that is wanted.
        crate::reconcile::sweep(run_dir, dir);
    }
    let wanted = plan.cid.map_or(Wanted::Any, Wanted::Fixed);
    let (cid, cid_lock, vhost) = claim::cid(run_dir, wanted, plan.transport).map_err(untouched)?;
    let cid_path = cid::path(run_dir, cid);
    plan.cid = Some(cid);
    let made = clean(dir).and_then(|()| prepare(dir, plan, &cid_lock, vhost.as_ref()));
    let (plan, started, limits, agent, status, control, log) = match made {
        Ok(made) => made,
        Err(e) => {
            let _ = std::fs::remove_file(&cid_path);
            return Err((Left::HalfMade, e));
        }
    };
    let life = Life::new(&plan, status, Instant::now());
    let dir = dir.to_owned();
    Ok(Box::new(move |name, starter| Parts {
        plan,
        dir,
        name,
        cid: Some(cid_lock),
        cid_path,
        limits,
        life,
        started,
        daemon: None,
        agent,
        log,
        control,
        starter,
    }))
}

type Made = (VmConfig, Started, Limits, Agent, StatusRecord, Control, Log);

fn prepare(dir: &Path, plan: VmConfig, cid_lock: &Lock, vhost: Option<&OwnedFd>) -> Result<Made> {
    reserve(&dir.join(layout::RESERVE))?;
    let log = dir.join(layout::MONITOR_LOG);
    let log = File::options().create(true).append(true).open(&log).map_err(|e| io(&log, e))?;
    rustix::stdio::dup2_stderr(&log).map_err(|e| system("standard error", e))?;
    files::write(&dir.join(layout::PLAN), &plan, Sync::No)?;
    let (boot_token, token) = (secret()?, secret()?);
    files::replace(&dir.join(layout::BOOT_TOKEN), boot_token.as_bytes(), Sync::No)?;
    files::replace(&dir.join(layout::TOKEN), token.as_bytes(), Sync::No)?;
    let log = Log::open(Path::new("."), 0, 0, Instant::now()).map_err(|e| system("console log", e))?;
    let control = listen()?;
    let mut limits = Limits::prepare(&plan, dir);
    let started = match plan.vmm {
        VmmKind::Qemu => vmm::start_qemu(&plan, &boot_token, cid_lock.file(), vhost),
        VmmKind::Process => {
            let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
            vmm::start_process(&plan, cid_lock.file())
        }
    };
    let started = started.inspect_err(|_| limits.remove())?;
    for process in std::iter::once(&started.vmm).chain(&started.backend) {
        // What watches the VMs is protected from the OOM killer; they are not.
        let _ = std::fs::write(format!("/proc/{}/oom_score_adj", process.identity.pid), "0");
        limits.hold(process.identity.pid);
    }
    let agent = Agent::new(address(&plan), plan.incarnation, Some(boot_token), token);
    let status = StatusRecord { limits: limits.as_str().into(), ..new_status(dir, &plan) };
    Ok((plan, started, limits, agent, status, control, log))
}

/// Keeps room for the last words. A disk that has none is told of now, not when they are to be written.
fn reserve(path: &Path) -> Result<()> {
    let file = File::options().create(true).write(true).truncate(true).open(path).map_err(|e| io(path, e))?;
    match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, RESERVE) {
        // Not every file system can.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(e) => Err(io(path, e)),
    }
}

fn listen() -> Result<Control> {
    let path = Path::new(layout::CONTROL);
    let _ = std::fs::remove_file(path);
    UnixListener::bind(path).and_then(Control::new).map_err(|e| io(path, e))
}

fn address(plan: &VmConfig) -> Address {
    match plan.transport {
        Transport::Hybrid => Address::Hybrid { path: PathBuf::from(layout::HYBRID), port: plan.port },
        Transport::Vhost => Address::Vhost { cid: plan.cid.unwrap_or_default(), port: plan.port },
    }
}

fn new_status(dir: &Path, plan: &VmConfig) -> StatusRecord {
    let uds = || dir.join(layout::HYBRID).to_string_lossy().into_owned();
    StatusRecord {
        name: plan.name.clone(),
        state: VmState::Created,
        incarnation: plan.incarnation,
        vmm: match plan.vmm {
            VmmKind::Qemu => "qemu".into(),
            VmmKind::Process => "process".into(),
        },
        accel: plan.accel.as_str().into(),
        monitor_pid: Some(std::process::id()),
        started_at: unix_ms(),
        vsock: VsockStatus {
            cid: plan.cid.unwrap_or_default(),
            port: plan.port,
            transport: plan.transport,
            uds: (plan.transport == Transport::Hybrid).then(uds),
        },
        dir: dir.to_string_lossy().into_owned(),
        labels: plan.labels.clone(),
        ..StatusRecord::default()
    }
}

/// What an adoption found.
enum Taken {
    Over(Lock, Prepared),
    Ended(Box<StatusRecord>),
}

fn adopt(run_dir: &RunDir, name: &str) -> Result<Taken> {
    let id = VmId::new(name).map_err(|e| call_error(CallErrorKind::Usage, e.to_string()))?;
    let dir = run_dir.vm(&id);
    let none = || call_error(CallErrorKind::NoSuchVm, "no such VM");
    if !dir.is_dir() {
        return Err(none());
    }
    let Some(lock) = Lock::take(&dir.join(layout::LOCK), Wait::No)? else {
        return Err(call_error(CallErrorKind::TryAgain, "it has a monitor"));
    };
    let (Some(plan), Some(state)) =
        (files::read::<VmConfig>(&dir.join(layout::PLAN)), files::read::<State>(&dir.join(layout::STATE)))
    else {
        // Its monitor died before the VM was there.
        crate::reconcile::discard(run_dir, &dir)?;
        return Err(none());
    };
    if state.status.exit.is_some() {
        return Ok(Taken::Ended(Box::new(crate::reconcile::ended(&dir, state))));
    }
    let runs = state.vmm.clone().and_then(Process::adopt).filter(|_| files::exit_in(&dir).is_none());
    let Some(vmm) = runs else {
        return Ok(Taken::Ended(Box::new(crate::reconcile::write_off(run_dir, &dir, state))));
    };
    std::env::set_current_dir(&dir).map_err(|e| io(&dir, e))?;
    Ok(Taken::Over(lock, take_over(run_dir, &dir, plan, state, vmm)?))
}

fn take_over(run_dir: &RunDir, dir: &Path, plan: VmConfig, state: State, vmm: Process) -> Result<Prepared> {
    if let Ok(log) = File::options().create(true).append(true).open(layout::MONITOR_LOG) {
        let _ = rustix::stdio::dup2_stderr(&log);
    }
    if plan.vmm == VmmKind::Process {
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    }
    let cid_path = cid::path(run_dir, plan.cid.unwrap_or_default());
    let token = std::fs::read_to_string(layout::TOKEN).unwrap_or_default().trim().to_owned();
    let connected =
        |path: &str| crate::monitor::conn::unix(Path::new(path)).map_err(|e| io(Path::new(path), e));
    let started = Started {
        vmm,
        backend: state.backend.clone().and_then(Process::adopt),
        console: match plan.vmm {
            VmmKind::Qemu => vmm::open_console()?,
            VmmKind::Process => connected(layout::CONSOLE)?,
        },
        qmp: if plan.vmm == VmmKind::Qemu { Some(connected(layout::QMP)?) } else { None },
    };
    let now = Instant::now();
    let log = Log::open(Path::new("."), state.log_base, state.status.dropped_log_bytes, now);
    let log = log.map_err(|e| system("console log", e))?;
    let control = listen()?;
    let boot_token = std::fs::read_to_string(layout::BOOT_TOKEN).ok();
    // Which of the two tokens is in force nobody wrote down: the agent refuses the other.
    let boot_token = boot_token.filter(|_| !state.status.agent.ready);
    let agent = Agent::new(address(&plan), plan.incarnation, boot_token, token);
    // Somebody else may have let it run meanwhile, or stopped it.
    let stands_still = started.vmm.identity.is_stopped();
    let status = StatusRecord {
        state: if stands_still { VmState::Paused } else { VmState::Unknown },
        monitor_pid: Some(std::process::id()),
        uptime_ms: unix_ms().saturating_sub(state.status.started_at),
        agent: AgentState::default(),
        ..state.status.clone()
    };
    let life = Life::adopt(&plan, status, now);
    let limits = Limits::adopt(state.cgroup.clone());
    let (dir, daemon): (PathBuf, Option<ProcessId>) = (dir.to_owned(), state.daemon.clone());
    Ok(Box::new(move |name, starter| Parts {
        plan,
        dir,
        name,
        // The VMM has held the claim meanwhile, and goes on to.
        cid: None,
        cid_path,
        limits,
        life,
        started,
        daemon,
        agent,
        log,
        control,
        starter,
    }))
}
