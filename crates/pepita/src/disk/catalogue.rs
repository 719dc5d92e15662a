//! The directory of disks: lists them, removes them, and keeps beside each who has used it last and whether it is to
//! grow.
//!
//! ```text
//! NAME.ext4   the disk; its lock tells that it is in use
//! NAME.json   the VM that uses it, or has used it last
//! NAME.grow   the size to which it grows at the next start of its VM, in MiB
//! ```

use super::file::{self, Held, Mode};
use super::tool::{Patience, about};
use crate::error::{Result, io};
use crate::rundir::files::{Sync, read, replace, write};
use pepita_wire::record::CallErrorKind;
use pepita_wire::storage::{DiskRecord, name_fault};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const DISK: &str = "ext4";
const USER: &str = "json";
const GROW: &str = "grow";

/// The number of disks that are named when another one is asked for.
const NAMED: usize = 20;

/// A directory of disks.
#[derive(Debug, Clone)]
pub(crate) struct Catalogue {
    dir: PathBuf,
}

/// The user of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct User {
    /// The name of the VM.
    pub(crate) vm: String,
    /// Its run directory.
    pub(crate) dir: PathBuf,
    /// The place of the disk in the guest.
    pub(crate) mount: String,
}

/// What came of a growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Growth {
    /// The disk has the size now.
    Done,
    /// The disk is in use, and grows at the next start of its VM.
    AtNextStart,
    /// The disk has at least this size.
    NotNeeded,
}

impl Catalogue {
    /// Returns the disks of a directory, which need not be there.
    pub(crate) fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Returns the file of a disk.
    pub(crate) fn disk(&self, name: &str) -> PathBuf {
        self.beside(name, DISK)
    }

    fn beside(&self, name: &str, ending: &str) -> PathBuf {
        // The name may have a dot in it.
        self.dir.join(format!("{name}.{ending}"))
    }

    /// Returns the user of a disk, or its last one.
    pub(crate) fn last_user(&self, name: &str) -> Option<User> {
        read(&self.beside(name, USER)).ok()
    }

    /// Records the user of a disk whose lock the caller holds. It only helps people, so a failure is no error.
    pub(super) fn note_user(&self, name: &str, vm: &Path, mount: &str) {
        let id = vm.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let user = User { vm: id, dir: vm.to_owned(), mount: mount.to_owned() };
        let _ = write(&self.beside(name, USER), &user, Sync::No);
    }

    /// Returns the size to which a disk is to grow, in MiB.
    pub(super) fn growth(&self, name: &str) -> Option<u64> {
        std::fs::read_to_string(self.beside(name, GROW)).ok()?.trim().parse().ok()
    }

    pub(super) fn ask_to_grow(&self, name: &str, size_mb: u64) -> Result<()> {
        replace(&self.beside(name, GROW), size_mb.to_string().as_bytes(), Sync::Yes)
    }

    pub(super) fn has_grown(&self, name: &str) {
        let _ = std::fs::remove_file(self.beside(name, GROW));
    }

    /// Lists the disks, sorted by name.
    ///
    /// # Errors
    /// When the directory cannot be read. One that is absent has no disks.
    pub(crate) fn list(&self) -> Result<Vec<DiskRecord>> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries.flatten(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(io(&self.dir, e)),
        };
        let name = |entry: std::fs::DirEntry| {
            let file = entry.file_name().into_string().ok()?;
            file.strip_suffix(".ext4").filter(|name| name_fault(name).is_none()).map(str::to_owned)
        };
        let mut names: Vec<String> = entries.filter_map(name).collect();
        names.sort();
        Ok(names.into_iter().filter_map(|name| self.record(name)).collect())
    }

    fn record(&self, name: String) -> Option<DiskRecord> {
        let path = self.disk(&name);
        let meta = path.metadata().ok()?;
        let (last_used_by, mount) = self.last_user(&name).map(|user| (user.vm, user.mount)).unzip();
        let user = || last_used_by.clone().unwrap_or_else(|| "unknown".to_owned());
        Some(DiskRecord {
            size_mb: meta.len() >> 20,
            used_mb: (meta.blocks() * 512).div_ceil(1 << 20),
            used_by: Held::is_taken(&path).then(user),
            grows_to_mb: self.growth(&name),
            last_used_by,
            mount,
            path,
            name,
        })
    }

    /// Lets a disk grow: now, or at the next start of the VM that uses it.
    ///
    /// # Errors
    /// When there is no such disk, or its file system cannot be resized.
    pub(crate) fn grow(&self, name: &str, size_mb: u64) -> Result<Growth> {
        let path = self.existing(name)?;
        let now = path.metadata().map_err(|e| io(&path, e))?.len();
        if self.growth(name).is_none() && now >= size_mb << 20 {
            return Ok(Growth::NotNeeded);
        }
        let size_mb = self.growth(name).into_iter().fold(size_mb, u64::max);
        // A growth that is interrupted goes on at the next start.
        self.ask_to_grow(name, size_mb)?;
        let Some(held) = Held::take_patiently(&path, Mode::Write)? else { return Ok(Growth::AtNextStart) };
        file::grow(name, &held, size_mb, Patience::new(None))?;
        self.has_grown(name);
        Ok(Growth::Done)
    }

    /// Returns what is known of a disk.
    ///
    /// # Errors
    /// When there is no such disk.
    pub(crate) fn find(&self, name: &str) -> Result<DiskRecord> {
        self.existing(name)?;
        let gone = || about(name, CallErrorKind::NoSuchVm, "the disk is gone");
        self.record(name.to_owned()).ok_or_else(gone)
    }

    /// Removes a disk with all that is on it.
    ///
    /// # Errors
    /// When there is no such disk, or it is in use.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let path = self.existing(name)?;
        let Some(_held) = Held::take_patiently(&path, Mode::Read)? else {
            let user = self.last_user(name).map_or_else(|| "another program".to_owned(), |user| user.vm);
            let why = format!("{user} uses it; a disk can be removed when its VM has ended");
            return Err(about(name, CallErrorKind::TryAgain, why));
        };
        std::fs::remove_file(&path).map_err(|e| io(&path, e))?;
        for ending in [USER, GROW] {
            let _ = std::fs::remove_file(self.beside(name, ending));
        }
        Ok(())
    }

    fn existing(&self, name: &str) -> Result<PathBuf> {
        let path = Some(self.disk(name)).filter(|path| name_fault(name).is_none() && path.is_file());
        path.ok_or_else(|| {
            let there = self.list().unwrap_or_default();
            let names: Vec<&str> = there.iter().map(|disk| disk.name.as_str()).take(NAMED).collect();
            let more = if there.len() > NAMED { ", …" } else { "" };
            let there = match &names[..] {
                [] => "which has none".to_owned(),
                names => format!("which has {}{more}", names.join(", ")),
            };
            about(name, CallErrorKind::NoSuchVm, format!("no such disk in {}, {there}", self.dir.display()))
        })
    }
}
