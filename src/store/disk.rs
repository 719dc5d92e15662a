//! Changes files and folders. Each function blocks until the disk has answered.

use pepita_wire::Stored;
use serde::de::DeserializeOwned;
use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A change of a file or folder.
#[derive(Debug)]
pub enum Change {
    /// The file gets this content, all at once: a reader finds the old content or the new one.
    Replace {
        /// The path of the file.
        path: PathBuf,
        /// The new content of the file.
        content: Vec<u8>,
        /// Whether the content is to survive a power cut.
        synced: bool,
        /// Whether only the owner may read the file.
        private: bool,
    },
    /// The file is removed, also across a power cut. Removing a file that does not exist is no error.
    Remove {
        /// The path of the file.
        path: PathBuf,
    },
    /// The folder is made for its owner alone, with the folders above it, if it does not exist.
    Folder {
        /// The path of the folder.
        path: PathBuf,
    },
}

impl Change {
    /// Returns the path of the file or folder.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Replace { path, .. } | Self::Remove { path } | Self::Folder { path } => path,
        }
    }

    pub(super) fn carry_out(&self) -> io::Result<()> {
        match self {
            Self::Replace { path, content, synced, private } => replace(path, content, *synced, *private),
            Self::Remove { path } => remove(path),
            Self::Folder { path } => make_folder(path),
        }
    }
}

fn replace(path: &Path, content: &[u8], synced: bool, private: bool) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    // Whatever the umask of the host program is, only the owner may write.
    let mode = if private { 0o600 } else { 0o644 };
    let mut file = File::options().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    file.write_all(content)?;
    if synced {
        // The content is on the disk before the name leads to it, and then the name is.
        file.sync_all()?;
    }
    std::fs::rename(&temporary, path)?;
    if synced { sync_folder_of(path) } else { Ok(()) }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(()) => sync_folder_of(path),
    }
}

/// Makes a folder for its owner alone, with the folders above it, if it does not exist. A folder that exists is left as
/// it is: it may be shared on purpose.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    sync_folder_of(path)
}

/// Has the names in the folder of `path` written to the disk.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Reads a file of JSON. Blocks; for the time before there are actors.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Stored<T> {
    Stored::of_json(path, std::fs::read(path))
}

/// Moves a file that cannot be read out of the way of future writes, to a name beside it, and returns the new path.
/// Blocks; for the time before there are actors.
///
/// Returns the reason why the file cannot be moved. Then the file must not be overwritten: people may still be able to
/// read parts of it.
pub(crate) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let mut number = 1_u32;
    loop {
        let mut name = path.as_os_str().to_owned();
        name.push(".unreadable");
        if number > 1 {
            name.push(format!(".{number}"));
        }
        let aside = PathBuf::from(name);
        if !aside.try_exists()? {
            std::fs::rename(path, &aside)?;
            return Ok(aside);
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_set_aside_replaces_no_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.json");
        for (content, name) in [("one", "a.json.unreadable"), ("two", "a.json.unreadable.2")] {
            std::fs::write(&path, content).expect("written");
            let aside = set_aside(&path).expect("moved");
            assert_eq!(aside, dir.path().join(name));
            assert_eq!(std::fs::read_to_string(aside).expect("there"), content);
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_folder_is_made_for_its_owner_and_a_folder_that_exists_is_left() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
        make_folder(&dir.path().join("a/b")).expect("made");
        assert_eq!([mode(&dir.path().join("a")), mode(&dir.path().join("a/b"))], [0o700, 0o700]);
        std::fs::set_permissions(dir.path().join("a"), std::fs::Permissions::from_mode(0o755)).expect("set");
        make_folder(&dir.path().join("a")).expect("there already");
        assert_eq!(mode(&dir.path().join("a")), 0o755);
    }
}
