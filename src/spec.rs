//! The vocabulary: what a tree, a group and a VM are to be. Touched by every room, touches none.
//!
//! A `Spec` holds no nonsense: names are checked, durations are durations, sets are sets. Whoever has one may trust it.

mod diff;
mod name;
mod policy;

pub use diff::{Change, GroupPlan, Plan, VmPlan};
pub use name::{Cid, GroupName, Incarnation, InvalidCid, InvalidName, Port, VmName};
pub use pepita_wire::{Signal, VmId};
pub use policy::{
    Backoff, HealthSpec, Intensity, OnGiveUp, OnIntensityExceeded, OnStartFailure, OnUnhealthy, Readiness,
    Restart, RestartSpec, StartSpec, StopSpec, Strategy,
};

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// A whole supervision tree, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct TreeSpec {
    /// The supervisor's name; its mark on the VMs it starts.
    pub name: String,
    /// Where desired state is kept; `None` keeps it in memory only.
    pub state_dir: Option<PathBuf>,
    /// Where `pepitactl` finds the supervisor; `None` = nowhere.
    pub control_socket: Option<PathBuf>,
    /// The launcher, as written: a bare name is looked for beside our own program first, then in PATH.
    pub pepita: PathBuf,
    /// Where the launcher keeps its run directories; `None` = its own default.
    pub run_dir: Option<PathBuf>,
    /// Launches under way at once.
    pub max_parallel_launches: usize,
    /// How many escalations of its groups the root bears.
    pub intensity: Intensity,
    /// The curve that delays the restart of an escalated group.
    pub backoff: Backoff,
    /// What to do with VMs that a previous run left.
    pub orphans: Orphans,
    /// What the end of the supervisor does to the VMs.
    pub on_exit: OnExit,
    /// For the ordered stop of the whole tree; then everything is destroyed.
    pub shutdown_timeout: Duration,
    /// The groups, in file order.
    pub groups: Vec<GroupSpec>,
}

impl TreeSpec {
    /// A tree without groups and with every default of the configuration file.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            state_dir: None,
            control_socket: None,
            pepita: PathBuf::from("pepita"),
            run_dir: None,
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

/// What to do with VMs of ours that nobody supervises any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphans {
    /// Take over those that are wanted and unchanged, destroy those that are not in the configuration.
    Adopt,
    /// Destroy all of them and start afresh.
    Destroy,
    /// Start nothing and say which there are.
    Refuse,
}

/// What the end of the supervisor does to the VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExit {
    /// Stops them in order.
    Stop,
    /// Leaves them running; the next run adopts them.
    Leave,
}

/// A supervised group: VMs that share a restart strategy.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupSpec {
    /// Its name, unique in the tree.
    pub name: GroupName,
    /// Which siblings share a failure.
    pub strategy: Strategy,
    /// How many restarts in how much time are too many.
    pub intensity: Intensity,
    /// What happens then.
    pub on_intensity_exceeded: OnIntensityExceeded,
    /// Whether the group ends when significant VMs have.
    pub auto_shutdown: AutoShutdown,
    /// Groups that are Ready before this one starts, and stopped after it.
    pub after: Vec<GroupName>,
    /// Its VMs, in start order.
    pub vms: Vec<VmSpec>,
}

impl GroupSpec {
    /// A `one_for_one` group of these VMs, with every default of the configuration file.
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

/// When a group ends because of VMs that ended by themselves (OTP's `auto_shutdown`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoShutdown {
    /// Never.
    Never,
    /// With the first significant VM.
    AnySignificant,
    /// With the last significant VM.
    AllSignificant,
}

/// One microVM, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct VmSpec {
    /// Its name, unique in the tree.
    pub name: VmName,
    /// What is emulated.
    pub machine: MachineSpec,
    /// A fixed CID instead of one that is leased.
    pub cid: Option<Cid>,
    /// The daemon and its arguments; empty = what the image names.
    pub command: Vec<String>,
    /// The daemon's environment.
    pub env: BTreeMap<String, String>,
    /// Whether and how soon it comes back.
    pub restart: RestartSpec,
    /// When it counts as Ready, and how long that may take.
    pub start: StartSpec,
    /// How it is taken down.
    pub stop: StopSpec,
    /// How it is probed.
    pub health: HealthSpec,
    /// Warm spares behind it.
    pub standby: u32,
    /// Started with its group.
    pub autostart: bool,
    /// Counts for its group's [`AutoShutdown`].
    pub significant: bool,
}

impl VmSpec {
    /// A VM with every default of the configuration file.
    pub fn new(name: VmName, machine: MachineSpec) -> Self {
        Self {
            name,
            machine,
            cid: None,
            command: Vec::new(),
            env: BTreeMap::new(),
            restart: RestartSpec::default(),
            start: StartSpec::default(),
            stop: StopSpec::default(),
            health: HealthSpec::default(),
            standby: 0,
            autostart: true,
            significant: false,
        }
    }

    /// A fingerprint of all that only a new start can change: machine, fixed CID, command, environment. Not for
    /// secrets, and stable across runs of the supervisor (FNV-1a).
    pub fn fingerprint(&self) -> String {
        let text = format!("{:?}|{:?}|{:?}|{:?}", self.machine, self.cid, self.command, self.env);
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("{hash:016x}")
    }
}

/// The `[platform.pepita]` section: what is emulated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineSpec {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory, in MiB.
    pub memory_mb: u32,
    /// The guest's kernel. Empty only with [`Vmm::Process`].
    pub kernel: PathBuf,
    /// The guest's root: an initramfs or an ext4 image. Empty only with [`Vmm::Process`].
    pub rootfs: PathBuf,
    /// The guest agent's vsock port.
    pub port: Port,
    /// Who runs it.
    pub vmm: Vmm,
}

impl MachineSpec {
    /// A QEMU microVM with the seed's defaults: 2 CPUs, 256 MiB, port 5000.
    pub fn qemu(kernel: impl Into<PathBuf>, rootfs: impl Into<PathBuf>) -> Self {
        Self {
            vcpus: 2,
            memory_mb: 256,
            kernel: kernel.into(),
            rootfs: rootfs.into(),
            port: Port::DEFAULT,
            vmm: Vmm::Qemu,
        }
    }

    /// The agent as a plain process of the host, without any isolation: for developing and for load tests.
    pub fn process() -> Self {
        Self { vmm: Vmm::Process, ..Self::qemu("", "") }
    }
}

/// Who runs a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vmm {
    /// QEMU's microvm machine.
    Qemu,
    /// A plain process of the host: no isolation whatever.
    Process,
}

impl Vmm {
    /// Its name on the launcher's command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Process => "process",
        }
    }
}
