//! Takes over a VM that has outlived its monitor.

use super::setup::{address, become_reaper, listen, open_again};
use crate::error::{Result, call_error, io, system};
use crate::host::cgroup::Limits;
use crate::host::clock::unix_ms;
use crate::host::process_id::ProcessId;
use crate::monitor::{Agent, Control, Life, Log, Monitor, Parts, Starter, connect_unix};
use crate::reconcile::{self, Unwatched};
use crate::rundir::files::State;
use crate::rundir::lock::{Lock, VmLock};
use crate::rundir::{RunDir, cid, layout};
use crate::vm_config::{VmConfig, VmmKind};
use crate::vmm::{self, Process, Processes, Server};
use pepita_wire::record::{AgentState, CallErrorKind};
use pepita_wire::{StatusRecord, VmId, VmState};
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The result of an adoption.
pub(super) enum Adoption {
    /// The VM runs.
    Orphan(Box<Orphan>),
    /// The VM has ended.
    Ended(Box<StatusRecord>),
}

/// A VM that runs, whose lock this process holds and whose sockets are connected.
pub(super) struct Orphan {
    config: VmConfig,
    state: State,
    dir: PathBuf,
    cid_path: PathBuf,
    lock: Lock,
    processes: Processes,
    agent: Agent,
    log: Log,
    control: Control,
}

/// Takes the lock of a VM without a monitor, and connects to the processes of the VM that run.
///
/// # Errors
/// When there is no such VM, the VM has a monitor, or its files cannot be read. A VM that runs keeps running.
pub(super) fn adopt(run_dir: &RunDir, name: &VmId) -> Result<Adoption> {
    let dir = run_dir.vm(name);
    let lock = match Lock::take_of_vm(&dir)? {
        VmLock::Taken(lock) => lock,
        VmLock::Held => return Err(call_error(CallErrorKind::TryAgain, "it has a monitor")),
        VmLock::Absent => return Err(reconcile::no_such_vm(name)),
    };
    match reconcile::find(&dir) {
        Unwatched::NotStarted => {
            reconcile::discard(run_dir, &dir)?;
            Err(reconcile::no_such_vm(name))
        }
        Unwatched::Unlocked { monitor, .. } => {
            Err(reconcile::unreadable(&reconcile::unlocked(&dir, &monitor)))
        }
        Unwatched::Unreadable { why, .. } => Err(reconcile::unreadable(&why)),
        Unwatched::Ended(state) => Ok(Adoption::Ended(Box::new(reconcile::ended(&dir, *state)))),
        Unwatched::Gone(state) => Ok(Adoption::Ended(Box::new(reconcile::write_off(run_dir, &dir, *state)))),
        Unwatched::Runs { config, state, vmm } => {
            std::env::set_current_dir(&dir).map_err(|e| io(&dir, e))?;
            let cid_path = cid::path(run_dir, config.cid);
            Ok(Adoption::Orphan(Box::new(Orphan::connect(*config, *state, vmm, dir, cid_path, lock)?)))
        }
    }
}

/// Connects to QEMU's monitor. Returns `None` when QEMU takes no connection now, as a stopped process does not: the VM
/// is watched without it, and the monitor connects later.
fn open_qmp() -> Result<Option<OwnedFd>> {
    match connect_unix(Path::new(layout::QMP)) {
        Ok(qmp) => Ok(Some(qmp)),
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(e) => Err(io(Path::new(layout::QMP), e)),
    }
}

impl Orphan {
    /// Connects to the VM in the current directory, its run directory.
    fn connect(
        config: VmConfig,
        state: State,
        vmm: Process,
        dir: PathBuf,
        cid_path: PathBuf,
        lock: Lock,
    ) -> Result<Self> {
        if let Ok(log) = File::options().create(true).append(true).open(layout::MONITOR_LOG) {
            let _ = rustix::stdio::dup2_stderr(&log);
        }
        become_reaper(&config);
        let connected = |path: &str| connect_unix(Path::new(path)).map_err(|e| io(Path::new(path), e));
        let (console, qmp) = match config.request.vmm {
            VmmKind::Qemu => (vmm::open_console()?, open_qmp()?),
            VmmKind::Process => (connected(layout::CONSOLE)?, None),
        };
        let backend = state.backend.clone().and_then(Process::adopt);
        let server = |(mount, identity): (&String, &ProcessId)| {
            let process = Process::adopt(identity.clone())?;
            Some(Server { mount: mount.clone(), process })
        };
        let shares = state.shares.iter().filter_map(server).collect();
        let processes = Processes { vmm, backend, shares, console, qmp, keep: None, jail: None };
        let log = Log::open(Path::new("."), state.log_base, state.status.dropped_log_bytes, Instant::now());
        let log = log.map_err(|e| system("console log", e))?;
        let control = listen()?;
        let token = std::fs::read_to_string(layout::TOKEN).unwrap_or_default().trim().to_owned();
        // No file says which of the two tokens is in force, so both are tried: the agent refuses the other token.
        let boot_token =
            std::fs::read_to_string(layout::BOOT_TOKEN).ok().filter(|_| !state.status.agent.ready);
        let agent = Agent::new(address(&config), config.guest_incarnation(), boot_token, token);
        Ok(Self { config, state, dir, cid_path, lock, processes, agent, log, control })
    }

    /// Hands the VM to its new monitor, which answers `starter`.
    pub(super) fn watch(self, starter: Starter) -> Monitor {
        let Self { config, state, dir, cid_path, lock, processes, agent, log, control } = self;
        // Another program may have paused or resumed the VMM meanwhile.
        let is_stopped = processes.vmm.identity.is_stopped();
        let status = StatusRecord {
            state: if is_stopped { VmState::Paused } else { VmState::Unknown },
            monitor_pid: Some(std::process::id()),
            uptime_ms: unix_ms().saturating_sub(state.status.started_at),
            agent: AgentState { incarnation: config.booted_as, ..AgentState::default() },
            ..state.status
        };
        let ports = open_again(&config);
        let life = Life::adopt(&config.request, status, Instant::now());
        // An older monitor may have believed a pid that its agent made up.
        let vmm = &processes.vmm.identity;
        let daemon = state.daemon.filter(|daemon| vmm.descendant(daemon.pid).as_ref() == Some(daemon));
        Monitor::new(Parts {
            config,
            dir,
            name: lock,
            // The VMM has held the sign meanwhile, as the claim of the CID.
            sign: None,
            // The VMM has held the claim of the CID meanwhile, and continues to hold it.
            cid: None,
            cid_path,
            // As the claim of the CID.
            uids: None,
            limits: Limits::adopt(state.cgroup),
            life,
            processes,
            daemon,
            former: state.monitor.map(|monitor| monitor.pid),
            agent,
            log,
            control,
            ports,
            starter,
        })
    }
}
