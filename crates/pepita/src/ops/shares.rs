//! Checks the directories of the host that a guest is to see, and where they and the disks are mounted.

use crate::error::{CallError, Result, call_error};
use crate::image::{kernel, modules};
use crate::vm_config::{VmRequest, VmmKind};
use pepita_wire::LaunchSpec;
use pepita_wire::record::CallErrorKind;
use pepita_wire::storage::{STORAGE_CAP, ShareSpec, mount_fault};

/// Returns the directories of the host that the guest is to see, by the paths that they really have.
pub(super) fn shares(spec: &LaunchSpec, vmm: VmmKind) -> Result<Vec<ShareSpec>> {
    if spec.shares.is_empty() {
        return Ok(Vec::new());
    }
    if vmm == VmmKind::Process {
        let why = "a plain process has the host's file system, and no shares of its own";
        return Err(refused(why));
    }
    let share = |share: &ShareSpec| {
        let ShareSpec { path, mount, read_only } = share;
        if let Some(fault) = mount_fault(mount) {
            return Err(refused(&fault));
        }
        let found = std::fs::canonicalize(path);
        let found = found.map_err(|e| kernel::missing("share", path, &e))?;
        let fault = match found.to_str() {
            _ if !found.is_dir() => "is no directory",
            Some("/") => "is the root of the host; share a directory below it",
            // Such names stand in a list with commas (virtiofsd's option source).
            Some(text) if text.contains(',') => "has a comma in its path, which virtiofsd cannot read",
            None => "is no text in UTF-8",
            Some(_) => {
                let mount = mount.trim_end_matches('/').to_owned();
                return Ok(ShareSpec { path: found, mount, read_only: *read_only });
            }
        };
        Err(refused(&format!("{} {fault}", found.display())))
    };
    spec.shares.iter().map(share).collect()
}

/// Refuses two disks or shares at one place, and more of them than a machine can have.
pub(super) fn check_places(request: &VmRequest) -> Result<()> {
    let all = request.mounts();
    if all.len() > STORAGE_CAP {
        let why = format!("{} are too many; at most {STORAGE_CAP}", all.len());
        return Err(refused(&why));
    }
    match all
        .iter()
        .enumerate()
        .find_map(|(index, one)| Some((one, all[..index].iter().find(|other| other.target == one.target)?)))
    {
        None => Ok(()),
        Some((one, other)) => {
            let why = format!("{} and {} are both mounted at {}", other.name, one.name, one.target);
            Err(refused(&why))
        }
    }
}

/// Returns the directories of the guest whose contents outlive the VM.
pub(super) fn kept(spec: &LaunchSpec) -> Vec<&str> {
    let disks = spec.disks.iter().map(|disk| disk.mount.as_str());
    disks.chain(spec.shares.iter().map(|share| share.mount.as_str())).collect()
}

/// Returns the module that the shares of a VM need.
pub(super) fn for_shares(spec: &LaunchSpec) -> Option<&'static str> {
    (!spec.shares.is_empty()).then_some(modules::FOR_SHARE)
}

fn refused(why: &str) -> CallError {
    call_error(CallErrorKind::Usage, format!("disks and shares: {why}"))
}
