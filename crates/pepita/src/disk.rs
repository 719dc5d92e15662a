//! Disks that outlive their VMs: makes, checks and grows their file systems, and holds their locks.
//!
//! A disk is a file with ext4, or a file or device that the user names. A file that holds anything is never formatted,
//! and no VM's end, restart or removal deletes one. A disk is opened by one VM at a time: its lock (flock(2)) is taken
//! by the monitor before anything looks into the disk, and inherited by the VMM, so that it is held exactly as long as
//! something may write to the disk. QEMU's own lock on the image is a second one.

mod catalogue;
mod file;
mod host_use;
mod layer;
pub(crate) mod superblock;
mod tool;

pub(crate) use catalogue::{Catalogue, Growth};
pub(crate) use layer::open_root;

use crate::error::{Result, io};
use crate::vm_config::Disk;
use file::{Held, Mode};
use pepita_wire::record::CallErrorKind;
use pepita_wire::storage::DEFAULT_SIZE_MB;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use superblock::Superblock;
use tool::{Patience, about};

impl Disk {
    /// Returns the directory of disks in which this one lies; `None` for a file that the user has named.
    fn catalogue(&self) -> Option<Catalogue> {
        self.dir.as_deref().map(Catalogue::of)
    }
}

/// Takes the disks of a VM: makes those that are new, checks those whose last VM has not unmounted them, lets those grow
/// that are to, and returns their locks, in the order of `disks`. `vm` is the run directory of the VM, for others who
/// want the disk. `caller` is readable when the caller has given up.
///
/// # Errors
/// When a disk is in use, holds no ext4 file system, or has errors that `e2fsck -p` does not mend. No disk is changed by
/// a failure, except that what `e2fsck -p` has mended stays mended.
pub(crate) fn take(disks: &[Disk], vm: &Path, caller: Option<&OwnedFd>) -> Result<Vec<File>> {
    let patience = Patience::new(caller);
    disks.iter().map(|disk| take_one(disk, vm, patience)).collect()
}

fn take_one(disk: &Disk, vm: &Path, patience: Patience<'_>) -> Result<File> {
    let Disk { name, file, size_mb, .. } = disk;
    let fail = |kind, why: String| about(name, kind, why);
    file::make_if_absent(disk, size_mb.unwrap_or(DEFAULT_SIZE_MB), patience)?;
    let mode = if disk.read_only { Mode::Read } else { Mode::Write };
    let Some(held) = Held::take_patiently(file, mode).map_err(|e| fail(e.kind, e.message))? else {
        let user = disk.catalogue().and_then(|catalogue| catalogue.last_user(name));
        let user = user.map_or_else(|| "another VM or program".to_owned(), |user| format!("VM {}", user.vm));
        let why = format!("{user} uses {}, and a disk has one user at a time; try again", file.display());
        return Err(fail(CallErrorKind::TryAgain, why));
    };
    let read = || {
        Superblock::read(&held.file).map_err(|e| io(file, e))?.ok_or_else(|| {
            let why = format!(
                "{} holds no ext4 file system, and what holds anything is never formatted; name another file, or \
                 format this one with mkfs.ext4",
                file.display()
            );
            fail(CallErrorKind::Io, why)
        })
    };
    let state = read()?;
    if state.bytes > held.bytes()? {
        let why = format!("{} is shorter than its file system: it was cut short", file.display());
        return Err(fail(CallErrorKind::Io, why));
    }
    if !state.is_clean {
        tool::check(name, file, patience)?;
    }
    if mode == Mode::Write {
        grow(disk, &held, patience)?;
    }
    if let Some(catalogue) = disk.catalogue() {
        catalogue.note_user(name, vm, &disk.mount);
    }
    Ok(held.file)
}

/// Lets a disk grow to the size that it is to have, or that `pepita disk grow` has asked for. A growth that was
/// interrupted goes on. A disk never shrinks.
fn grow(disk: &Disk, held: &Held, patience: Patience<'_>) -> Result<()> {
    let Some(catalogue) = disk.catalogue() else { return Ok(()) };
    let asked = catalogue.growth(&disk.name);
    let wanted = asked.into_iter().chain(disk.size_mb).max();
    let Some(wanted) =
        wanted.filter(|mb| asked.is_some() || held.bytes().is_ok_and(|bytes| bytes < mb << 20))
    else {
        return Ok(());
    };
    catalogue.ask_to_grow(&disk.name, wanted)?;
    file::grow(&disk.name, held, wanted, patience)?;
    catalogue.has_grown(&disk.name);
    Ok(())
}
