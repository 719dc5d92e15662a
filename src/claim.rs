//! The claim of a supervisor's name in a directory of run directories: while one supervisor holds the claim, no other
//! one of that name works on the VMs there.
//!
//! A claim is the lock of a file, `.owners/<name>`, which holds the process id of its holder for people. The kernel gives
//! the lock back when the holder dies, however it dies. No other user can hold the lock: the directory has the mode 0700
//! and the file 0600. Nothing waits for a lock.

use crate::lock::{holder, open_lock, try_lock};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::{DirBuilder, File, Metadata, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The directory of claims, in the directory of run directories. No VM can have such a name.
const OWNERS: &str = ".owners";

/// The longest name of a file that is the supervisor's name as it is, in bytes; a longer one ends with a hash.
const PLAIN_CAP: usize = 100;

/// The reason why a supervisor's name cannot be claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another supervisor of that name runs.
    #[error(
        "the VMs of {owner:?} in {run_dir} belong to another supervisor of that name, which runs{pid}; stop it first, or give this one another supervisor.name or another run_dir",
        run_dir = .run_dir.display(),
        pid = .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    Taken {
        /// The name that both supervisors have.
        owner: String,
        /// The directory of run directories that both supervisors use.
        run_dir: PathBuf,
        /// The process of the other supervisor, if it is known.
        pid: Option<u32>,
    },
    /// The directory of the claims is none, or another user could change it.
    #[error("{}: is no directory of this user; remove it, or choose another run_dir", .0.display())]
    NotOurs(PathBuf),
    /// Reading or writing failed.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

/// The claim of one supervisor. It ends when it is released or dropped, or with the process.
#[derive(Debug)]
pub(crate) struct Claim {
    run_dir: PathBuf,
    owner: String,
    /// The file whose lock is held, until the claim is released.
    file: Mutex<Option<File>>,
}

impl Claim {
    /// Claims the name `owner` in a directory of run directories, which is made if necessary. Blocks on the disk, and
    /// never on another process.
    ///
    /// # Errors
    /// Returns an error when another supervisor has claimed the name, or the directory cannot be used.
    pub(crate) fn take(run_dir: &Path, owner: &str) -> Result<Self, ClaimError> {
        let file = Mutex::new(Some(lock(run_dir, owner)?));
        Ok(Self { run_dir: run_dir.to_owned(), owner: owner.to_owned(), file })
    }

    /// Makes sure that the claim still excludes others: the file may have been removed, together with the whole
    /// directory or by a program that tidies up. Then the claim is made anew. Blocks as [`Claim::take`] does.
    ///
    /// # Errors
    /// Returns an error when another supervisor has claimed the name meanwhile, or the claim was released.
    pub(crate) fn renew(&self) -> Result<(), ClaimError> {
        let (mut held, path) = (self.file(), path(&self.run_dir, &self.owner));
        match &*held {
            Some(file) if is_at(file, &path) => {}
            Some(_) => *held = Some(lock(&self.run_dir, &self.owner)?),
            None => {
                return Err(ClaimError::Io { path, source: io::Error::other("the claim was given back") });
            }
        }
        Ok(())
    }

    /// Returns the directory of run directories.
    pub(crate) fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// Gives the claim back: another supervisor may take it.
    pub(crate) fn release(&self) {
        let path = path(&self.run_dir, &self.owner);
        // The lock is still held: the file of another supervisor is not removed.
        if let Some(file) = self.file().take()
            && is_at(&file, &path)
        {
            // A file that stays excludes nobody.
            let _ = std::fs::remove_file(&path);
        }
    }

    fn file(&self) -> MutexGuard<'_, Option<File>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.release();
    }
}

/// Returns the file whose lock is the claim of a name.
fn path(run_dir: &Path, owner: &str) -> PathBuf {
    run_dir.join(OWNERS).join(file_name(owner))
}

/// Returns a name for a file that no other supervisor's name has: the name itself, where a file can have it.
fn file_name(owner: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !owner.is_empty() && owner.len() <= PLAIN_CAP && owner.chars().all(is_plain) {
        return owner.to_owned();
    }
    let kept: String = owner.chars().map(|c| if is_plain(c) { c } else { '_' }).take(PLAIN_CAP / 2).collect();
    // A plain name has no dot, and the name of no file begins with one.
    Sha256::digest(owner).iter().fold(format!("_{kept}."), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    })
}

fn lock(run_dir: &Path, owner: &str) -> Result<File, ClaimError> {
    let owners = run_dir.join(OWNERS);
    let fail = |path: &Path, source| ClaimError::Io { path: path.to_owned(), source };
    for dir in [run_dir, &owners] {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| fail(dir, e))?;
    }
    let meta = owners.symlink_metadata().map_err(|e| fail(&owners, e))?;
    if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(ClaimError::NotOurs(owners));
    }
    if meta.permissions().mode() & 0o077 != 0 {
        std::fs::set_permissions(&owners, Permissions::from_mode(0o700)).map_err(|e| fail(&owners, e))?;
    }
    let path = path(run_dir, owner);
    loop {
        let mut file = open_lock(&path).map_err(|e| fail(&path, e))?;
        if !try_lock(&file).map_err(|e| fail(&path, e))? {
            let pid = holder(&file).map(|holder| holder.pid);
            return Err(ClaimError::Taken { owner: owner.to_owned(), run_dir: run_dir.to_owned(), pid });
        }
        // Between opening and locking, the former holder may have removed the file. A lock on a removed file excludes
        // nobody.
        if !is_at(&file, &path) {
            continue;
        }
        let written =
            file.set_len(0).and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
        // The process id is for people: on a full disk the claim holds without it.
        if let Err(e) = written {
            tracing::warn!("{}: {e}", path.display());
        }
        return Ok(file);
    }
}

/// Returns whether an open file is the one at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |meta: &Metadata| (meta.dev(), meta.ino());
    let there = path.symlink_metadata();
    file.metadata().is_ok_and(|ours| there.is_ok_and(|there| identity(&ours) == identity(&there)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_excludes_others_until_it_is_dropped_and_leaves_no_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let run_dir = dir.path().join("r");
        let first = Claim::take(&run_dir, "edge").expect("free");
        let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&run_dir.join(OWNERS)), mode(&path(&run_dir, "edge"))), (0o700, 0o600));
        let error = Claim::take(&run_dir, "edge").expect_err("taken");
        assert!(matches!(error, ClaimError::Taken { pid: Some(pid), .. } if pid == std::process::id()));
        let other = Claim::take(&run_dir, "core").expect("another name");
        let elsewhere = Claim::take(&dir.path().join("q"), "edge").expect("another directory");
        drop((first, other));
        assert_eq!(std::fs::read_dir(run_dir.join(OWNERS)).expect("there").count(), 0);
        drop(Claim::take(&run_dir, "edge").expect("free again"));
        drop(elsewhere);
    }

    #[test]
    fn a_claim_whose_file_was_removed_is_made_anew_unless_another_was_faster() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = Claim::take(dir.path(), "edge").expect("free");
        std::fs::remove_dir_all(dir.path().join(OWNERS)).expect("removed");
        first.renew().expect("nobody else");
        assert!(matches!(Claim::take(dir.path(), "edge"), Err(ClaimError::Taken { .. })));
        std::fs::remove_file(path(dir.path(), "edge")).expect("removed");
        let second = Claim::take(dir.path(), "edge").expect("not to be seen as taken");
        assert!(matches!(first.renew(), Err(ClaimError::Taken { .. })));
        drop(first);
        assert!(path(dir.path(), "edge").exists(), "the file of the other supervisor stays");
        second.renew().expect("held");
    }

    #[test]
    fn a_directory_that_others_could_open_is_closed_and_a_link_is_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let owners = dir.path().join(OWNERS);
        std::fs::create_dir(&owners).expect("made");
        std::fs::set_permissions(&owners, Permissions::from_mode(0o777)).expect("opened");
        drop(Claim::take(dir.path(), "edge").expect("free"));
        assert_eq!(owners.metadata().expect("there").permissions().mode() & 0o777, 0o700);
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "kept").expect("written");
        std::os::unix::fs::symlink(&victim, owners.join("edge")).expect("linked");
        assert!(matches!(Claim::take(dir.path(), "edge"), Err(ClaimError::Io { .. })));
        assert_eq!(std::fs::read_to_string(&victim).expect("there"), "kept");
        std::fs::remove_dir_all(&owners).expect("removed");
        std::os::unix::fs::symlink(dir.path(), &owners).expect("linked");
        assert!(matches!(Claim::take(dir.path(), "edge"), Err(ClaimError::NotOurs(_))));
    }

    #[test]
    fn every_name_has_a_file_of_its_own() {
        let long = "x".repeat(300);
        let names = ["edge", "Edge", "..", "", "a/b", "a_b", "a b", ".", &long, &long[..299]];
        let files: std::collections::BTreeSet<String> = names.iter().map(|name| file_name(name)).collect();
        assert_eq!(files.len(), names.len(), "{files:?}");
        assert!(files.iter().all(|file| file.len() < 255 && !file.contains('/') && !file.starts_with('.')));
    }
}
