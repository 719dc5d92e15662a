//! What this guest uses: its memory, its CPU time, and the file systems of its disks (the answer to `usage`).

use crate::agent::{Agent, Mode};
use crate::{cgroup, system};
use pepita_wire::storage::{Mount, MountKind, STORAGE_CAP};
use pepita_wire::usage::{FilesystemUsage, FreeMemory, GuestUsage};
use pepita_wire::{ErrorKind, WireError};
use rustix::fs::statvfs;
use std::ffi::OsStr;
use std::sync::PoisonError;

/// The driver with which the guest gives memory back.
const BALLOON: &str = "virtio_balloon";

/// The number of ticks in a second of `/proc/stat` (USER_HZ, which is 100 on every architecture with microVMs).
const TICKS: u64 = 100;

/// Returns what this guest uses.
///
/// # Errors
/// [`ErrorKind::Unsupported`] of a plain process, which has the memory and the file systems of the host.
pub(crate) fn usage(agent: &Agent) -> Result<GuestUsage, WireError> {
    if agent.mode == Mode::Process {
        return Err(WireError::new(ErrorKind::Unsupported, "a plain process has the host's memory"));
    }
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let memory = read("/proc/meminfo");
    // A copy: a file system that hangs must not hold the lock.
    let mounts = agent.mounts.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let disks = mounts.iter().filter(|mount| mount.kind == MountKind::Disk).take(STORAGE_CAP);
    let daemon = cgroup::daemon_usage();
    Ok(GuestUsage {
        memory_kib: kib(&memory, "MemTotal:"),
        available_kib: kib(&memory, "MemAvailable:"),
        cpu_ms: busy_ms(&read("/proc/stat")),
        daemon_memory_kib: daemon.memory_kib,
        daemon_cpu_ms: daemon.cpu_ms,
        disks: disks.filter_map(filesystem).collect(),
    })
}

/// Prepares the guest for giving memory back, and returns how much is free then.
///
/// # Errors
/// [`ErrorKind::NotFound`] when there is no driver of the balloon, or no balloon; [`ErrorKind::Unsupported`] of a plain process.
pub(crate) fn free_memory(agent: &Agent) -> Result<FreeMemory, WireError> {
    if agent.mode == Mode::Process {
        return Err(WireError::new(ErrorKind::Unsupported, "a plain process has the host's memory"));
    }
    let modules = agent.image.drivers.get(BALLOON).map_or(&[][..], Vec::as_slice);
    let not_found = |why: String| WireError::new(ErrorKind::NotFound, why);
    system::load_modules(modules).map_err(not_found)?;
    let Ok(devices) = std::fs::read_dir("/sys/bus/virtio/drivers/virtio_balloon") else {
        let why =
            "the image has no driver of the balloon (virtio_balloon); build it again with --kernel-package";
        return Err(not_found(why.into()));
    };
    let is_device = |name: &OsStr| name.to_str().is_some_and(|name| name.starts_with("virtio"));
    if !devices.flatten().any(|entry| is_device(&entry.file_name())) {
        return Err(not_found("the VMM has no balloon".into()));
    }
    // Without this right the cache stays, and less is free.
    let _ = std::fs::write("/proc/sys/vm/drop_caches", "1");
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Ok(FreeMemory { free_kib: kib(&memory, "MemFree:").unwrap_or_default() })
}

/// Returns the space in the file system of a disk, in the blocks that statvfs(3) counts.
fn filesystem(disk: &Mount) -> Option<FilesystemUsage> {
    let told = statvfs(disk.target.as_str()).ok()?;
    let kib = |blocks: u64| blocks.saturating_mul(told.f_frsize) / 1024;
    Some(FilesystemUsage {
        name: disk.name.clone(),
        size_kib: kib(told.f_blocks),
        used_kib: kib(told.f_blocks.saturating_sub(told.f_bfree)),
        available_kib: kib(told.f_bavail),
    })
}

/// Returns the number in a line of `/proc/meminfo`: `Key:  123 kB`.
fn kib(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key))?.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Returns the time for which the CPUs were busy, from the first line of `/proc/stat` (proc_stat(5)): all that is neither
/// idle nor waiting for a disk. The time of other guests, which the last fields count, is in that of users already.
fn busy_ms(stat: &str) -> Option<u64> {
    let mut fields = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
    let mut next = || fields.next()?.parse::<u64>().ok();
    let (user, nice, system, _idle, _waiting) = (next()?, next()?, next()?, next()?, next()?);
    let (irq, soft_irq) = (next()?, next()?);
    let ticks = [nice, system, irq, soft_irq].iter().try_fold(user, |sum, ticks| sum.checked_add(*ticks))?;
    Some(ticks.saturating_mul(1000 / TICKS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_proc_are_read() {
        let memory = "MemTotal:         116316 kB\nMemFree: 1 kB\nMemAvailable:  98304 kB\n";
        assert_eq!((kib(memory, "MemTotal:"), kib(memory, "MemAvailable:")), (Some(116_316), Some(98_304)));
        assert_eq!((kib("MemTotal: 5\n", "MemTotal:"), kib("", "MemTotal:")), (None, None));
        let stat = "cpu  10 1 20 5000 7 3 4 2 0 0\ncpu0 10 1 20 5000 7 3 4 2 0 0\n";
        assert_eq!((busy_ms(stat), busy_ms("cpu  1 2\n"), busy_ms("")), (Some(380), None, None));
    }
}
