//! A directory for work in progress, which nobody else can have prepared.

use crate::error::{Result, io};
use crate::host::random;
use crate::host::unfinished::Unfinished;
use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A new directory with a random name, which only its owner may enter. Dropping it removes it with all that is in it.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    _unfinished: Unfinished,
}

impl Scratch {
    /// Makes a directory in `parent`. `what` is a part of its name.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub(crate) fn new(parent: &Path, what: &str) -> Result<Self> {
        let path = parent.join(format!(".{what}-{}", &random::secret()?[..16]));
        let unfinished = Unfinished::new(&path);
        // This fails when there is anything of that name, a link as well.
        DirBuilder::new().mode(0o700).create(&path).map_err(|e| io(parent, e))?;
        Ok(Self { path, _unfinished: unfinished })
    }

    /// Returns the path of the directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::fs::remove_dir_all(&self.path).is_err() {
            // A copied directory may forbid its owner to remove what is in it.
            open_up(&self.path);
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Lets the owner write to every directory.
fn open_up(dir: &Path) {
    let _ = std::fs::set_permissions(dir, PermissionsExt::from_mode(0o700));
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}
