//! What a VM uses of its host and of itself, and how its ports and its disks are used.

use crate::client::Client;
use crate::host::limits::limits_of;
use crate::host::usage::usage_of;
use crate::rundir::console_log::{FILE_CAP, FILES};
use crate::rundir::{files, layout};
use crate::vm_config::{Disk, VmConfig, VmmKind};
use pepita_wire::monitor::STATUS_PATIENCE;
use pepita_wire::port::PORTS_CAP;
use pepita_wire::record::{HostLimits, HostUsage, PortUse, Reach, VcpuState};
use pepita_wire::usage::{DiskUsage, GuestUsage};
use pepita_wire::{Ask, MonitorRequest, StatusRecord, Stored};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

/// The time that a guest has for its answer. One that hangs delays the status no longer.
const GUEST_PATIENCE: Duration = Duration::from_secs(1);

/// The answer to `port_use`.
#[derive(Deserialize)]
struct Answer {
    ports: Vec<PortUse>,
}

/// Returns what the processes of the VM with this run directory use together; `None` when none of them runs.
pub(crate) fn usage(dir: &Path) -> Option<HostUsage> {
    let state = files::state(dir).ok()?;
    let processes = [
        (&state.vmm, "vmm"),
        (&state.backend, "backend"),
        (&state.monitor, "monitor"),
        (&state.daemon, "daemon"),
    ];
    let shares = state.shares.values().map(|process| (process, "share"));
    let known = processes.into_iter().filter_map(|(process, role)| Some((process.as_ref()?, role)));
    let used = known.chain(shares).filter_map(|(process, role)| usage_of(process, role));
    HostUsage::of(used.collect())
}

/// Returns the limits to which the VM with this run directory is held.
pub(crate) fn limits(dir: &Path) -> Option<HostLimits> {
    let state = files::state(dir).ok()?;
    let log_kib = Some(FILE_CAP * FILES as u64 / 1024);
    Some(HostLimits { log_kib, ..limits_of(state.cgroup.as_deref(), state.vmm.as_ref()) })
}

/// Returns the use of the ports of a VM with this status; their numbers are unknown when its monitor does not tell them,
/// as one of an earlier version does not.
pub(crate) fn port_use(dir: &Path, status: &StatusRecord) -> Vec<PortUse> {
    let ports = || status.ports.iter().take(PORTS_CAP);
    let unknown = || ports().map(|port| PortUse { port: port.clone(), ..PortUse::default() }).collect();
    if status.ports.is_empty() || status.reach != Reach::Usual {
        return unknown();
    }
    let answer = ask(dir, MonitorRequest::PortUse, STATUS_PATIENCE);
    answer.map_or_else(unknown, |Answer { ports }| ports)
}

/// Asks the monitor of a VM; `None` when it does not answer, or does not know the request.
fn ask<T: DeserializeOwned>(dir: &Path, request: MonitorRequest, patience: Duration) -> Option<T> {
    let answer = Client::open(dir).and_then(|mut monitor| monitor.ask(request, Some(patience)));
    serde_json::from_value(answer.ok()?.ok()?).ok()
}

/// Returns what the guest of a VM with this status uses; `None` when it does not answer, its agent is of an earlier version,
/// or there is no guest, as of a plain process.
pub(crate) fn guest(dir: &Path, status: &StatusRecord) -> Option<GuestUsage> {
    let is_paused = status.vcpus.is_some_and(|vcpus| vcpus.state == VcpuState::Paused);
    let is_plain = status.vmm == <&str>::from(VmmKind::Process);
    if is_paused || is_plain || !status.agent.ready || status.reach != Reach::Usual {
        return None;
    }
    ask(dir, MonitorRequest::Forward(Ask::Usage), GUEST_PATIENCE)
}

/// Returns the use of the disks of the VM with this run directory, with what its guest tells of them.
pub(crate) fn disks(dir: &Path, guest: Option<&GuestUsage>) -> Vec<DiskUsage> {
    let config: Stored<VmConfig> = files::read(&dir.join(layout::CONFIG));
    let disks = config.ok().map(|config| config.request.disks).unwrap_or_default();
    disks.iter().map(|disk| on_host(disk).with_guest(guest)).collect()
}

/// Returns the size of a disk and the space that it takes on the host: of a device, all.
fn on_host(disk: &Disk) -> DiskUsage {
    let meta = disk.file.metadata().ok();
    let is_device = meta.as_ref().is_some_and(|meta| meta.file_type().is_block_device());
    let size = match &meta {
        Some(_) if is_device => File::open(&disk.file).and_then(|mut file| file.seek(SeekFrom::End(0))).ok(),
        Some(meta) => Some(meta.len()),
        None => None,
    };
    let taken = if is_device { size } else { meta.map(|meta| meta.blocks() * 512) };
    DiskUsage {
        name: disk.name.clone(),
        mount: disk.mount.clone(),
        size_kib: size.map(|bytes| bytes / 1024),
        host_kib: taken.map(|bytes| bytes / 1024),
        ..DiskUsage::default()
    }
}
