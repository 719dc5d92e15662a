//! The configuration of a VM: the request, checked and complete, with the CID and the incarnation that the claim has
//! added.
//!
//! [`VmConfig`] is the file `spec.json` of a run directory. A monitor of a later version reads this file when it adopts
//! the VM, so each new field needs a default. A file without a name or a CID is unreadable, because no default is right
//! for them.

mod jail;

pub use jail::{Jail, Users};
pub use pepita_wire::launch::Uids;

use pepita_jail::User;
use pepita_wire::Publish;
use pepita_wire::image::UsedImage;
use pepita_wire::launch::OWNER_LABEL;
use pepita_wire::network::{Card, Network};
use pepita_wire::reach::Reached;
use pepita_wire::record::Transport;
use pepita_wire::storage::{self, Mount, MountKind, ShareSpec};
use pepita_wire::world::World;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use strum::{EnumString, IntoStaticStr};

/// A guest's vsock address. The numbers 0 to 2 and the highest number are reserved (vsock(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Cid(u32);

impl Cid {
    /// The lowest CID of a guest.
    pub const MIN: Self = Self(3);
    /// The highest CID of a guest.
    pub const MAX: Self = Self(u32::MAX - 1);

    /// Returns the CID with this number, unless the number is reserved.
    pub fn new(number: u32) -> Option<Self> {
        (Self::MIN.0..=Self::MAX.0).contains(&number).then_some(Self(number))
    }

    /// Returns the CID as a number.
    pub fn get(self) -> u32 {
        self.0
    }

    /// Returns the next higher CID, if there is one.
    pub fn next(self) -> Option<Self> {
        Self::new(self.0 + 1)
    }
}

impl TryFrom<u32> for Cid {
    type Error = String;
    fn try_from(number: u32) -> Result<Self, String> {
        Self::new(number).ok_or_else(|| format!("{number} is no CID of a guest"))
    }
}

impl From<Cid> for u32 {
    fn from(cid: Cid) -> Self {
        cid.0
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of virtual CPUs that a VM may have.
pub const CPUS: RangeInclusive<u32> = 1..=288;

/// The memory that a VM may have, in MiB.
pub const MEMORY_MB: RangeInclusive<u64> = 32..=1 << 20;

/// The longest time that a call or a request may name, in milliseconds: a hundred years. A longer one cannot be added to
/// the present moment everywhere.
pub const MAX_TIME_MS: u64 = 100 * 31_557_600 * 1000;

/// The vsock ports on which an agent may listen; the highest number means any port (VMADDR_PORT_ANY, vsock(7)).
pub const PORTS: RangeInclusive<u32> = 0..=u32::MAX - 1;

/// The numbers of incarnations. The upper end leaves room to count on.
pub const INCARNATIONS: RangeInclusive<u64> = 0..=u64::MAX / 2;

/// The default number of virtual CPUs.
pub const DEFAULT_CPUS: u32 = 1;

/// The default memory of a VM, in MiB.
pub const DEFAULT_MEMORY_MB: u64 = 256;

/// The kind of program that runs a VM.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    IntoStaticStr,
    EnumString,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum VmmKind {
    /// QEMU's microvm machine
    #[default]
    Qemu,
    /// A plain process of the host, without any isolation
    Process,
}

/// The acceleration of the virtual CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Accel {
    /// The virtual CPUs run in hardware.
    Kvm,
    /// The virtual CPUs are emulated.
    Tcg,
    /// There are no virtual CPUs, because the VM is a plain process.
    #[default]
    None,
}

impl Accel {
    /// Returns the word that QEMU and the status record use.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The way in which the guest gets its root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Root {
    /// The root is the initramfs.
    Initramfs(PathBuf),
    /// The root is a disk.
    Disk {
        /// The disk's image.
        image: PathBuf,
        /// The initrd that loads the disk's driver, if the kernel needs one.
        initrd: Option<PathBuf>,
    },
    /// The root is that of a container image, which VMs share.
    Shared {
        /// The image's root file system, which is never written to.
        image: PathBuf,
        /// The initrd that mounts it below a layer in memory.
        initrd: PathBuf,
    },
    /// A plain process uses the host's root file system. The file, if any, is an `image.json`.
    Host(Option<PathBuf>),
}

impl Default for Root {
    fn default() -> Self {
        Self::Host(None)
    }
}

/// A disk of a VM, which outlives the VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The name of the disk.
    pub name: String,
    /// The file or block device.
    pub file: PathBuf,
    /// The directory of disks in which the file lies; `None` = the user has named the file.
    #[serde(default)]
    pub dir: Option<PathBuf>,
    /// The size that the disk is to have at least, in MiB.
    #[serde(default)]
    pub size_mb: Option<u64>,
    /// The directory in the guest at which the disk is mounted.
    pub mount: String,
    /// Whether the guest cannot write to the disk.
    #[serde(default)]
    pub read_only: bool,
}

/// A complete request for a VM: all of its properties except the CID and the incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRequest {
    /// The VM's name.
    pub name: String,
    /// The kind of the VMM.
    #[serde(default)]
    pub vmm: VmmKind,
    /// The path of the VMM's program; for a plain process, that of the agent's program.
    #[serde(default)]
    pub program: PathBuf,
    /// The acceleration of the virtual CPUs.
    #[serde(default)]
    pub accel: Accel,
    /// The kernel's file, as it is passed to the VMM.
    #[serde(default)]
    pub kernel: Option<PathBuf>,
    /// The root file system of the guest.
    #[serde(default)]
    pub root: Root,
    /// The container image that the root is from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<UsedImage>,
    /// The number of virtual CPUs.
    #[serde(default)]
    pub cpus: u32,
    /// The guest's memory, in MiB.
    #[serde(default)]
    pub memory_mb: u64,
    /// The agent's vsock port.
    #[serde(default = "default_port")]
    pub port: u32,
    /// The transport between the host and the agent.
    #[serde(default)]
    pub transport: Transport,
    /// The path of the vsock back-end's program, for the hybrid transport.
    #[serde(default)]
    pub backend: Option<PathBuf>,
    /// The daemon and its arguments; empty = the command that the image names.
    #[serde(default)]
    pub command: Vec<String>,
    /// The daemon's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The world of the daemon, without the contents of its secrets.
    #[serde(default, skip_serializing_if = "World::is_default")]
    pub world: World,
    /// The files of the daemon's secrets, which are read for each start of the daemon.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, PathBuf>,
    /// The labels of the program that started the VM.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether the daemon waits for `pepita start`.
    #[serde(default)]
    pub hold: bool,
    /// The time limit for the agent's first answer, in milliseconds.
    #[serde(default = "default_ready_timeout_ms")]
    pub ready_timeout_ms: u64,
    /// Words that are added to the kernel's command line.
    #[serde(default)]
    pub cmdline_append: String,
    /// The frequency of the host's TSC in kHz, for an emulated guest.
    #[serde(default)]
    pub tsc_khz: Option<u64>,
    /// The directory in which the console's log is kept, in a directory for each VM; `None` = in the run directory.
    #[serde(default)]
    pub log_dir: Option<PathBuf>,
    /// The disks, in the order of mounting.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// The directories of the host that the guest sees.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<ShareSpec>,
    /// The path of the program that serves the shares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtiofsd: Option<PathBuf>,
    /// Whether the guest's agent takes its boot token from a port; an older agent finds it on the kernel's command line.
    #[serde(default)]
    pub token_port: bool,
    /// The ports that the monitor itself publishes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<Publish>,
    /// The places that the daemon may dial.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reach: Vec<Reached>,
    /// The jail of the VMM, its back-end and the servers of its shares; `None` = they are in no jail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jail: Option<Jail>,
    /// The network of the guest.
    #[serde(default, skip_serializing_if = "Network::is_none")]
    pub network: Network,
    /// The network device of the host, with the network `tap`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<Tap>,
}

/// A network device of the host that is a guest's network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    /// The name of the device.
    pub device: String,
    /// What the guest agent gives to the card. The gateway is the host.
    pub card: Card,
    /// The program `ip`.
    pub ip: PathBuf,
    /// The program `nft`.
    pub nft: PathBuf,
}

impl Tap {
    /// Returns the hardware address of the guest's card, one that is locally administered: it has the IP address.
    pub fn mac(&self) -> String {
        let [a, b, c, d] = self.card.address.octets();
        format!("02:fd:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    }
}

impl VmRequest {
    /// Returns what the guest agent gives to the network card, if there is a card.
    pub fn card(&self) -> Option<Card> {
        self.tap.as_ref().map(|tap| tap.card.clone()).or_else(|| self.network.card())
    }
}

fn default_port() -> u32 {
    pepita_wire::DEFAULT_PORT
}

/// The default time limit for the agent's first answer, in milliseconds.
pub const READY_TIMEOUT_MS: u64 = 60_000;

fn default_ready_timeout_ms() -> u64 {
    READY_TIMEOUT_MS
}

/// The configuration of a VM: the request, with the CID and the incarnation that the claim has added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmConfig {
    /// The CID that the VM holds.
    pub cid: Cid,
    /// The number of this start of the VM: the number in the request, else the launcher's own count from 1.
    #[serde(default)]
    pub incarnation: u64,
    /// The first of the two user ids that the VM holds, for the jails of root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_uid: Option<u32>,
    /// The incarnation that the guest was booted as, when the VM was promoted from a warm spare since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booted_as: Option<u64>,
    /// The request for the VM.
    #[serde(flatten)]
    pub request: VmRequest,
}

/// Returns the tag by which a guest finds the share with this index.
pub fn share_tag(index: usize) -> String {
    format!("share-{index}")
}

impl VmRequest {
    /// Returns what the agent mounts before it starts the daemon, in this order: a directory before what lies in it.
    pub fn mounts(&self) -> Vec<Mount> {
        let disk = |disk: &Disk| Mount {
            kind: MountKind::Disk,
            name: disk.name.clone(),
            mark: storage::serial(&disk.name),
            target: disk.mount.clone(),
            read_only: disk.read_only,
        };
        let share = |(index, share): (usize, &ShareSpec)| Mount {
            kind: MountKind::Share,
            name: share.path.to_string_lossy().into_owned(),
            mark: share_tag(index),
            target: share.mount.clone(),
            read_only: share.read_only,
        };
        let disks = self.disks.iter().map(disk);
        let mut all: Vec<Mount> = disks.chain(self.shares.iter().enumerate().map(share)).collect();
        all.sort_by_key(|mount| mount.target.split('/').count());
        all
    }
}

impl VmConfig {
    /// Returns the users that the processes of the VM become, if they become others than that of the launcher.
    pub fn users(&self) -> Option<Users> {
        let user = |uid| User { uid, gid: uid };
        self.first_uid.map(|first| Users { vmm: user(first), backend: user(first + 1) })
    }

    /// Returns the incarnation that the guest agent expects in a hello.
    pub fn guest_incarnation(&self) -> u64 {
        self.booted_as.unwrap_or(self.incarnation)
    }

    /// Returns whether a process of the host (the back-end) connects the guest's vsock with a Unix socket.
    pub fn needs_backend(&self) -> bool {
        self.request.vmm == VmmKind::Qemu && self.request.transport == Transport::Hybrid
    }

    /// Returns whether a supervisor has launched the VM.
    pub fn is_supervised(&self) -> bool {
        self.request.labels.contains_key(OWNER_LABEL)
    }

    /// Returns what the processes of the VM carry in their environment.
    pub fn carried(&self) -> Carried {
        let Self { cid, incarnation, request, .. } = self;
        Carried {
            cid: cid.get(),
            incarnation: *incarnation,
            vmm: <&str>::from(request.vmm).to_owned(),
            labels: request.labels.clone(),
        }
    }
}

/// The part of a configuration that the processes of a VM carry in their environment, for the case that the run
/// directory is gone. Nothing of it is secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Carried {
    /// The CID of the VM.
    pub cid: u32,
    /// The number of this start of the VM.
    pub incarnation: u64,
    /// The kind of the VMM.
    pub vmm: String,
    /// The labels of the program that started the VM.
    pub labels: BTreeMap<String, String>,
}

/// The maximum size of [`Carried`] as JSON, in bytes; the kernel refuses a variable of 128 KiB (MAX_ARG_STRLEN, see
/// execve(2)).
const CARRIED_CAP: usize = 64 * 1024;

impl Carried {
    /// Returns the text of the variable. Labels that are too long for a variable are left out.
    pub fn to_json(&self) -> String {
        let json = |carried: &Self| serde_json::to_string(carried).expect("numbers and texts become JSON");
        let whole = json(self);
        match whole.len() > CARRIED_CAP {
            true => json(&Self { labels: BTreeMap::new(), ..self.clone() }),
            false => whole,
        }
    }

    /// Returns whether a supervisor has launched the VM.
    pub fn is_supervised(&self) -> bool {
        self.labels.contains_key(OWNER_LABEL)
    }

    /// Reads the text of the variable. A text that cannot be read says nothing.
    pub fn of_json(json: &str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns the request for an emulated VM in which every field has a value.
    pub(crate) fn request() -> VmRequest {
        VmRequest {
            name: "a".into(),
            vmm: VmmKind::Qemu,
            program: "qemu".into(),
            accel: Accel::Tcg,
            kernel: Some("/k".into()),
            root: Root::Initramfs("/r.cpio".into()),
            image: Some(UsedImage {
                reference: "app:1".into(),
                digest: "sha256:0".into(),
                ..UsedImage::default()
            }),
            cpus: 2,
            memory_mb: 128,
            port: 5000,
            transport: Transport::Hybrid,
            backend: None,
            command: Vec::new(),
            env: [("SECRET".to_owned(), "s3".to_owned())].into(),
            world: World { user: Some("7:8".into()), ..World::default() },
            secrets: [("key".to_owned(), PathBuf::from("/etc/key"))].into(),
            labels: BTreeMap::default(),
            hold: false,
            ready_timeout_ms: 1000,
            cmdline_append: "loglevel=7".into(),
            tsc_khz: Some(2_000_000),
            log_dir: None,
            disks: Vec::new(),
            shares: Vec::new(),
            virtiofsd: None,
            token_port: true,
            publish: Vec::new(),
            reach: vec!["db:5432".parse().expect("a place")],
            jail: None,
            network: Network::User,
            tap: None,
        }
    }

    /// Returns a network device of the host.
    pub(crate) fn tap() -> Tap {
        let [address, gateway] = [2, 1].map(|last| [10, 213, 7, last].into());
        let card = Card { address, prefix: 24, gateway, name_servers: Vec::new() };
        Tap { device: "p0badcafe-2".into(), card, ip: "/ip".into(), nft: "/nft".into() }
    }

    /// Returns the configuration of `request` with CID 42 and incarnation 7.
    pub(crate) fn claimed(request: VmRequest) -> VmConfig {
        VmConfig {
            cid: Cid::new(42).expect("a CID"),
            incarnation: 7,
            first_uid: None,
            booted_as: None,
            request,
        }
    }

    #[test]
    fn what_is_stored_reads_back_the_same() {
        let config = claimed(request());
        let text = serde_json::to_string(&config).expect("a configuration becomes JSON");
        assert_eq!(serde_json::from_str::<VmConfig>(&text).expect("readable"), config);
    }

    #[test]
    fn what_processes_carry_reads_back_and_never_grows_too_long_for_a_variable() {
        let labels = |value: String| [("owner".to_owned(), value)].into();
        let config = claimed(VmRequest { labels: labels("edge".into()), ..request() });
        let carried = config.carried();
        assert_eq!(Carried::of_json(&carried.to_json()), Some(carried.clone()));
        assert!(!carried.to_json().contains("s3"), "no secret");
        let long = Carried { labels: labels("x".repeat(CARRIED_CAP)), ..carried };
        assert_eq!(Carried::of_json(&long.to_json()).map(|carried| carried.labels.len()), Some(0));
    }

    #[test]
    fn a_file_that_lacks_newer_fields_reads_and_one_without_a_cid_does_not() {
        let read = |text: &str| serde_json::from_str::<VmConfig>(text);
        let config = read(r#"{"name":"a","cid":5,"vmm":"process","later":[1]}"#).expect("readable");
        assert_eq!((config.cid.get(), config.request.vmm), (5, VmmKind::Process));
        assert_eq!((config.request.port, config.request.ready_timeout_ms), (5000, READY_TIMEOUT_MS));
        for text in
            [r#"{"name":"a"}"#, r#"{"name":"a","cid":null}"#, r#"{"name":"a","cid":2}"#, r#"{"cid":5}"#]
        {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
