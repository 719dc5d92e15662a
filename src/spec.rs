//! The vocabulary: the specifications of a tree, a group and a VM. All other modules use this module; it uses none of
//! them.
//!
//! A specification is checked when it is made: names are valid, durations are durations, sets are sets. Code that is
//! given a specification trusts it. [`keys`] assigns each field to its key of the configuration file.

pub mod consistency;
mod datum;
mod diff;
mod fingerprint;
pub mod keys;
mod name;
mod policy;
mod reached;
mod standby;
mod world;

pub use diff::{Change, GroupPlan, Plan, Removals, VmPlan};
pub use name::{Cid, GroupName, Incarnation, InvalidCid, InvalidName, Port, VmName};
pub use pepita_wire::launch::Uids;
pub use pepita_wire::network::Network;
pub use pepita_wire::probe::HttpPlace;
pub use pepita_wire::reach::Reached;
pub use pepita_wire::storage::{DiskSpec, ShareSpec};
pub use pepita_wire::world::Ulimit;
pub use pepita_wire::{Publish, Signal, VmId};
pub use policy::{
    Backoff, HealthCheck, HealthSpec, IdleAction, IdleSpec, Intensity, OnGiveUp, OnIntensityExceeded,
    OnStartFailure, OnUnhealthy, Readiness, Restart, RestartSpec, StartOn, StartSpec, StopSpec, Strategy,
};
pub use reached::ReachMistake;
pub(crate) use standby::SPARES_CAP;
pub use standby::StandbyMistake;
pub use world::WorldSpec;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use strum::{Display, EnumString, IntoStaticStr, VariantNames};

/// The supervisor's name when the configuration file gives none.
pub const DEFAULT_NAME: &str = "pepita-supervisor";

/// A whole supervision tree, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct TreeSpec {
    /// The supervisor's name, which is its mark on the VMs that it starts.
    pub name: String,
    /// The directory that keeps desired state and counters; `None` keeps them in memory only.
    pub state_dir: Option<PathBuf>,
    /// The socket at which `pepitactl` finds the supervisor; `None` for no socket.
    pub control_socket: Option<PathBuf>,
    /// The launcher. A bare name is looked for beside our own program first, then in PATH.
    pub pepita: PathBuf,
    /// The directory of the launcher's run directories; `None` for the launcher's own default.
    pub run_dir: Option<PathBuf>,
    /// The directory in which the logs of consoles are kept; `None` for the run directories.
    pub log_dir: Option<PathBuf>,
    /// The directory of the disks; see [`TreeSpec::disk_dir`] for the one that holds.
    pub disk_dir: Option<PathBuf>,
    /// The user ids that root's VMs get for their jails; `None` for the launcher's own range.
    pub jail_uids: Option<Uids>,
    /// How many launches may be under way at once.
    pub max_parallel_launches: usize,
    /// How many escalations of groups the root accepts in a period.
    pub intensity: Intensity,
    /// The curve that delays the restart of an escalated group.
    pub backoff: Backoff,
    /// The treatment of VMs that a previous run left.
    pub orphans: Orphans,
    /// The consequence of the supervisor's end for the VMs.
    pub on_exit: OnExit,
    /// The time limit of the ordered stop of the whole tree; after that all VMs are destroyed.
    pub shutdown_timeout: Duration,
    /// The groups, in file order.
    pub groups: Vec<GroupSpec>,
}

impl TreeSpec {
    /// Returns the directory of the disks; `None` when the launcher chooses it.
    pub fn disk_dir(&self) -> Option<PathBuf> {
        self.disk_dir.clone().or_else(|| Some(self.state_dir.as_ref()?.join("disks")))
    }

    /// Returns a tree without groups and with every default of the configuration file.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            state_dir: None,
            control_socket: None,
            pepita: PathBuf::from("pepita"),
            run_dir: None,
            log_dir: None,
            disk_dir: None,
            jail_uids: None,
            max_parallel_launches: 4,
            intensity: Intensity { max_restarts: 3, period: Duration::from_secs(300) },
            backoff: Backoff::default(),
            orphans: Orphans::Adopt,
            on_exit: OnExit::Stop,
            shutdown_timeout: Duration::from_secs(120),
            groups: Vec::new(),
        }
    }
}

/// The treatment of VMs that carry the mark of this supervisor and have no supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, EnumString, VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum Orphans {
    /// Adopt the VMs that are wanted and unchanged, destroy the VMs that are not in the configuration.
    Adopt,
    /// Destroy all of these VMs and start afresh.
    Destroy,
    /// Start no VM and report the VMs that were left.
    Refuse,
}

/// The consequence of the supervisor's end for the VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, EnumString, VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum OnExit {
    /// The VMs are stopped in order.
    Stop,
    /// The VMs run on; the next run of the supervisor adopts them.
    Leave,
}

/// A supervised group: VMs that share a restart strategy.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupSpec {
    /// The group's name, unique in the tree.
    pub name: GroupName,
    /// The strategy, which says which siblings share a failure.
    pub strategy: Strategy,
    /// How many restarts are allowed within a period.
    pub intensity: Intensity,
    /// The consequence of more restarts than allowed.
    pub on_intensity_exceeded: OnIntensityExceeded,
    /// Whether the group ends when significant VMs have ended.
    pub auto_shutdown: AutoShutdown,
    /// The groups that are Ready before this one starts, and are stopped after it.
    pub after: Vec<GroupName>,
    /// The group's VMs, in start order.
    pub vms: Vec<VmSpec>,
}

impl GroupSpec {
    /// Returns a `one_for_one` group of `vms`, with every default of the configuration file.
    pub fn new(name: GroupName, vms: Vec<VmSpec>) -> Self {
        Self {
            name,
            strategy: Strategy::OneForOne,
            intensity: Intensity::default_for(vms.len()),
            on_intensity_exceeded: OnIntensityExceeded::Escalate,
            auto_shutdown: AutoShutdown::Never,
            after: Vec::new(),
            vms,
        }
    }
}

/// The condition under which a group ends because its VMs have ended by themselves (`auto_shutdown` of OTP's
/// supervisor).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, EnumString, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum AutoShutdown {
    /// The group never ends by itself.
    Never,
    /// The group ends with the first significant VM.
    AnySignificant,
    /// The group ends with the last significant VM.
    AllSignificant,
}

/// One microVM, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct VmSpec {
    /// The VM's name, unique in the tree.
    pub name: VmName,
    /// The machine that is emulated.
    pub machine: MachineSpec,
    /// A fixed CID; `None` for a CID that is leased.
    pub cid: Option<Cid>,
    /// The daemon and its arguments; empty for the command that the image names.
    pub command: Vec<String>,
    /// The daemon's environment.
    pub env: BTreeMap<String, String>,
    /// The daemon's world.
    pub world: WorldSpec,
    /// Whether the VM is restarted, and how soon.
    pub restart: RestartSpec,
    /// When the VM counts as Ready, and how long that may take.
    pub start: StartSpec,
    /// How the VM is stopped.
    pub stop: StopSpec,
    /// How the VM's health is probed.
    pub health: HealthSpec,
    /// When the VM is put to sleep.
    pub idle: IdleSpec,
    /// The ports of the guest that are published on the host.
    pub publish: Vec<Publish>,
    /// The places that the daemon may dial: ports of other VMs of the tree, and addresses.
    pub reach: Vec<Reached>,
    /// The number of warm spares behind the VM.
    pub standby: u32,
    /// Whether the VM is started with its group.
    pub autostart: bool,
    /// Whether the VM counts for its group's [`AutoShutdown`].
    pub significant: bool,
    /// The disks, which outlive the VM.
    pub disks: Vec<DiskSpec>,
    /// The directories of the host that the guest sees.
    pub shares: Vec<ShareSpec>,
}

impl VmSpec {
    /// Returns a VM with every default of the configuration file.
    pub fn new(name: VmName, machine: MachineSpec) -> Self {
        Self {
            name,
            machine,
            cid: None,
            command: Vec::new(),
            env: BTreeMap::new(),
            world: WorldSpec::default(),
            restart: RestartSpec::default(),
            start: StartSpec::default(),
            stop: StopSpec::default(),
            health: HealthSpec::default(),
            idle: IdleSpec::default(),
            publish: Vec::new(),
            reach: Vec::new(),
            standby: 0,
            autostart: true,
            significant: false,
            disks: Vec::new(),
            shares: Vec::new(),
        }
    }
}

/// The `[platform.pepita]` section: the machine that is emulated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineSpec {
    /// The number of virtual CPUs.
    pub vcpus: u32,
    /// The memory, in MiB.
    pub memory_mb: u32,
    /// The guest's kernel. Empty with [`Vmm::Process`]; with an image, empty means the installed kernel.
    pub kernel: PathBuf,
    /// The guest's root, an initramfs or an ext4 image. Empty with [`Vmm::Process`] and with an image.
    pub rootfs: PathBuf,
    /// The container image whose root the guest gets.
    pub image: Option<String>,
    /// The guest agent's vsock port.
    pub port: Port,
    /// The program that runs the VM.
    pub vmm: Vmm,
    /// How much of a jail there has to be for the VMM, its back-end and the servers of its shares; `None` for what the launcher chooses.
    pub jail: Option<Jail>,
}

impl MachineSpec {
    /// Returns a QEMU microVM with the defaults of the configuration file: 2 CPUs, 256 MiB, port 5000.
    pub fn qemu(kernel: impl Into<PathBuf>, rootfs: impl Into<PathBuf>) -> Self {
        Self {
            vcpus: 2,
            memory_mb: 256,
            kernel: kernel.into(),
            rootfs: rootfs.into(),
            image: None,
            port: Port::DEFAULT,
            vmm: Vmm::Qemu,
            jail: None,
        }
    }

    /// Returns a QEMU microVM that boots a container image with the installed kernel, and the other defaults.
    pub fn of_image(image: impl Into<String>) -> Self {
        Self { image: Some(image.into()), ..Self::qemu("", "") }
    }

    /// Returns the agent as a plain process of the host, without any isolation: for development and load tests.
    pub fn process() -> Self {
        Self { vmm: Vmm::Process, ..Self::qemu("", "") }
    }
}

/// How much of a jail there has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, EnumString, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum Jail {
    /// Every layer; one that cannot be had refuses the launch.
    Full,
    /// Every layer that can be had; the others are told.
    BestEffort,
    /// No jail.
    None,
}

/// The program that runs a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, EnumString, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum Vmm {
    /// QEMU, with its `microvm` machine.
    Qemu,
    /// No VMM: the agent is a plain process of the host, without any isolation.
    Process,
}
