//! What a VM uses of its host, and how its ports are used.

use crate::client::Client;
use crate::host::usage::usage_of;
use crate::rundir::files;
use pepita_wire::monitor::STATUS_PATIENCE;
use pepita_wire::port::PORTS_CAP;
use pepita_wire::record::{HostUsage, PortUse, Reach};
use pepita_wire::{MonitorRequest, StatusRecord};
use serde::Deserialize;
use std::path::Path;

/// The answer to `port_use`.
#[derive(Deserialize)]
struct Answer {
    ports: Vec<PortUse>,
}

/// Returns what the processes of the VM with this run directory use together; `None` when none of them runs.
pub(crate) fn usage(dir: &Path) -> Option<HostUsage> {
    let state = files::state(dir).ok()?;
    let processes = [
        (&state.vmm, "vmm"),
        (&state.backend, "backend"),
        (&state.monitor, "monitor"),
        (&state.daemon, "daemon"),
    ];
    let used = processes.into_iter().filter_map(|(process, role)| usage_of(process.as_ref()?, role));
    HostUsage::of(used.collect())
}

/// Returns the use of the ports of a VM with this status; their numbers are unknown when its monitor does not tell them,
/// as one of an earlier version does not.
pub(crate) fn port_use(dir: &Path, status: &StatusRecord) -> Vec<PortUse> {
    let ports = || status.ports.iter().take(PORTS_CAP);
    let unknown = || ports().map(|port| PortUse { port: port.clone(), ..PortUse::default() }).collect();
    if status.ports.is_empty() || status.reach != Reach::Usual {
        return unknown();
    }
    let asked = Client::open(dir).and_then(|mut it| it.ask(MonitorRequest::PortUse, Some(STATUS_PATIENCE)));
    let answer = asked.ok().and_then(Result::ok).and_then(|answer| serde_json::from_value(answer).ok());
    answer.map_or_else(unknown, |Answer { ports }| ports)
}
