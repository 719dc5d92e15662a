//! The directory of run directories, and one VM's in it. The run directory is the database: its lock is the claim of a
//! name and the answer to "is its monitor alive".

use crate::failure::{Outcome, failure, io};
use crate::names;
use pepita_wire::VmId;
use pepita_wire::record::CallErrorKind;
use pepita_wire::rundir::{ENVIRONMENT, SOCKET_PATH_CAP};
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File};
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
    pub fn choose(option: Option<&Path>) -> Outcome<Self> {
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
            Ok(meta) if meta.uid() != uid.as_raw() && !uid.is_root() => Err(failure(
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
    pub fn create(&self) -> Outcome<()> {
        for dir in [self.path.clone(), self.path.join(names::CIDS), self.path.join(names::CACHE)] {
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
    pub fn checked_vm(&self, name: &VmId) -> Outcome<PathBuf> {
        let dir = self.vm(name);
        let longest = dir.join(names::CONSOLE).as_os_str().len();
        if longest > SOCKET_PATH_CAP {
            let over = longest - SOCKET_PATH_CAP;
            return Err(failure(
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
    pub fn names(&self) -> Outcome<Vec<VmId>> {
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
pub fn remove(dir: &Path) -> Outcome<()> {
    let parent = dir.parent().unwrap_or(dir);
    let gone = parent.join(format!("{}{}-{}", names::GONE, std::process::id(), crate::monitor::secret()?));
    std::fs::rename(dir, &gone).map_err(|e| io(dir, e))?;
    let removed = std::fs::remove_dir_all(&gone).map_err(|e| io(&gone, e));
    // Those of others that were killed over it, too.
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(names::GONE) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    // Somebody else's help is no failure.
    if gone.exists() { removed } else { Ok(()) }
}

/// A lock that is held as long as this lives, in this process or in one that got it as a descriptor.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Whether to wait for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Until it is free.
    Yes,
    /// Not at all.
    No,
}

impl Lock {
    /// Takes the lock of a file, which is made if need be; `None` when another holds it.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn take(path: &Path, wait: Wait) -> Outcome<Option<Self>> {
        loop {
            let open = File::options().create(true).truncate(false).read(true).write(true).open(path);
            let file = open.map_err(|e| io(path, e))?;
            let operation = match wait {
                Wait::Yes => FlockOperation::LockExclusive,
                Wait::No => FlockOperation::NonBlockingLockExclusive,
            };
            match flock(&file, operation) {
                Ok(()) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(e) => return Err(io(path, e)),
            }
            // Between opening and locking the file may have been removed and made again: then this is nobody's lock.
            let same = |now: std::fs::Metadata| file.metadata().is_ok_and(|ours| now.ino() == ours.ino());
            if path.metadata().is_ok_and(same) {
                return Ok(Some(Self { file }));
            }
        }
    }

    /// Whether somebody holds it. Does not make the file.
    pub fn is_held(path: &Path) -> bool {
        let Ok(file) = File::options().read(true).write(true).open(path) else { return false };
        flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    }

    /// The file behind it.
    pub fn file(&self) -> &File {
        &self.file
    }
}
