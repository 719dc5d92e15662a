//! The run directory of a VM that was promoted from a warm spare. Its processes name that directory in their
//! environment, so that it keeps the name of the spare: it is lent to the VM, whose own name is a symbolic link to it.
//!
//! The link takes the place of the former run directory in one step (RENAME_EXCHANGE, renameat2(2)), so that the name
//! stands for the one or for the other at every moment.

use crate::error::{Result, call_error, io, system};
use crate::host::random;
use crate::rundir::lock::{Lock, VmLock};
use crate::rundir::{console_log, files, layout};
use pepita_wire::record::CallErrorKind;
use pepita_wire::{Stored, VmId};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The number of attempts to take a lock that another call may hold for a moment, and the pause between two.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(1);

/// The name in the configuration of a VM.
#[derive(Deserialize)]
struct Named {
    name: String,
}

/// The former run directory of a name, which waits to be removed.
#[derive(Debug)]
pub struct Former(PathBuf);

/// Returns the run directory that is lent to the VM of this name; `None` for a VM with a run directory of its own.
pub fn home(name: &Path) -> Option<PathBuf> {
    let target = name.read_link().ok()?;
    let id = VmId::new(target.to_str()?).ok()?;
    Some(name.parent()?.join(id.as_str()))
}

/// Returns whether a run directory is lent to a VM of another name.
pub fn is_lent(dir: &Path) -> bool {
    let Stored::Read(Named { name }) = files::read(&dir.join(layout::CONFIG)) else { return false };
    let own = dir.file_name().is_some_and(|own| own.as_encoded_bytes() == name.as_bytes());
    !own && VmId::new(&name).is_ok() && home(&dir.with_file_name(name)).as_deref() == Some(dir)
}

/// Makes a name stand for this run directory, which lies beside it. The VM that had the name must have ended.
///
/// # Errors
/// [`CallErrorKind::NameTaken`] when a VM of that name may run. Nothing has changed then.
pub fn take_name(dir: &Path, name: &Path) -> Result<Former> {
    let own = dir.file_name().unwrap_or_default();
    let parent = name.parent().unwrap_or(name);
    let link = parent.join(format!("{}{}-{}", layout::GONE, std::process::id(), random::secret()?));
    std::os::unix::fs::symlink(own, &link).map_err(|e| io(&link, e))?;
    exchange(name, &link).inspect_err(|_| drop(std::fs::remove_file(&link)))?;
    Ok(Former(link))
}

/// Puts a link in the place of a name, and what had the name in the place of the link.
fn exchange(name: &Path, link: &Path) -> Result<()> {
    let rename = |flags| {
        let renamed = renameat_with(CWD, link, CWD, name, flags);
        renamed.map_err(|e| system("the name of the VM", std::io::Error::from(e)))
    };
    if !check_ended(name)? {
        return rename(RenameFlags::NOREPLACE);
    }
    // No launch claims the name meanwhile: it would take the lock first.
    let Some(_lock) = hold(name)? else {
        // The monitor of the ended VM holds the lock, which a launch may have taken just after it.
        rename(RenameFlags::EXCHANGE)?;
        return match hold(link) {
            Ok(_) => Ok(()),
            Err(e) => rename(RenameFlags::EXCHANGE).and(Err(e)),
        };
    };
    rename(RenameFlags::EXCHANGE)
}

/// Takes the lock of the run directory of a VM that has ended. `None`: the monitor of that VM still holds it.
///
/// # Errors
/// [`CallErrorKind::NameTaken`] when another process holds it.
fn hold(dir: &Path) -> Result<Option<Lock>> {
    for _ in 0..TRIES {
        match Lock::take_of_vm(dir)? {
            VmLock::Taken(lock) => return Ok(Some(lock)),
            VmLock::Absent => return Ok(None),
            VmLock::Held => {}
        }
        let monitor = files::state(dir).ok().and_then(|state| state.monitor);
        if monitor.and_then(|monitor| monitor.open()).is_some() {
            return Ok(None);
        }
        // A call that only reads the status releases the lock soon.
        std::thread::sleep(PAUSE);
    }
    Err(call_error(CallErrorKind::NameTaken, "the name is being taken by another".to_owned()))
}

/// Returns whether there is a run directory of that name. A link without its target is one that was not removed.
///
/// # Errors
/// When the VM may run.
fn check_ended(name: &Path) -> Result<bool> {
    if name.symlink_metadata().is_err() {
        return Ok(false);
    }
    let has_ended = match files::state(name) {
        Stored::Read(state) => state.status.exit.is_some(),
        Stored::Absent => {
            std::fs::read_dir(name).is_ok_and(|mut entries| entries.next().is_none()) || !name.exists()
        }
        Stored::Unreadable(_) => false,
    };
    if has_ended {
        return Ok(true);
    }
    let why = format!("{}: a VM of this name has not ended", name.display());
    Err(call_error(CallErrorKind::NameTaken, why))
}

impl Former {
    /// Removes the former run directory. What cannot be removed now is removed with the next one.
    pub fn remove(self) {
        let Self(path) = self;
        console_log::remove_elsewhere(&path);
        if let Some(lent) = home(&path) {
            let _ = std::fs::remove_dir_all(lent);
        }
        let _ = std::fs::remove_dir_all(&path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rundir::files::{State, Sync};
    use pepita_wire::{ExitRecord, StatusRecord};

    fn vm(top: &Path, place: &str, name: &str, has_ended: bool) -> PathBuf {
        let dir = top.join(place);
        std::fs::create_dir_all(&dir).expect("made");
        let exit = has_ended.then(ExitRecord::default);
        let state = State { status: StatusRecord { exit, ..StatusRecord::default() }, ..State::default() };
        files::write(&dir.join(layout::STATE), &state, Sync::No).expect("written");
        named(&dir, name);
        dir
    }

    fn named(dir: &Path, name: &str) {
        files::write(&dir.join(layout::CONFIG), &serde_json::json!({ "name": name }), Sync::No)
            .expect("written");
    }

    #[test]
    fn a_name_passes_from_one_run_directory_to_the_next() {
        let top = tempfile::tempdir().expect("a directory");
        let top = top.path();
        let (name, first) = (vm(top, "a", "a", true), vm(top, "a-1", "a-1", false));
        assert!(!is_lent(&name) && !is_lent(&first) && home(&name).is_none());
        let former = take_name(&first, &name).expect("taken");
        assert_eq!(home(&name), Some(first.clone()));
        assert!(!is_lent(&first), "its configuration does not say so yet");
        named(&first, "a");
        assert!(is_lent(&first) && !is_lent(&name));
        former.remove();
        assert_eq!(std::fs::read_dir(top).expect("readable").count(), 2);

        let second = vm(top, "a-2", "a-2", false);
        let refused = take_name(&second, &name).expect_err("it runs");
        assert_eq!(refused.kind, CallErrorKind::NameTaken);
        assert_eq!(
            (home(&name), std::fs::read_dir(top).expect("readable").count()),
            (Some(first.clone()), 3)
        );
        vm(top, "a-1", "a", true);
        let former = take_name(&second, &name).expect("taken");
        named(&second, "a");
        assert!(is_lent(&second) && !is_lent(&first));
        former.remove();
        assert!(!first.exists());
        assert_eq!(std::fs::read_dir(top).expect("readable").count(), 2);

        // A launch that has claimed the name keeps it.
        let launch = Lock::take_of_vm(&name).expect("readable");
        assert!(matches!(launch, VmLock::Taken(_)));
        let other = vm(top, "a-3", "a-3", false);
        vm(top, "a-2", "a", true);
        assert_eq!(take_name(&other, &name).expect_err("claimed").kind, CallErrorKind::NameTaken);
        assert_eq!(home(&name), Some(second.clone()));
        drop(launch);
        take_name(&other, &name).expect("taken").remove();
        assert_eq!(home(&name), Some(other));

        let third = vm(top, "b-1", "b-1", false);
        take_name(&third, &top.join("b")).expect("taken").remove();
        assert_eq!(home(&top.join("b")), Some(third));
    }
}
