//! What a VM has alone: its name, and its CID. Both are locks. This file decides whether a request can have them.
//!
//! The name is claimed first: the processes of a former VM of this name may hold the CID, and are ended in between.

use crate::error::{Result, call_error, io};
use crate::host::vhost_vsock;
use crate::host::wait::wait_readable;
use crate::monitor::connect_unix;
use crate::reconcile::{self, Unwatched};
use crate::rundir::cid::{self, Wanted};
use crate::rundir::files;
use crate::rundir::lock::{Lock, Wait};
use crate::rundir::{self, RunDir, layout};
use crate::vm_config::{Cid, VmConfig, VmRequest};
use pepita_wire::record::{CallErrorKind, Transport};
use pepita_wire::{Stored, VmId};
use serde::{Deserialize, Serialize};
use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a name is tried to be claimed while its lock is held by a process that is no monitor, not yet or no longer,
/// and the pause between two tries.
const TRIES: usize = 200;
const PAUSE: Duration = Duration::from_millis(10);

/// A VM that is asked for. It has neither its name nor its CID yet.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Requested {
    /// What is asked for.
    pub request: VmRequest,
    /// The CID that is asked for.
    pub cid: Wanted,
    /// The number of this start; `None` = one more than the last one.
    pub incarnation: Option<u64>,
}

/// A VM that has its name and its CID. Nothing of it runs.
#[derive(Debug)]
pub(crate) struct Claimed {
    /// What it is.
    pub config: VmConfig,
    /// The claim of its name.
    pub name: NameClaim,
    /// The claim of its CID.
    pub cid: CidClaim,
}

/// A run directory whose lock is held.
#[derive(Debug)]
pub(crate) struct NameClaim {
    /// The run directory.
    pub dir: PathBuf,
    /// The lock that is the claim.
    pub lock: Lock,
}

/// A CID that is held.
#[derive(Debug)]
pub(crate) struct CidClaim {
    /// The file of the claim.
    pub path: PathBuf,
    /// The lock of that file.
    pub lock: Lock,
    /// The device that holds the CID, on the kernel transport.
    pub vhost: Option<OwnedFd>,
}

impl Requested {
    /// Claims the name and the CID, and makes the run directory the current one.
    ///
    /// # Errors
    /// When one of them is taken. What a former VM of this name has left stays then.
    pub(crate) fn claim(self, run_dir: &RunDir) -> Result<Claimed> {
        run_dir.create()?;
        let id =
            VmId::new(&self.request.name).map_err(|e| call_error(CallErrorKind::Usage, e.to_string()))?;
        let name = claim_name(run_dir.checked_vm(&id)?)?;
        let former: Option<VmConfig> = files::read(&name.dir.join(layout::CONFIG)).ok();
        let claimed = std::env::set_current_dir(&name.dir).map_err(|e| io(&name.dir, e)).and_then(|()| {
            if former.is_some() {
                // What still runs of the former VM may hold the CID that is wanted.
                reconcile::sweep(run_dir, &name.dir);
            }
            claim_cid(run_dir, self.cid, self.request.transport)
        });
        match claimed {
            Ok((number, cid)) => {
                let next = || former.map_or(1, |former| former.incarnation + 1);
                let incarnation = self.incarnation.unwrap_or_else(next);
                let config = VmConfig { cid: number, incarnation, request: self.request };
                Ok(Claimed { config, name, cid })
            }
            Err(e) => {
                if former.is_none() {
                    name.give_back();
                }
                Err(e)
            }
        }
    }
}

impl Claimed {
    /// Gives everything back. What was made of the VM goes.
    pub(crate) fn give_back(self) {
        let _ = std::fs::remove_file(&self.cid.path);
        self.name.give_back();
    }
}

impl NameClaim {
    /// Removes the run directory, and then frees the name: the directory of the next VM of this name is not removed.
    fn give_back(self) {
        let _ = rundir::remove(&self.dir);
        drop(self.lock);
    }
}

/// Claims a name: makes its directory and takes its lock.
fn claim_name(dir: PathBuf) -> Result<NameClaim> {
    let taken = |why: &str| call_error(CallErrorKind::NameTaken, why.to_owned());
    for _ in 0..TRIES {
        match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(io(&dir, e)),
        }
        match Lock::take(&dir.join(layout::LOCK), Wait::No) {
            Ok(Some(lock)) => match reconcile::find(&dir) {
                Unwatched::NotStarted | Unwatched::Ended(_) | Unwatched::Gone(_) => {
                    return Ok(NameClaim { dir, lock });
                }
                Unwatched::Runs { .. } => {
                    return Err(taken(
                        "a VM of this name runs without a monitor; `pepita adopt` or `pepita destroy` it",
                    ));
                }
                Unwatched::Unreadable { why, .. } => return Err(reconcile::unreadable(&why)),
            },
            // The holder is a monitor, or a call that only reads the status and gives the lock back in a moment.
            Ok(None) if connect_unix(&dir.join(layout::CONTROL)).is_ok() => {
                return Err(taken("the name is taken; `pepita destroy` the VM of this name first"));
            }
            Ok(None) => await_end_of_monitor(&dir),
            // Another process has removed the directory meanwhile.
            Err(_) if !dir.exists() => {}
            Err(e) => return Err(e),
        }
    }
    Err(taken("the name is being taken by another, or given back; try again"))
}

/// Waits for a monitor on its way out. The identity of a monitor on its way in is not known yet.
fn await_end_of_monitor(dir: &Path) {
    let monitor = match files::state(dir) {
        Stored::Read(state) => state.monitor.and_then(|monitor| monitor.open()),
        Stored::Absent | Stored::Unreadable(_) => None,
    };
    match monitor {
        Some(monitor) => drop(wait_readable(&monitor, PAUSE)),
        None => std::thread::sleep(PAUSE),
    }
}

/// Claims a CID among the VMs of the run directory, and on the kernel transport in the host's kernel, too.
fn claim_cid(dir: &RunDir, wanted: Wanted, transport: Transport) -> Result<(Cid, CidClaim)> {
    let mut from = Cid::MIN;
    loop {
        let (cid, lock) = cid::claim(dir, wanted, from)?;
        let path = cid::path(dir, cid);
        if transport == Transport::Hybrid {
            return Ok((cid, CidClaim { path, lock, vhost: None }));
        }
        let refused = match vhost_vsock::claim(cid.get()) {
            Ok(device) => return Ok((cid, CidClaim { path, lock, vhost: Some(device) })),
            Err(e) => e,
        };
        let _ = std::fs::remove_file(&path);
        if refused.raw_os_error() != Some(rustix::io::Errno::ADDRINUSE.raw_os_error()) {
            return Err(io(Path::new(vhost_vsock::DEVICE), refused));
        }
        from = match (wanted, cid.next()) {
            (Wanted::Any, Some(next)) => next,
            (Wanted::Any, None) => return Err(call_error(CallErrorKind::CidTaken, "every CID is taken")),
            (Wanted::Fixed(_), _) => {
                let why = "is held by another program on this host; choose another or leave it out";
                return Err(call_error(CallErrorKind::CidTaken, format!("CID {cid} {why}")));
            }
        };
    }
}
