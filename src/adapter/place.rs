//! Chooses the directory of the adapters' state when none is named. The state has no value after a reboot.

use super::error::AdapterError;
use pepita_wire::rundir::{Place, former_places, places};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The name of the directory in a place.
const NAME: &str = "pepita-adapter";

/// Returns the directory of the adapters' state, unless another one is configured: the one that an adapter of an earlier
/// version has left daemons in, else the first place of the user.
pub(super) fn default_state_dir() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let uid = rustix::process::geteuid().as_raw();
    let places = places(uid, NAME, variable);
    let has_daemons = |place: &&Place| is_own(&place.path) && has_entries(&place.path);
    if let Some(former) = former_places(uid, NAME, variable).iter().find(has_daemons) {
        return former.path.clone();
    }
    let is_usable = |place: &&Place| place.base.as_deref().is_none_or(is_own);
    let place = places.iter().find(is_usable).or(places.last());
    place.map(|place| place.path.clone()).unwrap_or_default()
}

/// Checks that a directory, if it is there, belongs to this user and cannot be changed by another one: who may write to it
/// would choose the programs that are run. A link is not followed.
///
/// # Errors
/// Returns the fault, with the directory.
pub(super) fn check(dir: &Path) -> Result<(), AdapterError> {
    let Ok(meta) = dir.symlink_metadata() else { return Ok(()) };
    let uid = rustix::process::geteuid().as_raw();
    let fault = if meta.is_symlink() {
        "it is a symbolic link"
    } else if meta.uid() != uid {
        "it belongs to another user"
    } else if meta.mode() & open_to_strangers(meta.gid()) != 0 {
        "other users may write to it"
    } else {
        return Ok(());
    };
    Err(AdapterError::Unsafe { dir: dir.to_owned(), fault })
}

fn is_own(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) && check(path).is_ok()
}

/// Returns the bits of a mode that let strangers write. With user private groups, directories are writable by a group of
/// which the user is the only member.
fn open_to_strangers(gid: u32) -> u32 {
    if gid == rustix::process::getegid().as_raw() { 0o002 } else { 0o022 }
}

fn has_entries(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_directory_that_another_user_may_change_and_a_link_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = dir.path().join("own");
        assert!(check(&own).is_ok(), "what is not there will be made");
        std::fs::create_dir(&own).expect("made");
        std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o700)).expect("set");
        assert!(is_own(&own));
        std::os::unix::fs::symlink(&own, dir.path().join("link")).expect("a link");
        assert!(check(&dir.path().join("link")).is_err());
        std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o777)).expect("set");
        assert!(check(&own).is_err());
    }
}
