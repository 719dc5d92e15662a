//! The run directory of a VM that was promoted from a warm spare. Its processes name that directory in their
//! environment, so that it keeps the name of the spare: it is lent to the VM, whose own name is a symbolic link to it.
//!
//! The link takes the place of the former run directory in one step (RENAME_EXCHANGE, renameat2(2)), so that the name
//! stands for the one or for the other at every moment.

use crate::error::{Result, call_error, io, system};
use crate::host::random;
use crate::rundir::{console_log, files, layout};
use pepita_wire::record::CallErrorKind;
use pepita_wire::{Stored, VmId};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::Deserialize;
use std::path::{Path, PathBuf};

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
    let flags = match check_ended(name) {
        Ok(true) => RenameFlags::EXCHANGE,
        Ok(false) => RenameFlags::NOREPLACE,
        Err(e) => {
            let _ = std::fs::remove_file(&link);
            return Err(e);
        }
    };
    if let Err(e) = renameat_with(CWD, &link, CWD, name, flags) {
        let _ = std::fs::remove_file(&link);
        return Err(system("the name of the VM", std::io::Error::from(e)));
    }
    Ok(Former(link))
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

        let third = vm(top, "b-1", "b-1", false);
        take_name(&third, &top.join("b")).expect("taken").remove();
        assert_eq!(home(&top.join("b")), Some(third));
    }
}
