//! The directory of run directories, and the run directory of each VM in it. The run directory is the only database:
//! its lock is the claim of the VM's name, and shows whether the VM's monitor is alive.

pub mod cid;
pub mod console_log;
pub mod ends;
pub mod files;
pub mod layout;
pub mod lock;
pub mod monitor_log;
pub mod tsc;

use crate::error::{Result, call_error, io};
use crate::host::random;
use pepita_wire::VmId;
use pepita_wire::record::CallErrorKind;
use pepita_wire::rundir::{ENVIRONMENT, SOCKET_PATH_CAP};
use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The directory of run directories.
#[derive(Debug, Clone)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Chooses `--run-dir`, else `$PEPITA_RUN_DIR`, else `$XDG_RUNTIME_DIR/pepita`, else `/run/pepita` (root) or
    /// `/tmp/pepita-<uid>`.
    ///
    /// # Errors
    /// When the directory belongs to another user.
    pub fn choose(option: Option<&Path>) -> Result<Self> {
        let from_environment =
            |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let uid = rustix::process::geteuid();
        let path = option
            .map(Path::to_owned)
            .or_else(|| from_environment(ENVIRONMENT))
            .or_else(|| from_environment("XDG_RUNTIME_DIR").map(|dir| dir.join("pepita")))
            .unwrap_or_else(|| match uid.is_root() {
                true => PathBuf::from("/run/pepita"),
                false => PathBuf::from(format!("/tmp/pepita-{}", uid.as_raw())),
            });
        let path = std::path::absolute(&path).map_err(|e| io(&path, e))?;
        match path.metadata() {
            // Every user may write to /tmp, so another user could have created the directory.
            Ok(meta) if meta.uid() != uid.as_raw() && !uid.is_root() => Err(call_error(
                CallErrorKind::Permission,
                format!("{}: belongs to another user; name one of yours with --run-dir", path.display()),
            )),
            Ok(_) | Err(_) => Ok(Self { path }),
        }
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
        for dir in [self.path.clone(), self.path.join(layout::CIDS), self.cache()] {
            DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|e| io(&dir, e))?;
        }
        Ok(())
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
        let longest = dir.join(layout::CONSOLE).as_os_str().len();
        if longest > SOCKET_PATH_CAP {
            let over = longest - SOCKET_PATH_CAP;
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

    /// Returns the names of all VMs that have a run directory, sorted. Returns no names when the directory is absent,
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
        let mut names: Vec<VmId> =
            entries.filter_map(|entry| VmId::new(entry.file_name().to_str()?).ok()).collect();
        names.sort();
        Ok(names)
    }
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
    std::fs::rename(dir, &gone).map_err(|e| io(dir, e))?;
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
