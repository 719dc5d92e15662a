//! What a VM has alone: its name, and its CID. Both are locks; here is decided whether they can be had.

use crate::error::{Result, call_error, io};
use crate::host::wait::wait_readable;
use crate::rundir::RunDir;
use crate::rundir::cid::{self, Wanted};
use crate::rundir::files::{self, State};
use crate::rundir::layout;
use crate::rundir::lock::{Lock, Wait};
use pepita_wire::record::{CallErrorKind, Transport};
use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

/// How often a name is tried to be claimed while somebody holds its lock who is no monitor, or not yet, or no longer.
const CLAIM_TRIES: usize = 200;
const CLAIM_PAUSE: Duration = Duration::from_millis(10);

/// Claims a name: makes its directory and takes its lock.
pub(super) fn name(dir: &Path) -> Result<Lock> {
    let taken = |why: &str| call_error(CallErrorKind::NameTaken, why.to_owned());
    for _ in 0..CLAIM_TRIES {
        match DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(io(dir, e)),
        }
        match Lock::take(&dir.join(layout::LOCK), Wait::No) {
            Ok(Some(lock)) => {
                if outlived_its_monitor(dir) {
                    return Err(taken(
                        "a VM of this name runs without a monitor; `pepita adopt` or `pepita destroy` it",
                    ));
                }
                return Ok(lock);
            }
            // A monitor, or somebody who only looks and is gone in a moment.
            Ok(None) if crate::monitor::conn::unix(&dir.join(layout::CONTROL)).is_ok() => {
                return Err(taken("the name is taken; `pepita destroy` the VM of this name first"));
            }
            Ok(None) => await_end_of_monitor(dir),
            // Somebody removed the directory meanwhile.
            Err(_) if !dir.exists() => {}
            Err(e) => return Err(e),
        }
    }
    Err(taken("the name is being taken by another, or given back; try again"))
}

/// A monitor on its way out is waited for; of one on its way in, nobody knows yet who it is.
fn await_end_of_monitor(dir: &Path) {
    let state: Option<State> = files::read(&dir.join(layout::STATE));
    match state.and_then(|state| state.monitor).and_then(|monitor| monitor.open()) {
        Some(monitor) => drop(wait_readable(&monitor, CLAIM_PAUSE)),
        None => std::thread::sleep(CLAIM_PAUSE),
    }
}

fn outlived_its_monitor(dir: &Path) -> bool {
    let state: Option<State> = files::read(&dir.join(layout::STATE));
    state.and_then(|state| state.vmm).is_some_and(|vmm| vmm.open().is_some())
}

/// The CID, its lock, and on the kernel transport the device that holds it.
pub(super) fn cid(
    dir: &RunDir,
    wanted: Wanted,
    transport: Transport,
) -> Result<(u32, Lock, Option<OwnedFd>)> {
    let mut from = cid::MIN;
    loop {
        let (cid, lock) = cid::claim(dir, wanted, from)?;
        if transport == Transport::Hybrid {
            return Ok((cid, lock, None));
        }
        match crate::host::vhost_vsock::claim(cid) {
            Ok(fd) => return Ok((cid, lock, Some(fd))),
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::ADDRINUSE.raw_os_error()) => {
                let _ = std::fs::remove_file(cid::path(dir, cid));
                if wanted != Wanted::Any {
                    return Err(call_error(
                        CallErrorKind::CidTaken,
                        format!(
                            "CID {cid} is held by another program on this host; choose another or leave it out"
                        ),
                    ));
                }
                from = cid + 1;
            }
            Err(e) => {
                let _ = std::fs::remove_file(cid::path(dir, cid));
                return Err(io(Path::new(crate::host::vhost_vsock::DEVICE), e));
            }
        }
    }
}
