//! Mounts disks and shares before the daemon starts, and unmounts them when the guest ends.

use crate::agent::{Agent, Mode};
use crate::first_use;
use crate::process::{children, wait_for_end};
use crate::system;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use pepita_wire::storage::{Mount, MountKind};
use pepita_wire::{ErrorKind, WireError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use rustix::process::{PidfdFlags, pidfd_open};
use std::fs::{File, read_dir};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// The time limit for a device to appear after its driver was loaded.
const DEVICE_DEADLINE: Duration = Duration::from_secs(10);

/// The time limit for the processes of a guest to be gone after SIGKILL.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// Mounts what is not mounted yet, in this order.
///
/// # Errors
/// [`ErrorKind::NotFound`] when there is no such device or no driver, [`ErrorKind::Conflict`] when it cannot be mounted,
/// [`ErrorKind::Unsupported`] for a plain process. What was mounted before stays mounted.
pub(crate) fn mount_all(agent: &Agent, mounts: &[Mount]) -> Result<(), WireError> {
    if agent.mode == Mode::Process {
        return Err(WireError::new(ErrorKind::Unsupported, "a plain process has the host's file system"));
    }
    let mut made = agent.mounts.lock().unwrap_or_else(PoisonError::into_inner);
    for wanted in mounts {
        if made.contains(wanted) {
            continue;
        }
        let Mount { kind, name, .. } = wanted;
        let kind_name = match kind {
            MountKind::Disk => "disk",
            MountKind::Share => "share",
        };
        let failed = |e: WireError| WireError::new(e.kind, format!("{kind_name} {name}: {}", e.message));
        match kind {
            MountKind::Disk => mount_disk(agent, wanted),
            MountKind::Share => mount_share(agent, wanted),
        }
        .map_err(failed)?;
        made.push(wanted.clone());
    }
    Ok(())
}

fn not_found(why: impl Into<String>) -> WireError {
    WireError::new(ErrorKind::NotFound, why)
}

/// Returns the refusal for a step that failed at `target`.
fn conflict(step: &str, target: &str, e: impl Into<io::Error>) -> WireError {
    WireError::new(ErrorKind::Conflict, format!("{step} {target}: {}", e.into()))
}

/// Loads a driver that the image has for the case that it is needed.
fn load_driver(agent: &Agent, driver: &str) -> Result<(), WireError> {
    let modules = agent.image.drivers.get(driver);
    system::load_modules(modules.map_or(&[][..], Vec::as_slice)).map_err(not_found)
}

fn mount_disk(agent: &Agent, wanted: &Mount) -> Result<(), WireError> {
    let Mount { mark, target, read_only, .. } = wanted;
    let has_driver = Path::new("/sys/bus/virtio/drivers/virtio_blk").exists();
    if !has_driver {
        load_driver(agent, "virtio_blk")?;
    }
    if !Path::new("/sys/bus/virtio/drivers/virtio_blk").exists() {
        return Err(not_found(
            "the image has no driver for disks (virtio_blk); build it again with --kernel-package",
        ));
    }
    let device =
        await_disk(mark).map_err(|e| not_found(format!("no device with serial number {mark}: {e}")))?;
    let place = prepare(target)?;
    let flags = if *read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    mount(&device, target.as_str(), "ext4", flags | MountFlags::NODEV | MountFlags::RELATIME, None)
        .map_err(|e| conflict("mounting at", target, e))?;
    if *read_only {
        return Ok(());
    }
    let left_out = first_use::settle(target, &place).map_err(|e| conflict("preparing", target, e))?;
    if let Some(words) = left_out {
        agent.console.write(format!("daemonctl: a new disk at {target}: {words}\n").as_bytes());
    }
    Ok(())
}

fn mount_share(agent: &Agent, wanted: &Mount) -> Result<(), WireError> {
    let Mount { mark, target, read_only, .. } = wanted;
    load_driver(agent, "virtiofs")?;
    prepare(target)?;
    let flags = if *read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    let flags = flags | MountFlags::NODEV | MountFlags::NOSUID;
    mount(mark.as_str(), target.as_str(), "virtiofs", flags, None).map_err(|e| match e {
        rustix::io::Errno::NODEV => {
            not_found("the image has no driver for shares (virtiofs); build it again with --kernel-package")
        }
        e => conflict("mounting at", target, e),
    })
}

/// Makes the directory to mount at, unless the image has it. Returns the directory of the image.
fn prepare(target: &str) -> Result<File, WireError> {
    let made = std::fs::create_dir_all(target).and_then(|()| File::open(target));
    made.map_err(|e| conflict("making", target, e))
}

/// Returns the device of the disk with this serial number, as soon as it is there.
fn await_disk(serial: &str) -> io::Result<PathBuf> {
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, "/dev", WatchFlags::CREATE)?;
    let deadline = Instant::now() + DEVICE_DEADLINE;
    loop {
        // The first look comes after the watch began, so that no device appears unseen in between.
        if let Some(device) = disk_of(serial) {
            return Ok(device);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let limit = Timespec::try_from(left).ok();
        let _ = poll(&mut [PollFd::new(&watch, PollFlags::IN)], limit.as_ref());
        let _ = rustix::io::read(&watch, &mut [0; 4096]);
    }
}

fn disk_of(serial: &str) -> Option<PathBuf> {
    let has_it =
        |dir: &Path| std::fs::read_to_string(dir.join("serial")).is_ok_and(|read| read.trim() == serial);
    let mut disks = read_dir("/sys/block").ok()?.flatten();
    let disk = disks.find(|disk| has_it(&disk.path()))?;
    Some(Path::new("/dev").join(disk.file_name())).filter(|device| device.exists())
}

/// Unmounts all disks and shares, the last one first, after the end of every process that may use them. A disk that
/// cannot be unmounted can no longer be written.
pub(crate) fn unmount_all(agent: &Agent) {
    let mut made = agent.mounts.lock().unwrap_or_else(PoisonError::into_inner);
    if made.is_empty() {
        return;
    }
    end_all_processes();
    for Mount { target, .. } in made.drain(..).rev() {
        if unmount(target.as_str(), UnmountFlags::empty()).is_err() {
            let _ = mount_remount(target.as_str(), MountFlags::RDONLY, c"");
            let _ = unmount(target.as_str(), UnmountFlags::DETACH);
        }
    }
}

/// Kills every process of the guest but this one, and waits until they are gone. The orphans of a process that is killed
/// become children of this one.
fn end_all_processes() {
    let deadline = Instant::now() + KILL_DEADLINE;
    let _ = signal::kill(Pid::from_raw(-1), Signal::SIGKILL);
    while Instant::now() < deadline {
        let running: Vec<_> = children()
            .filter_map(|pid| pidfd_open(crate::process::pid_of(pid)?, PidfdFlags::empty()).ok())
            .collect();
        if running.is_empty() {
            return;
        }
        for handle in &running {
            wait_for_end(handle, Some(deadline.saturating_duration_since(Instant::now())));
        }
        // A process that has ended stays a child until the thread that waits for all children has taken note of it.
        std::thread::yield_now();
    }
}
