//! What a program asks the launcher for: the specification that `pepita run --spec -` reads from its standard input.
//!
//! Each field is optional in the text. A field that a launcher does not know is refused: a VM that is not what was
//! asked for is worse than none.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What a microVM is to be. A field that is left out means what the option of `pepita run` means when it is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LaunchSpec {
    /// The VM's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The start of this VM, counted by the program that starts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<u64>,
    /// The VMM: `qemu` or `process`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vmm: Option<String>,
    /// The guest's kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// The guest's root: an initramfs or a disk image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<PathBuf>,
    /// An initrd that leads to a disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// The unpacked package of the kernel, for the modules of a disk's initrd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_package: Option<PathBuf>,
    /// How the virtual CPUs run: `auto`, `kvm` or `tcg`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accel: Option<String>,
    /// How the host reaches the guest's vsock: `auto`, `vhost` or `hybrid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock: Option<String>,
    /// The words to add to the kernel's command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmdline_append: Option<String>,
    /// The number of virtual CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// The memory, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
    /// The guest's CID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock_cid: Option<u32>,
    /// The guest agent's vsock port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock_port: Option<u32>,
    /// How long the agent may take to answer, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_timeout_ms: Option<u64>,
    /// Whether the daemon waits for `pepita start`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hold: bool,
    /// The daemon's program and arguments; empty = what the image names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// The daemon's environment.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The labels of the program that starts the VM.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_is_not_known_is_refused_by_name() {
        let error =
            serde_json::from_str::<LaunchSpec>(r#"{"name":"a","levitate":true}"#).expect_err("refused");
        assert!(error.to_string().contains("levitate"));
        assert_eq!(serde_json::from_str::<LaunchSpec>("{}").expect("reads"), LaunchSpec::default());
    }
}
