//! What the launcher is called with. Words only; nothing is run here.
//!
//! A test sends every one of these through the launcher's own parser, so that the two cannot drift apart.

use crate::spec::{Cid, Incarnation, Signal, VmId, VmSpec};
use std::ffi::OsString;

/// The label by which a supervisor knows its own VMs; its value is the supervisor's name.
pub const OWNER_LABEL: &str = "pepita-supervisor.owner";

/// The label that holds the fingerprint of the configuration a VM was started with.
pub const CONFIG_LABEL: &str = "pepita-supervisor.config";

/// All that a launch needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// The VM.
    pub spec: VmSpec,
    /// Which start of it.
    pub incarnation: Incarnation,
    /// Its CID.
    pub cid: Cid,
    /// The supervisor's mark.
    pub owner: String,
    /// The daemon is not to be started yet: a warm spare.
    pub hold: bool,
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// `pepita run …`. The environment goes through standard input (`--env-file -`): secrets have no place in an argv.
pub fn run(launch: &Launch) -> Vec<OsString> {
    let (spec, machine) = (&launch.spec, &launch.spec.machine);
    let mut argv = words(&["run"]);
    let mut option = |name: &str, value: OsString| argv.extend([OsString::from(name), value]);
    if !machine.kernel.as_os_str().is_empty() {
        option("--kernel", machine.kernel.clone().into());
    }
    if !machine.rootfs.as_os_str().is_empty() {
        option("--rootfs", machine.rootfs.clone().into());
    }
    option("--vsock-cid", launch.cid.to_string().into());
    option("--name", spec.name.id().as_str().into());
    option("--cpus", machine.vcpus.to_string().into());
    option("--memory", machine.memory_mb.to_string().into());
    option("--vsock-port", machine.port.0.to_string().into());
    option("--vmm", machine.vmm.to_string().into());
    option("--incarnation", launch.incarnation.0.to_string().into());
    option("--ready-timeout", format!("{}ms", spec.start.timeout.as_millis()).into());
    option("--label", format!("{OWNER_LABEL}={}", launch.owner).into());
    option("--label", format!("{CONFIG_LABEL}={}", spec.fingerprint()).into());
    option("--env-file", "-".into());
    argv.extend(words(&["--daemon", "--json"]));
    if launch.hold {
        argv.push("--hold".into());
    }
    if !spec.command.is_empty() {
        argv.push("--".into());
        argv.extend(spec.command.iter().map(OsString::from));
    }
    argv
}

/// The environment as `--env-file` reads it: a `K=V` a line.
pub fn env_file(launch: &Launch) -> Vec<u8> {
    launch.spec.env.iter().flat_map(|(key, value)| format!("{key}={value}\n").into_bytes()).collect()
}

/// `pepita signal --name <vm> --signal <number>`.
pub fn signal(vm: &VmId, signal: Signal) -> Vec<OsString> {
    words(&["signal", "--name", vm.as_str(), "--signal", &signal.number().to_string(), "--json"])
}

/// `pepita status --name <vm> --json`.
pub fn status(vm: &VmId) -> Vec<OsString> {
    words(&["status", "--name", vm.as_str(), "--json"])
}

/// `pepita destroy --name <vm> --force --json`.
pub fn destroy(vm: &VmId) -> Vec<OsString> {
    words(&["destroy", "--name", vm.as_str(), "--force", "--json"])
}

/// `pepita adopt --name <vm> --json`.
pub fn adopt(vm: &VmId) -> Vec<OsString> {
    words(&["adopt", "--name", vm.as_str(), "--json"])
}

/// `pepita list --json`.
pub fn list() -> Vec<OsString> {
    words(&["list", "--json"])
}

/// `pepita --version --json`.
pub fn version() -> Vec<OsString> {
    words(&["--version", "--json"])
}
