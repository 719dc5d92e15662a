//! The directory of run directories, and the run directory of each VM in it. The run directory is the only database:
//! its lock is the claim of the VM's name, and shows whether the VM's monitor is alive.

pub mod addresses;
pub mod cid;
pub mod console_log;
pub mod ends;
pub mod files;
pub mod layout;
pub mod lock;
pub mod monitor_log;
pub mod promoted;
pub mod tsc;
pub mod uids;

use crate::error::{Result, call_error, io};
use crate::host::random;
use pepita_wire::VmId;
use pepita_wire::record::CallErrorKind;
use pepita_wire::rundir::{ENVIRONMENT, Place, former_places, places, socket_path_excess};
use std::fs::{DirBuilder, Metadata};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The name of the directory in a place that is not named by the user.
const PLACE: &str = "pepita";

/// The directory of run directories.
#[derive(Debug, Clone)]
pub struct RunDir {
    path: PathBuf,
    /// The directories in which earlier versions put the VMs of this user, if VMs are there.
    former: Vec<PathBuf>,
}

impl RunDir {
    /// Chooses `--run-dir`, else `$PEPITA_RUN_DIR`, else the first place of the user
    /// ([`pepita_wire::rundir::places`]).
    ///
    /// # Errors
    /// When the directory is not safely the user's own.
    pub fn choose(option: Option<&Path>) -> Result<Self> {
        let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let uid = rustix::process::geteuid().as_raw();
        if let Some(path) = option.map(Path::to_owned).or_else(|| variable(ENVIRONMENT).map(PathBuf::from)) {
            let path = std::path::absolute(&path).map_err(|e| io(&path, e))?;
            check_own(&path)?;
            return Ok(Self { path, former: Vec::new() });
        }
        let places = places(uid, PLACE, variable);
        let is_usable = |place: &&Place| place.base.as_deref().is_none_or(is_own);
        let place = places.iter().find(is_usable).or(places.last());
        let path = place.map(|place| place.path.clone()).unwrap_or_default();
        check_own(&path)?;
        let former = former_places(uid, PLACE, variable).into_iter().chain(places);
        let former = former.map(|place| place.path).filter(|former| *former != path && is_own(former));
        let mut former: Vec<PathBuf> = former.filter(|former| has_vms(former)).collect();
        former.dedup();
        Ok(Self { path, former })
    }

    /// Returns the directory that holds the VM of this name: this one, unless only a former one has it.
    #[must_use]
    pub fn holding(&self, name: &VmId) -> Self {
        let has = |place: &PathBuf| place.join(name.as_str()).symlink_metadata().is_ok();
        let former = self.former.iter().find(|former| !has(&self.path) && has(former));
        Self { path: former.unwrap_or(&self.path).clone(), former: Vec::new() }
    }

    /// Returns the former directories that hold VMs.
    pub fn former(&self) -> impl Iterator<Item = Self> {
        self.former.iter().map(|path| Self { path: path.clone(), former: Vec::new() })
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of the cache. Its contents can be created again at any time.
    pub fn cache(&self) -> PathBuf {
        self.path.join(layout::CACHE)
    }

    /// Creates the directory and the subdirectories that are always in it.
    ///
    /// # Errors
    /// When one of the directories cannot be created.
    pub fn create(&self) -> Result<()> {
        let make =
            |dir: &Path| DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| io(dir, e));
        make(&self.path)?;
        // Another user may have made it since it was chosen.
        check_own(&self.path)?;
        make(&self.path.join(layout::CIDS))?;
        make(&self.cache())
    }

    /// Returns a VM's run directory.
    pub fn vm(&self, name: &VmId) -> PathBuf {
        self.path.join(name.as_str())
    }

    /// Returns a VM's run directory, if the paths of its sockets are short enough.
    ///
    /// # Errors
    /// When a path is too long for a Unix socket (unix(7)).
    pub fn checked_vm(&self, name: &VmId) -> Result<PathBuf> {
        let dir = self.vm(name);
        if let Some(over) = socket_path_excess(&self.path, name.as_str()) {
            return Err(call_error(
                CallErrorKind::Usage,
                format!(
                    "{}: too long for a Unix socket by {over} bytes; use a shorter --run-dir or name",
                    dir.display()
                ),
            ));
        }
        Ok(dir)
    }

    /// Returns the names of all VMs that have a run directory, sorted. Foreign files are left out. Returns no names when the directory is absent,
    /// as it is before the first VM.
    ///
    /// # Errors
    /// When the directory cannot be read. Such a directory may contain VMs, so an empty list would be wrong.
    pub fn names(&self) -> Result<Vec<VmId>> {
        let entries = match std::fs::read_dir(&self.path) {
            Ok(entries) => entries.flatten(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(io(&self.path, e)),
        };
        let names = entries.filter_map(|entry| VmId::new(entry.file_name().to_str()?).ok());
        let mut names: Vec<VmId> = names.filter(|name| !is_foreign(&self.vm(name))).collect();
        // A directory that is lent is listed under the name of its VM.
        let lent: Vec<PathBuf> = names.iter().filter_map(|name| promoted::home(&self.vm(name))).collect();
        names.retain(|name| !lent.contains(&self.vm(name)));
        names.sort();
        Ok(names)
    }
}

/// Checks that a directory, if it is there, belongs to this user and cannot be changed by another one. A link is not
/// followed. This holds for root, too: who may write to the directory would choose the processes that root ends.
pub(crate) fn check_own(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(meta) => match fault(&meta) {
            None => Ok(()),
            Some(fault) => {
                let advice = "name a directory of yours with --run-dir";
                let why = format!("{}: {fault}; {advice}", path.display());
                Err(call_error(CallErrorKind::Permission, why))
            }
        },
        // What is not there yet is made with the right owner and mode. Every other error tells itself later.
        Err(_) => Ok(()),
    }
}

/// Returns whether a directory exists, belongs to this user and cannot be changed by another one.
fn is_own(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_dir() && fault(&meta).is_none())
}

fn has_vms(path: &Path) -> bool {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_str().is_some_and(|name| VmId::new(name).is_ok()))
}

/// Returns the reason why a directory is not safely this user's own. A file that is no directory fails when it is used.
fn fault(meta: &Metadata) -> Option<String> {
    if meta.is_symlink() {
        return Some("is a symbolic link".to_owned());
    }
    let uid = rustix::process::geteuid().as_raw();
    if meta.uid() != uid {
        return Some(format!("belongs to another user ({})", meta.uid()));
    }
    // With user private groups, directories are writable by a group of which the user is the only member.
    let strangers = if meta.gid() == rustix::process::getegid().as_raw() { 0o002 } else { 0o022 };
    let is_open = meta.is_dir() && meta.mode() & strangers != 0;
    is_open.then(|| format!("may be written by other users (mode {:o})", meta.mode() & 0o7777))
}

/// Returns whether a path is not the run directory of a VM but something else that is in the directory of run
/// directories: it is no directory, or a file is in it that no VM has, and none that each VM has. It is left as it is.
pub fn is_foreign(dir: &Path) -> bool {
    if promoted::home(dir).is_some() {
        return false;
    }
    match dir.symlink_metadata() {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => return true,
        Err(_) => return false,
    }
    if layout::TRACES.iter().any(|trace| dir.join(trace).symlink_metadata().is_ok()) {
        return false;
    }
    // A directory that cannot be read may be one of a VM, and cannot be removed either.
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| !entry.file_name().to_str().is_some_and(layout::is_known))
}

/// Removes the run directory of a VM. The caller holds its lock. The directory is renamed before its files are removed,
/// so that a launch that claims the name meanwhile creates a new directory and loses no files in it.
///
/// # Errors
/// When the directory cannot be removed.
pub fn remove(dir: &Path) -> Result<()> {
    console_log::remove_elsewhere(dir);
    let parent = dir.parent().unwrap_or(dir);
    let gone = parent.join(format!("{}{}-{}", layout::GONE, std::process::id(), random::secret()?));
    let home = promoted::home(dir);
    let from = home.as_deref().unwrap_or(dir);
    std::fs::rename(from, &gone).map_err(|e| io(from, e))?;
    if home.is_some() && promoted::home(dir) == home {
        std::fs::remove_file(dir).map_err(|e| io(dir, e))?;
    }
    let removed = std::fs::remove_dir_all(&gone).map_err(|e| io(&gone, e));
    // The directories of earlier removals that were killed are removed, too.
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(layout::GONE) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    // Another process may have removed the directory meanwhile.
    if gone.exists() { removed } else { Ok(()) }
}
