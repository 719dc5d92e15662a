//! Starts a VM that has its name and its CID: writes its files and starts its processes.

use super::claim::Claimed;
use super::setup::{address, become_reaper, listen, open_ports};
use crate::disk;
use crate::error::{Result, io, system};
use crate::host::cgroup::Limits;
use crate::host::clock::unix_ms;
use crate::host::priority;
use crate::host::random::secret;
use crate::monitor::{Agent, Control, Life, Log, Monitor, Parts, Starter, Timeline};
use crate::qemu;
use crate::rundir::files::{self, Sync};
use crate::rundir::{console_log, layout, monitor_log};
use crate::vm_config::{VmConfig, VmmKind};
use crate::vmm::{self, Claims, Processes};
use pepita_ports::Listening;
use pepita_wire::record::{Part, Transport, VsockStatus};
use pepita_wire::{Publish, StatusRecord, VmState};
use std::fs::File;
use std::path::Path;
use std::time::Instant;

/// The space on the disk that is reserved for the exit record and the last state, in bytes: twice the maximum size of
/// both.
const RESERVE: u64 = 64 * 1024;

/// A VM whose processes run.
pub(super) struct Started {
    claimed: Claimed,
    made: Made,
}

/// The results of a start.
struct Made {
    processes: Processes,
    limits: Limits,
    agent: Agent,
    log: Log,
    control: Control,
    ports: Vec<(Publish, Listening)>,
    status: StatusRecord,
    timeline: Timeline,
}

impl Started {
    /// Starts a VM. A starter that gives up ends the check of a disk.
    ///
    /// # Errors
    /// When a file cannot be written or a process does not start. Nothing of the VM is left then.
    pub(super) fn of(claimed: Claimed, timeline: Timeline, starter: &Starter) -> Result<Self> {
        match make(&claimed, timeline, starter) {
            Ok(made) => Ok(Self { claimed, made }),
            Err(e) => {
                claimed.give_back();
                Err(e)
            }
        }
    }

    /// Hands the VM to its monitor. `starter` gets its answer when the VMM has accepted the machine.
    pub(super) fn watch(self, starter: Starter) -> Monitor {
        let Claimed { config, name, cid, uids } = self.claimed;
        let Made { processes, limits, agent, log, control, ports, status, timeline } = self.made;
        let life = Life::new(&config.request, status, Instant::now()).measured_by(timeline);
        Monitor::new(Parts {
            config,
            dir: name.dir,
            name: name.lock,
            sign: name.sign,
            cid: Some(cid.lock),
            cid_path: cid.path,
            uids,
            limits,
            life,
            processes,
            daemon: None,
            former: None,
            agent,
            log,
            control,
            ports,
            starter,
        })
    }
}

/// Creates a VM in the current directory, its run directory. The processes are started last, because no step that
/// follows them may fail.
fn make(
    Claimed { config, name, cid, uids }: &Claimed,
    mut timeline: Timeline,
    starter: &Starter,
) -> Result<Made> {
    clean(&name.dir)?;
    // The paths are absolute, because errors contain them.
    let file = |entry: &str| name.dir.join(entry);
    reserve(&file(layout::RESERVE))?;
    let path = file(layout::MONITOR_LOG);
    let log = File::options().create(true).append(true).open(&path).map_err(|e| io(&path, e))?;
    rustix::stdio::dup2_stderr(&log).map_err(|e| system("standard error", e))?;
    monitor_log::make().map_err(|e| io(&file(layout::MONITOR_PIPE), e))?;
    if let Some(log_dir) = &config.request.log_dir {
        console_log::place(&name.dir, log_dir).map_err(|e| io(log_dir, e))?;
    }
    // The check of a disk may take minutes, and the guest has all of its time to boot after it.
    let disks = disk::take(&config.request.disks, &name.dir, starter.pipe())?;
    files::write(&file(layout::CONFIG), config, Sync::No)?;
    let (boot_token, token) = (secret()?, secret()?);
    files::replace(&file(layout::BOOT_TOKEN), boot_token.as_bytes(), Sync::No)?;
    files::replace(&file(layout::TOKEN), token.as_bytes(), Sync::No)?;
    let log = Log::open(Path::new("."), 0, 0, Instant::now()).map_err(|e| system("console log", e))?;
    let control = listen()?;
    let ports = open_ports(config)?;
    let mut limits = match config.request.vmm {
        VmmKind::Qemu => Limits::prepare(&qemu::demand(&config.request), &name.dir),
        VmmKind::Process => Limits::default(),
    };
    let root = disk::open_root(&config.request.root)?;
    become_reaper(config);
    // The monitor closes its copies of the disks' locks when the VMM has inherited them.
    let claims = Claims {
        cid_lock: cid.lock.file(),
        vhost: cid.vhost.as_ref(),
        sign: name.sign.as_ref(),
        uids: uids.as_ref().map(|uids| uids.lock.file()),
        root: root.as_ref().map(|root| &root.image),
        layer: root.as_ref().and_then(|root| root.layer.as_ref()),
        disks: &disks,
    };
    timeline.passed(Part::Configuration, Instant::now());
    let mut processes = vmm::start(config, &boot_token, &claims).inspect_err(|_| limits.remove())?;
    for process in std::iter::once(&processes.vmm).chain(&processes.backend) {
        // The monitor is protected from the OOM killer; the processes of the VM must not be.
        let _ = std::fs::write(format!("/proc/{}/oom_score_adj", process.identity.pid), "0");
        limits.hold(process.identity.pid);
    }
    for server in &processes.shares {
        let pid = server.process.identity.pid;
        limits.hold(pid);
        // The server may have started its own child already, which later ones follow into the limits.
        let children =
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let children = children.split_ascii_whitespace().filter_map(|child| child.parse().ok());
        children.chain([pid]).for_each(|pid: u32| {
            let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "0");
            limits.hold(pid);
        });
    }
    if config.request.hold {
        priority::lower(processes.vmm.identity.pid);
    }
    let agent = Agent::new(address(config), config.incarnation, Some(boot_token), token);
    if let Some(jail) = &mut processes.jail {
        vmm::note_limits(jail, limits.cgroup().is_some());
    }
    let status = StatusRecord {
        limits: limits.as_str().into(),
        jail: processes.jail.take().map(Box::new),
        ..new_status(&name.dir, config)
    };
    timeline.passed(Part::Spawn, Instant::now());
    Ok(Made { processes, limits, agent, log, control, ports, status, timeline })
}

/// Removes what a former VM of this name has left in its run directory.
fn clean(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(|e| io(dir, e))?.flatten() {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let remove = if is_dir { std::fs::remove_dir_all } else { std::fs::remove_file };
        if entry.file_name() != layout::LOCK {
            remove(entry.path()).map_err(|e| io(&entry.path(), e))?;
        }
    }
    Ok(())
}

/// Reserves space on the disk for the exit record. A full disk is reported at the start of the VM, when the VM can
/// still be refused, and not when the record has to be written.
fn reserve(path: &Path) -> Result<()> {
    let file = File::options().create(true).write(true).truncate(true).open(path).map_err(|e| io(path, e))?;
    match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, RESERVE) {
        // Not every file system supports fallocate(2).
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(e) => Err(io(path, e)),
    }
}

fn new_status(dir: &Path, config: &VmConfig) -> StatusRecord {
    let request = &config.request;
    let uds = || dir.join(layout::HYBRID).to_string_lossy().into_owned();
    StatusRecord {
        name: request.name.clone(),
        address: request.tap.as_ref().map(|tap| tap.card.address),
        state: VmState::Created,
        incarnation: config.incarnation,
        vmm: <&str>::from(request.vmm).into(),
        accel: request.accel.as_str().into(),
        monitor_pid: Some(std::process::id()),
        started_at: unix_ms(),
        vsock: VsockStatus {
            cid: config.cid.get(),
            port: request.port,
            transport: request.transport,
            uds: (request.transport == Transport::Hybrid).then(uds),
        },
        dir: dir.to_string_lossy().into_owned(),
        labels: request.labels.clone(),
        image: request.image.clone().map(Box::new),
        ..StatusRecord::default()
    }
}
