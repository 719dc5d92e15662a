//! Claims on CIDs among the VMs of one directory of run directories. Each claim is a file whose lock the monitor and
//! the VMM hold.

use crate::error::{Result, call_error};
use crate::rundir::lock::{Lock, Wait};
use crate::rundir::{RunDir, layout};
use crate::vm_config::Cid;
use pepita_wire::record::CallErrorKind;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The CID that a launch asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// Exactly this CID.
    Fixed(Cid),
    /// Any free CID.
    #[default]
    Any,
}

impl std::str::FromStr for Wanted {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Any);
        }
        match text.parse().ok().and_then(Cid::new) {
            Some(cid) => Ok(Self::Fixed(cid)),
            None => Err(format!("a guest's CID is a number from {} to {}, or `auto`", Cid::MIN, Cid::MAX)),
        }
    }
}

/// Returns the file whose lock is the claim of `cid`.
pub fn path(dir: &RunDir, cid: Cid) -> PathBuf {
    dir.path().join(layout::CIDS).join(cid.to_string())
}

/// Claims a CID. The search for any free CID begins at `from`. The claim lasts as long as the lock is held, in this
/// process or in a process that inherits the lock's file.
///
/// # Errors
/// [`CallErrorKind::CidTaken`] when another VM holds the CID.
pub fn claim(dir: &RunDir, wanted: Wanted, from: Cid) -> Result<(Cid, Lock)> {
    let lock = |cid: Cid| Lock::take(&path(dir, cid), Wait::No);
    match wanted {
        Wanted::Fixed(cid) => match lock(cid)? {
            Some(lock) => Ok((cid, lock)),
            None => Err(call_error(
                CallErrorKind::CidTaken,
                format!("CID {cid} is taken by another VM; leave out --vsock-cid to get one that is free"),
            )),
        },
        Wanted::Any => {
            for cid in std::iter::successors(Some(from), |cid| cid.next()) {
                if let Some(lock) = lock(cid)? {
                    return Ok((cid, lock));
                }
            }
            Err(call_error(CallErrorKind::CidTaken, "every CID is taken"))
        }
    }
}

/// Removes the file of the claim of `cid`, unless another VM has claimed the CID meanwhile.
pub fn release(dir: &RunDir, cid: Cid) {
    let path = path(dir, cid);
    if path.exists()
        && let Ok(Some(_lock)) = Lock::take(&path, Wait::No)
    {
        let _ = std::fs::remove_file(&path);
    }
}

/// Removes the files of all claims that no process holds: those of VMs of which no readable file names the CID.
pub fn release_unheld(dir: &RunDir) {
    let entries = std::fs::read_dir(dir.path().join(layout::CIDS)).into_iter().flatten().flatten();
    let cids = entries.filter_map(|entry| Cid::new(entry.file_name().to_str()?.parse().ok()?));
    cids.for_each(|cid| release(dir, cid));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_exclusive_until_it_is_dropped() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = RunDir::choose(Some(dir.path())).expect("ours");
        dir.create().expect("made");
        let any = || claim(&dir, Wanted::Any, Cid::MIN).expect("free");
        let three = || claim(&dir, Wanted::Fixed(Cid::MIN), Cid::MIN);
        let (cid, held) = any();
        assert_eq!(cid.get(), 3);
        assert_eq!(any().0.get(), 4);
        assert_eq!(three().expect_err("taken").kind, CallErrorKind::CidTaken);
        release(&dir, cid);
        assert!(path(&dir, cid).exists());
        drop(held);
        assert_eq!(three().expect("free").0, cid);
        release(&dir, cid);
        assert!(!path(&dir, cid).exists());
        let (held, _lock) = any();
        drop(claim(&dir, Wanted::Fixed(Cid::MAX), Cid::MIN).expect("free"));
        release_unheld(&dir);
        assert!(path(&dir, held).exists() && !path(&dir, Cid::MAX).exists());
    }

    #[test]
    fn reserved_cids_are_refused() {
        for text in ["0", "2", "4294967295", "-1", "x"] {
            assert!(text.parse::<Wanted>().is_err(), "{text}");
        }
        assert_eq!("auto".parse(), Ok(Wanted::Any));
        assert_eq!("42".parse(), Ok(Wanted::Fixed(Cid::new(42).expect("a CID"))));
    }
}
