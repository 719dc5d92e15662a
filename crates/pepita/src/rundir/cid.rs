//! Claims on CIDs among the VMs of this host's run directory: a locked file each, held by monitor and VMM.

use crate::error::{Result, call_error};
use crate::rundir::RunDir;
use crate::rundir::layout;
use crate::rundir::lock::{Lock, Wait};
use pepita_wire::record::CallErrorKind;
use std::path::PathBuf;

/// The lowest CID of a guest: 0 to 2 are reserved (vsock(7)).
pub const MIN: u32 = 3;

/// Which CID is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// This one.
    Fixed(u32),
    /// Any that is free.
    Any,
}

impl std::str::FromStr for Wanted {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Any);
        }
        match text.parse() {
            Ok(cid) if (MIN..u32::MAX).contains(&cid) => Ok(Self::Fixed(cid)),
            _ => Err(format!("a guest's CID is a number from {MIN} to {}, or `auto`", u32::MAX - 1)),
        }
    }
}

/// The file whose lock is the claim of a CID.
pub fn path(dir: &RunDir, cid: u32) -> PathBuf {
    dir.path().join(layout::CIDS).join(cid.to_string())
}

/// Claims a CID; any is looked for from `from` on. The claim lasts as long as the lock, here or in a process that inherits it.
///
/// # Errors
/// [`CallErrorKind::CidTaken`] when another VM has it.
pub fn claim(dir: &RunDir, wanted: Wanted, from: u32) -> Result<(u32, Lock)> {
    let lock = |cid: u32| Lock::take(&path(dir, cid), Wait::No);
    match wanted {
        Wanted::Fixed(cid) => match lock(cid)? {
            Some(lock) => Ok((cid, lock)),
            None => Err(call_error(
                CallErrorKind::CidTaken,
                format!("CID {cid} is taken by another VM; leave out --vsock-cid to get one that is free"),
            )),
        },
        Wanted::Any => {
            for cid in from.max(MIN)..u32::MAX {
                if let Some(lock) = lock(cid)? {
                    return Ok((cid, lock));
                }
            }
            Err(call_error(CallErrorKind::CidTaken, "every CID is taken"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_exclusive_until_it_is_dropped() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = RunDir::choose(Some(dir.path())).expect("ours");
        dir.create().expect("made");
        let (cid, held) = claim(&dir, Wanted::Any, MIN).expect("free");
        assert_eq!(cid, 3);
        assert_eq!(claim(&dir, Wanted::Any, MIN).expect("free").0, 4);
        assert_eq!(claim(&dir, Wanted::Fixed(3), MIN).expect_err("taken").kind, CallErrorKind::CidTaken);
        drop(held);
        assert_eq!(claim(&dir, Wanted::Fixed(3), MIN).expect("free").0, 3);
    }

    #[test]
    fn reserved_cids_are_refused() {
        for text in ["0", "2", "4294967295", "-1", "x"] {
            assert!(text.parse::<Wanted>().is_err(), "{text}");
        }
        assert_eq!("auto".parse(), Ok(Wanted::Any));
        assert_eq!("42".parse(), Ok(Wanted::Fixed(42)));
    }
}
