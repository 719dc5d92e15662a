//! What a VM uses of its host.

use crate::host::usage::usage_of;
use crate::rundir::files;
use pepita_wire::record::HostUsage;
use std::path::Path;

/// Returns what the processes of the VM with this run directory use together; `None` when none of them runs.
pub(crate) fn usage(dir: &Path) -> Option<HostUsage> {
    let state = files::state(dir).ok()?;
    let processes = [
        (&state.vmm, "vmm"),
        (&state.backend, "backend"),
        (&state.monitor, "monitor"),
        (&state.daemon, "daemon"),
    ];
    let shares = state.shares.values().map(|process| (process, "share"));
    let known = processes.into_iter().filter_map(|(process, role)| Some((process.as_ref()?, role)));
    let used = known.chain(shares).filter_map(|(process, role)| usage_of(process, role));
    HostUsage::of(used.collect())
}
