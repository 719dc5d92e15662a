//! Claims on the user ids that the processes of root's VMs become: two for each VM, one for the VMM and one for its back-end.
//! They are the same for all directories of run directories, because the users of a host are. Each claim is a file whose
//! lock the monitor, the VMM and the back-end hold.

use crate::error::{Result, call_error, io};
use crate::host::users;
use crate::rundir::lock::{Lock, Wait};
use crate::vm_config::Uids;
use pepita_wire::record::CallErrorKind;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The directory of the claims. Only root claims user ids.
const PLACE: &str = "/run/pepita-uids";

/// The claim of two user ids, which lasts as long as the lock is held, in this process or in a process that inherits the
/// lock's file.
#[derive(Debug)]
pub struct UidClaim {
    /// The first of the user ids.
    pub first: u32,
    /// The lock that is the claim.
    pub lock: Lock,
}

/// Claims two user ids of `range`: the first ones that no other VM holds, that no process has, and that the host gives to
/// no user's own range (subuid(5)).
///
/// # Errors
/// [`CallErrorKind::TryAgain`] when there are none.
pub fn claim(range: Uids) -> Result<UidClaim> {
    claim_in(Path::new(PLACE), range)
}

fn claim_in(place: &Path, range: Uids) -> Result<UidClaim> {
    DirBuilder::new().recursive(true).mode(0o700).create(place).map_err(|e| io(place, e))?;
    crate::rundir::check_own(place)?;
    let (given, used) = (users::given(), users::of_processes());
    let is_free = |first: u32| {
        [first, first + 1]
            .iter()
            .all(|uid| !used.contains(uid) && !given.iter().any(|range| range.contains(uid)))
    };
    for first in range.pairs().filter(|first| is_free(*first)) {
        if let Some(lock) = Lock::take(&path(place, first), Wait::No)? {
            return Ok(UidClaim { first, lock });
        }
    }
    let why = format!(
        "jail: no two user ids of {range} are free: other VMs or processes have them, or /etc/subuid or /etc/subgid gives \
         them to users; choose another range (--jail-uids, $PEPITA_JAIL_UIDS, jail_uids of [supervisor])"
    );
    Err(call_error(CallErrorKind::TryAgain, why))
}

impl UidClaim {
    /// Gives the user ids back, unless a process of the VM has inherited the lock.
    pub fn give_back(self) {
        let path = path(Path::new(PLACE), self.first);
        if self.lock.is_at(&path) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Gives the user ids of a VM back whose processes have ended, unless another VM has claimed them meanwhile.
pub fn release(first: u32) {
    release_in(Path::new(PLACE), first);
}

fn release_in(place: &Path, first: u32) {
    let path = path(place, first);
    if path.exists()
        && let Ok(Some(lock)) = Lock::take(&path, Wait::No)
    {
        let _ = std::fs::remove_file(&path);
        drop(lock);
    }
}

fn path(place: &Path, first: u32) -> PathBuf {
    place.join(first.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_vms_never_have_the_same_user_id_and_a_range_can_be_full() {
        let dir = tempfile::tempdir().expect("a directory");
        let range: Uids = "4000000000-4000000004".parse().expect("a range");
        let claim = || claim_in(dir.path(), range);
        let (a, b) = (claim().expect("free"), claim().expect("free"));
        assert_eq!((a.first, b.first), (4_000_000_000, 4_000_000_002));
        let full = claim().expect_err("full");
        assert_eq!(full.kind, CallErrorKind::TryAgain);
        assert!(full.message.contains("4000000000-4000000004"), "{}", full.message);
        release_in(dir.path(), a.first);
        assert!(path(dir.path(), a.first).exists(), "it is held");
        drop(a);
        release_in(dir.path(), 4_000_000_000);
        assert!(!path(dir.path(), 4_000_000_000).exists());
        assert_eq!(claim().expect("free").first, 4_000_000_000);
    }
}
