//! The directory of run directories, and one VM's in it. The run directory is the database: its lock is the claim of a
//! name and the answer to "is its monitor alive".

pub mod cid;
pub mod files;
pub mod layout;
pub mod lock;

use crate::error::{Result, call_error, io};
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
    /// `--run-dir`, else `$PEPITA_RUN_DIR`, else `$XDG_RUNTIME_DIR/pepita`, else `/run/pepita` (root) or `/tmp/pepita-<uid>`.
    ///
    /// # Errors
    /// When it is another user's.
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
            // In /tmp somebody else could have put it there.
            Ok(meta) if meta.uid() != uid.as_raw() && !uid.is_root() => Err(call_error(
                CallErrorKind::Permission,
                format!("{}: belongs to another user; name one of yours with --run-dir", path.display()),
            )),
            _ => Ok(Self { path }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it, and what is always in it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(&self) -> Result<()> {
        for dir in [self.path.clone(), self.path.join(layout::CIDS), self.path.join(layout::CACHE)] {
            DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|e| io(&dir, e))?;
        }
        Ok(())
    }

    /// A VM's run directory.
    pub fn vm(&self, name: &VmId) -> PathBuf {
        self.path.join(name.as_str())
    }

    /// A VM's run directory, if its sockets can be named at all.
    ///
    /// # Errors
    /// When the path is too long for a Unix socket (unix(7)).
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

    /// The names of all VMs that have a run directory, sorted.
    ///
    /// # Errors
    /// When it cannot be read: that is not to be taken for "none". Before the first VM it is not there, and there are none.
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

/// Removes a VM's run directory, whose lock is ours. It is gone at once, before its files are: whoever claims the name
/// meanwhile makes a directory of its own, and loses nothing in it.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(dir: &Path) -> Result<()> {
    let parent = dir.parent().unwrap_or(dir);
    let gone =
        parent.join(format!("{}{}-{}", layout::GONE, std::process::id(), crate::host::random::secret()?));
    std::fs::rename(dir, &gone).map_err(|e| io(dir, e))?;
    let removed = std::fs::remove_dir_all(&gone).map_err(|e| io(&gone, e));
    // Those of others that were killed over it, too.
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(layout::GONE) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    // Somebody else's help is no failure.
    if gone.exists() { removed } else { Ok(()) }
}
