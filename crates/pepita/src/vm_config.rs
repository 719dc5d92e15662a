//! What a `run` asked for, checked and complete: the file that the monitor works from.

use pepita_wire::record::Transport;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What is to be emulated by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmmKind {
    /// QEMU's microvm machine.
    Qemu,
    /// The agent as a plain process: no isolation.
    Process,
}

/// How the virtual CPUs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// In hardware.
    Kvm,
    /// Emulated.
    Tcg,
    /// There are none.
    None,
}

impl Accel {
    /// As QEMU and the status record call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
            Self::None => "none",
        }
    }
}

/// How the root file system gets into the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Root {
    /// It is the initramfs.
    Initramfs(PathBuf),
    /// It is a disk; the initrd, if any, is the way to it.
    Disk {
        /// The image.
        image: PathBuf,
        /// What loads the disk's driver.
        initrd: Option<PathBuf>,
    },
    /// There is none: a plain process. The file, if any, is an `image.json`.
    Host(Option<PathBuf>),
}

/// What a VM is to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmConfig {
    /// The VM's name.
    pub name: String,
    /// Which start of it.
    pub incarnation: u64,
    /// Its VMM.
    pub vmm: VmmKind,
    /// The VMM's program (or the agent's, for a plain process).
    pub program: PathBuf,
    /// How its CPUs run.
    pub accel: Accel,
    /// The kernel as it is given to the VMM.
    pub kernel: Option<PathBuf>,
    /// Its root.
    pub root: Root,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mb: u64,
    /// The CID, as wanted or as claimed; `None` = any.
    pub cid: Option<u32>,
    /// The agent's port.
    pub port: u32,
    /// How the host reaches it.
    pub transport: Transport,
    /// The back-end's program, on the hybrid transport.
    pub backend: Option<PathBuf>,
    /// The daemon; empty = what the image names.
    pub command: Vec<String>,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// The launcher's labels.
    pub labels: BTreeMap<String, String>,
    /// The daemon is not to be started yet.
    pub hold: bool,
    /// Until the agent has to be there, in milliseconds.
    pub ready_timeout_ms: u64,
    /// Added to the kernel's command line.
    pub cmdline_append: String,
    /// The host's TSC, for an emulated guest.
    pub tsc_khz: Option<u64>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An emulated VM with everything in it.
    pub(crate) fn plan() -> VmConfig {
        VmConfig {
            name: "a".into(),
            incarnation: 7,
            vmm: VmmKind::Qemu,
            program: "qemu".into(),
            accel: Accel::Tcg,
            kernel: Some("/k".into()),
            root: Root::Initramfs("/r.cpio".into()),
            cpus: 2,
            memory_mb: 128,
            cid: Some(42),
            port: 5000,
            transport: Transport::Hybrid,
            backend: None,
            command: Vec::new(),
            env: [("SECRET".to_owned(), "s3".to_owned())].into(),
            labels: BTreeMap::default(),
            hold: false,
            ready_timeout_ms: 1000,
            cmdline_append: "loglevel=7".into(),
            tsc_khz: Some(2_000_000),
        }
    }
}
