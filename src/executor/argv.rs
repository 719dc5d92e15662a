//! The arguments of the launcher: the words of each command, and the specification that a launch reads from its
//! standard input.
//!
//! Runs no program. A test sends every command through the launcher's own parser, so that the two cannot drift apart.

use crate::spec::{Cid, Incarnation, MachineSpec, Signal, VmId, VmName, VmSpec, Vmm, WorldSpec};
use pepita_wire::LaunchSpec;
use pepita_wire::environment::WATCHDOG_USEC;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use pepita_wire::launch::{OWNER_LABEL, SPARE_LABEL};

/// The label that holds the fingerprint of the configuration that a VM was started with.
pub const CONFIG_LABEL: &str = "pepita-supervisor.config";

/// The complete settings of a launch.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// The specification of the VM.
    pub spec: Arc<VmSpec>,
    /// The number of this start of the VM.
    pub incarnation: Incarnation,
    /// The CID that the VM is to have.
    pub cid: Cid,
    /// The supervisor's name, its mark on the VM.
    pub owner: String,
    /// The digest of the container image that was brought to this host for the launch; `None` = the specification names no
    /// image, or the launcher is to look for it.
    pub image: Option<String>,
    /// The VM whose warm spare this one is: its daemon is not started yet. `None` for every other VM.
    pub spare_of: Option<VmName>,
    /// The time limit for the launcher's answer.
    pub limit: Duration,
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// Returns `pepita run --kernel <file> --rootfs <file> --vsock-cid <cid> --name <vm> --daemon --json --spec -`. All other
/// fields go through standard input, see [`specification`]. A plain process has neither kernel nor root.
pub fn run(launch: &Launch) -> Vec<OsString> {
    let (spec, machine) = (&launch.spec, &launch.spec.machine);
    let mut argv = words(&["run"]);
    for (option, path) in [("--kernel", &machine.kernel), ("--rootfs", &machine.rootfs)] {
        if !path.as_os_str().is_empty() {
            argv.extend([option.into(), path.into()]);
        }
    }
    let cid = launch.cid.to_string();
    argv.extend(words(&["--vsock-cid", &cid, "--name", spec.name.id().as_str()]));
    argv.extend(words(&["--daemon", "--json", "--spec", "-"]));
    argv
}

/// Returns the launch specification that `--spec -` reads. Secrets of the environment do not belong in an argv, which
/// every process of the host can read.
pub fn specification(launch: &Launch) -> LaunchSpec {
    // Both sides are listed in full, so that a new field does not compile until its way to the launcher is decided
    // here.
    let VmSpec {
        name: _,
        machine,
        cid: _,
        command,
        env,
        world,
        restart: _,
        start,
        stop: _,
        health,
        idle: _,
        publish: _,
        reach,
        standby: _,
        autostart: _,
        significant: _,
        disks,
        shares,
    } = &*launch.spec;
    let MachineSpec { vcpus, memory_mb, kernel: _, rootfs: _, image, port, vmm, jail } = machine;
    let WorldSpec {
        hostname,
        user,
        workdir,
        env_file,
        secrets,
        ulimits,
        sysctls,
        read_only,
        privileged,
        network,
    } = world.clone();
    let labels = [(OWNER_LABEL, launch.owner.clone()), (CONFIG_LABEL, launch.spec.fingerprint())];
    let spare = launch.spare_of.iter().map(|vm| (SPARE_LABEL, vm.to_string()));
    let labels = labels.into_iter().chain(spare);
    LaunchSpec {
        incarnation: Some(launch.incarnation.0),
        vmm: Some(vmm.to_string()),
        cpus: Some(*vcpus),
        memory_mb: Some((*memory_mb).into()),
        vsock_port: Some(port.0),
        ready_timeout_ms: Some(u64::try_from(start.timeout.as_millis()).unwrap_or(u64::MAX)),
        hold: launch.spare_of.is_some(),
        command: command.clone(),
        env: environment(env, health.watchdog),
        env_file,
        hostname,
        user,
        workdir,
        ulimits,
        sysctls,
        read_only,
        privileged,
        network,
        // A plain process may be among VMs that all inherit a jail.
        jail: jail.filter(|_| *vmm == Vmm::Qemu).map(|jail| jail.to_string()),
        secrets,
        labels: labels.map(|(label, value)| (label.to_owned(), value)).collect(),
        // The launch waits for no registry: an image that was brought here is named by its digest.
        pull: launch.image.is_some().then(|| "never".to_owned()),
        image: launch.image.clone().or_else(|| image.clone()),
        entrypoint: None,
        // These fields are options of the command line.
        name: None,
        kernel: None,
        rootfs: None,
        vsock_cid: None,
        // The launcher decides about these fields.
        initrd: None,
        kernel_package: None,
        accel: None,
        vsock: None,
        cmdline_append: None,
        // The supervisor listens itself, and hands the sockets over to the monitor.
        publish: Vec::new(),
        reach: reach.iter().map(ToString::to_string).collect(),
        disks: disks.clone(),
        shares: shares.clone(),
        // The environment of the call names the directories for logs and disks, and the user ids of jails.
        jail_uids: None,
        log_dir: None,
        disk_dir: None,
    }
}

/// Returns the order of a launch for a launch server: the specification, complete with what [`run`] has as options.
pub fn order(launch: &Launch) -> LaunchSpec {
    let (spec, machine) = (&launch.spec, &launch.spec.machine);
    let file = |path: &PathBuf| Some(path.clone()).filter(|path| !path.as_os_str().is_empty());
    LaunchSpec {
        name: Some(spec.name.id().as_str().to_owned()),
        kernel: file(&machine.kernel),
        rootfs: file(&machine.rootfs),
        vsock_cid: Some(launch.cid.get()),
        ..specification(launch)
    }
}

/// Returns the environment of the daemon: what is configured, and the interval of the watchdog, as systemd names it.
fn environment(configured: &BTreeMap<String, String>, watchdog: Duration) -> BTreeMap<String, String> {
    let mut all = configured.clone();
    if !watchdog.is_zero() {
        all.entry(WATCHDOG_USEC.to_owned()).or_insert_with(|| watchdog.as_micros().to_string());
    }
    all
}

/// Returns `pepita signal --name <vm> --signal <number> --json`.
pub fn signal(vm: &VmId, signal: Signal) -> Vec<OsString> {
    words(&["signal", "--name", vm.as_str(), "--signal", &signal.number().to_string(), "--json"])
}

/// Returns `pepita status --name <vm> --json`.
pub fn status(vm: &VmId) -> Vec<OsString> {
    words(&["status", "--name", vm.as_str(), "--json"])
}

/// Returns `pepita destroy --name <vm> --force --json`.
pub fn destroy(vm: &VmId) -> Vec<OsString> {
    words(&["destroy", "--name", vm.as_str(), "--force", "--json"])
}

/// Returns `pepita --json image pull --missing <image>`.
pub fn prepare(image: &str) -> Vec<OsString> {
    words(&["--json", "image", "pull", "--missing", "--", image])
}

/// Returns `pepita adopt --name <vm> --json`.
pub fn adopt(vm: &VmId) -> Vec<OsString> {
    words(&["adopt", "--name", vm.as_str(), "--json"])
}

/// Returns `pepita list --json`.
pub fn list() -> Vec<OsString> {
    words(&["list", "--json"])
}

/// Returns `pepita --version --json`.
pub fn version() -> Vec<OsString> {
    words(&["--version", "--json"])
}
