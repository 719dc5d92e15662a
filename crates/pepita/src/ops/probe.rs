//! Boots a guest to prove that guests boot on this host.

use crate::error::{Result, call_error};
use crate::ops::destroy::{How, destroy};
use crate::ops::follow::ready;
use crate::ops::launch::{Patient, launch};
use crate::rundir::RunDir;
use pepita_wire::record::CallErrorKind;
use pepita_wire::{LaunchSpec, VmId};
use std::path::Path;
use std::time::Duration;

/// The time limit for the boot of the guest.
const DEADLINE: Duration = Duration::from_secs(20);

/// The memory of the guest, in MiB.
const MEMORY_MB: u64 = 128;

/// The result of a successful boot.
#[derive(Debug)]
pub(crate) struct Probe {
    /// The time from the VMM's start to the agent's first answer, in milliseconds.
    pub agent_ms: u64,
    /// The acceleration of the guest's virtual CPUs.
    pub accel: String,
}

/// Boots a guest whose daemon is held, waits for its agent, and removes all traces of the guest.
///
/// # Errors
/// When the guest does not boot or cannot be removed.
pub(crate) fn probe(run_dir: &RunDir, kernel: &Path, rootfs: &Path) -> Result<Probe> {
    let name = format!("doctor-{}", std::process::id());
    let name = VmId::new(&name).map_err(|e| call_error(CallErrorKind::Internal, e.to_string()))?;
    let spec = LaunchSpec {
        kernel: Some(kernel.to_owned()),
        rootfs: Some(rootfs.to_owned()),
        memory_mb: Some(MEMORY_MB),
        ready_timeout_ms: Some(u64::try_from(DEADLINE.as_millis()).unwrap_or(u64::MAX)),
        hold: true,
        ..LaunchSpec::default()
    };
    let seen = launch(run_dir, &name, spec, &Patient).and_then(|status| {
        let up = ready(run_dir, &name, DEADLINE)?;
        Ok(Probe { agent_ms: up.boot_ms.agent.unwrap_or_default(), accel: status.accel })
    });
    let gone = destroy(run_dir, &name, How::Force);
    seen.and_then(|seen| gone.map(|_| seen))
}
