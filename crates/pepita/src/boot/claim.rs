//! The exclusive claims of a VM: its name and its CID. Both claims are locks. This file decides whether a request gets
//! them.
//!
//! The name is claimed first. Processes of a former VM of this name may still hold the CID, and are ended before the
//! CID is claimed.

use crate::error::{CallError, Result, call_error, io};
use crate::host::sign;
use crate::host::strays::{self, Member};
use crate::host::vhost_vsock;
use crate::host::wait::wait_readable;
use crate::monitor::{Before, connect_unix};
use crate::reconcile::{self, Unwatched};
use crate::rundir::cid::{self, Wanted};
use crate::rundir::files;
use crate::rundir::lock::{Lock, VmLock};
use crate::rundir::uids::{self, UidClaim};
use crate::rundir::{self, RunDir, ends, layout, promoted};
use crate::vm_config::{Cid, VmConfig, VmRequest};
use pepita_wire::launch::OWNER_LABEL;
use pepita_wire::record::{CallErrorKind, Transport};
use pepita_wire::text::shown;
use pepita_wire::{Stored, VmId};
use serde::{Deserialize, Serialize};
use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The number of attempts to claim a name while its lock is held by a process that is not, not yet or no longer a
/// monitor, and the pause between two attempts.
const TRIES: usize = 200;
const PAUSE: Duration = Duration::from_millis(10);

/// A VM that was requested and has claimed neither its name nor its CID yet.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Requested {
    /// The request for the VM.
    pub request: VmRequest,
    /// The CID that the request names.
    pub cid: Wanted,
    /// The number of this start; `None` = the number of the last start plus one.
    pub incarnation: Option<u64>,
    /// What was before the monitor, which is a program of its own; `None` in a copy of a launch server.
    #[serde(default)]
    pub before: Option<Before>,
}

/// A VM that has claimed its name and its CID. No process of the VM runs.
#[derive(Debug)]
pub(crate) struct Claimed {
    /// The configuration of the VM.
    pub config: VmConfig,
    /// The claim of the VM's name.
    pub name: NameClaim,
    /// The claim of the VM's CID.
    pub cid: CidClaim,
    /// The claim of the user ids of its processes, for the jails of root.
    pub uids: Option<UidClaim>,
}

/// A run directory whose lock is held.
#[derive(Debug)]
pub(crate) struct NameClaim {
    /// The path of the run directory.
    pub dir: PathBuf,
    /// The lock that is the claim.
    pub lock: Lock,
    /// The sign in the kernel that the VM runs, where the host gives such signs.
    pub sign: Option<OwnedFd>,
}

/// The claim of a CID.
#[derive(Debug)]
pub(crate) struct CidClaim {
    /// The file of the claim.
    pub path: PathBuf,
    /// The lock of the claim's file.
    pub lock: Lock,
    /// The device that holds the CID, on the kernel transport.
    pub vhost: Option<OwnedFd>,
}

impl Requested {
    /// Claims the name and the CID, and makes the run directory the current one.
    ///
    /// # Errors
    /// When the name or the CID is taken. The files of a former VM of this name stay as they are then.
    pub(crate) fn claim(self, run_dir: &RunDir) -> Result<Claimed> {
        let is_new = !run_dir.path().join(layout::CIDS).exists();
        run_dir.create()?;
        let id =
            VmId::new(&self.request.name).map_err(|e| call_error(CallErrorKind::Usage, e.to_string()))?;
        // A directory of run directories that is new may have had a predecessor, which was removed under its VMs.
        let mut name = claim_name(run_dir, run_dir.checked_vm(&id)?, is_new)?;
        let former: Stored<VmConfig> = files::read(&name.dir.join(layout::CONFIG));
        // Any of them says that a VM of this name was there, readable or not.
        let traces = [layout::CONFIG, layout::STATE, layout::EXIT];
        let had_vm = traces.iter().any(|file| name.dir.join(file).exists());
        let claimed = std::env::set_current_dir(&name.dir).map_err(|e| io(&name.dir, e)).and_then(|()| {
            if had_vm || name.sign.is_none() {
                // Processes of the former VM that still run may hold the CID that this VM asks for.
                reconcile::sweep(run_dir, &name.dir);
                reconcile::keep_end(&name.dir);
            }
            if name.sign.is_none() {
                name.sign = sign::take(&name.dir).ours();
            }
            let claimed = match claim_cid(run_dir, self.cid, self.request.transport) {
                // The other VM may be a former one of this name, of a launcher that gave no sign.
                Err(e) if e.kind == CallErrorKind::CidTaken && !had_vm && is_watched(&name.dir) => {
                    Err(runs_without_files())
                }
                claimed => claimed,
            };
            let (number, cid) = claimed?;
            let range = self.request.jail.and_then(|jail| jail.uids);
            match range.map(uids::claim).transpose() {
                Ok(uids) => Ok((number, cid, uids)),
                Err(e) => {
                    cid.give_back();
                    Err(e)
                }
            }
        });
        match claimed {
            Ok((number, cid, uids)) => {
                let next = || former.ok().map_or(1, |former| former.incarnation.saturating_add(1));
                let incarnation = self.incarnation.unwrap_or_else(next);
                let first_uid = uids.as_ref().map(|uids| uids.first);
                let config =
                    VmConfig { cid: number, incarnation, first_uid, booted_as: None, request: self.request };
                Ok(Claimed { config, name, cid, uids })
            }
            Err(e) => {
                if !had_vm {
                    name.give_back();
                }
                Err(e)
            }
        }
    }
}

impl Claimed {
    /// Releases the claims and removes everything that was created for the VM.
    pub(crate) fn give_back(self) {
        self.cid.give_back();
        if let Some(uids) = self.uids {
            uids.give_back();
        }
        if !self.config.is_supervised() {
            ends::forget(&self.name.dir);
        }
        self.name.give_back();
    }
}

impl CidClaim {
    /// Removes the file of the claim and then releases the CID.
    fn give_back(self) {
        if self.lock.is_at(&self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl NameClaim {
    /// Removes the run directory and then releases the name. In this order, the directory of the next VM of this name
    /// cannot be removed by mistake.
    fn give_back(self) {
        let _ = rundir::remove(&self.dir);
        drop(self.lock);
    }
}

/// Returns whether a monitor watches the VM with this run directory, as far as processes tell.
fn is_watched(dir: &Path) -> bool {
    strays::members(dir).iter().any(Member::watches)
}

fn taken(why: &str) -> CallError {
    call_error(CallErrorKind::NameTaken, why.to_owned())
}

/// Returns the sentence about a name that a VM with a monitor has.
fn held_by(dir: &Path) -> String {
    let state = files::state(dir).ok();
    match state.as_ref().and_then(|state| state.status.labels.get(OWNER_LABEL)) {
        Some(owner) => format!("the name is taken by a VM of the supervisor {}", shown(owner)),
        None => "the name is taken; `pepita destroy` the VM of this name first".to_owned(),
    }
}

/// Returns the error for a launch while a VM of that name runs whose files were removed.
fn runs_without_files() -> CallError {
    taken("a VM of this name runs, and its run directory was removed; `pepita destroy --force` ends it")
}

/// Claims a name: creates its directory and takes its lock. A VM of this name whose files were removed keeps the name as
/// long as it is watched. For a VM `is_suspect`ed to run like that, all processes of the host are searched.
fn claim_name(run_dir: &RunDir, dir: PathBuf, is_suspect: bool) -> Result<NameClaim> {
    let mut has_created = false;
    if promoted::is_lent(&dir) {
        let why = format!("{}: is the run directory of a VM that was promoted from a spare", dir.display());
        return Err(taken(&why));
    }
    for _ in 0..TRIES {
        if promoted::home(&dir).is_some() && !dir.exists() {
            // What it stood for was removed.
            let _ = std::fs::remove_file(&dir);
        }
        match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => has_created = true,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(io(&dir, e)),
        }
        if !has_created && rundir::is_foreign(&dir) {
            let why = format!(
                "{}: is not the run directory of a VM; choose another name or --run-dir",
                dir.display()
            );
            return Err(taken(&why));
        }
        match Lock::take_of_vm(&dir)? {
            VmLock::Taken(lock) => match reconcile::find(&dir) {
                // The processes of the new VM name a directory of its own.
                Unwatched::NotStarted | Unwatched::Ended(_) | Unwatched::Gone(_)
                    if promoted::home(&dir).is_some() =>
                {
                    reconcile::discard(run_dir, &dir)?;
                    drop(lock);
                }
                found @ (Unwatched::NotStarted | Unwatched::Ended(_) | Unwatched::Gone(_)) => {
                    let sign = sign::take(&dir).ours();
                    let has_files = !matches!(found, Unwatched::NotStarted);
                    if !has_files && (is_suspect || sign.is_none()) && is_watched(&dir) {
                        if has_created {
                            let _ = rundir::remove(&dir);
                        }
                        return Err(runs_without_files());
                    }
                    // Without a sign, processes of a former VM are searched and ended before this VM starts.
                    let sign = sign.filter(|_| !is_suspect);
                    return Ok(NameClaim { dir, lock, sign });
                }
                Unwatched::Runs { .. } => {
                    return Err(taken(
                        "a VM of this name runs without a monitor; `pepita adopt` or `pepita destroy` it",
                    ));
                }
                Unwatched::Unlocked { .. } => return Err(runs_without_files()),
                Unwatched::Unreadable { why, .. } => return Err(reconcile::unreadable(&why)),
            },
            // The holder is a monitor, or a call that only reads the status and releases the lock soon.
            VmLock::Held if connect_unix(&dir.join(layout::CONTROL)).is_ok() => {
                return Err(taken(&held_by(&dir)));
            }
            VmLock::Held => await_end_of_monitor(&dir),
            // Another process has removed the directory meanwhile.
            VmLock::Absent => {}
        }
    }
    Err(taken("the name is being taken by another, or given back; try again"))
}

/// Waits for the end of a monitor that is exiting. For a monitor that is starting there is no wait: its identity is not
/// known yet.
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

/// Claims a CID among the VMs of the run directory, and for the kernel transport also in the host's kernel.
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
