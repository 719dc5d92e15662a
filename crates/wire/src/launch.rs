//! The request of a program to the launcher: the specification that `pepita run --spec -` reads from its standard
//! input.
//!
//! Each field is optional in the text. A launcher refuses a field that it does not know, because a VM without the
//! requested property is worse than no VM.

use crate::network::Network;
use crate::storage::{DiskSpec, ShareSpec};
use crate::world::Ulimit;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// The label by which a supervisor knows its own VMs; its value is the supervisor's name. The launcher keeps the last
/// ends of a VM with this label when its files are removed.
pub const OWNER_LABEL: &str = "pepita-supervisor.owner";

/// The label of a warm spare, with the name of the VM whose place it can take. A promotion removes it.
pub const SPARE_LABEL: &str = "pepita-supervisor.spare-of";

/// The environment variable that says how much of a jail there has to be, for a launch that does not say it.
pub const JAIL_ENVIRONMENT: &str = "PEPITA_JAIL";

/// The environment variable with the user ids of jails, for a launch that does not name them.
pub const JAIL_UIDS_ENVIRONMENT: &str = "PEPITA_JAIL_UIDS";

/// A range of user ids that belong to nobody. The group ids are the same numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Uids {
    /// The first user id.
    pub first: u32,
    /// The last user id.
    pub last: u32,
}

impl Uids {
    /// The range for which nobody has said another one: above what `/etc/subuid` usually gives to users.
    pub const USUAL: Self = Self { first: 700_000, last: 765_535 };

    /// Returns the first user id of each VM that can have two.
    pub fn pairs(self) -> impl Iterator<Item = u32> {
        (self.first..self.last).step_by(2)
    }
}

impl std::str::FromStr for Uids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers =
            text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        match numbers {
            // The highest number means no user (setuid(2)).
            Some((first, last)) if 0 < first && first < last && last < u32::MAX => Ok(Self { first, last }),
            Some(_) | None => {
                Err(format!("{text:?} is no range of two or more user ids, such as {}", Self::USUAL))
            }
        }
    }
}

impl TryFrom<String> for Uids {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Uids> for String {
    fn from(uids: Uids) -> Self {
        uids.to_string()
    }
}

impl fmt::Display for Uids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// The specification of a microVM. An absent field has the same default as the option of `pepita run`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LaunchSpec {
    /// The name of the VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The number of this start of the VM, counted by the program that starts the VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<u64>,
    /// The kind of VMM: `qemu` or `process`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vmm: Option<String>,
    /// The path of the guest's kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// The path of the guest's root file system: an initramfs or a disk image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<PathBuf>,
    /// The container image whose root the guest gets, by the name that `pepita image` knows or can pull; in place of
    /// `rootfs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// When the image is asked for where it comes from: `missing` (the default), `always` or `never`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull: Option<String>,
    /// The program that takes the place of the image's entrypoint, and of its command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<String>,
    /// The path of an initrd that mounts the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// The directory of the kernel's unpacked package, for the modules of a disk's initrd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_package: Option<PathBuf>,
    /// The acceleration of the virtual CPUs: `auto`, `kvm` or `tcg`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accel: Option<String>,
    /// The transport to the guest's vsock: `auto`, `vhost` or `hybrid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock: Option<String>,
    /// How much of a jail there has to be for the VMM and its back-end: `full`, `best-effort` or `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jail: Option<String>,
    /// The user ids of which root's VM gets two, `FIRST-LAST`; absent = `$PEPITA_JAIL_UIDS`, else a range of the launcher's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jail_uids: Option<String>,
    /// Words to add to the kernel's command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmdline_append: Option<String>,
    /// The number of virtual CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// The guest's memory, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
    /// The vsock address (CID) of the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock_cid: Option<u32>,
    /// The vsock port on which the guest agent listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock_port: Option<u32>,
    /// The time limit for the agent's first answer, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_timeout_ms: Option<u64>,
    /// The directory in which the console's log is kept, in a directory for each VM; absent = in the run directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_dir: Option<PathBuf>,
    /// The disks, which outlive the VM.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskSpec>,
    /// The directories of the host that the guest sees.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<ShareSpec>,
    /// The directory in which the files of disks lie; absent = `$PEPITA_DISK_DIR`, else the user's directory for data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_dir: Option<PathBuf>,
    /// Whether the daemon waits for `pepita start`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hold: bool,
    /// The daemon's program and arguments; empty = the command that the image names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// The daemon's environment.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// A file with more of the daemon's environment, one `K=V` in each line; `env` wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_file: Option<PathBuf>,
    /// The guest's name for itself; absent = the name of the VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The daemon's user, by a name or number of the image, and with a colon its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The daemon's working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// The daemon's limits (setrlimit(2)), by their names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Settings of the guest's kernel (sysctl(8)).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// Whether the guest's root file system is read-only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Whether the daemon has every capability, and may gain privileges.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub privileged: bool,
    /// Files of the host that the daemon finds in `/run/secrets`, by their names there.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, PathBuf>,
    /// Labels that the program that starts the VM chooses freely.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The ports of the guest to publish on the host, as [`crate::Publish`] is written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<String>,
    /// The places that the daemon may dial, as [`crate::reach::Reached`] is written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reach: Vec<String>,
    /// The network of the guest.
    #[serde(skip_serializing_if = "Network::is_none")]
    pub network: Network,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_user_ids_has_two_for_each_vm_and_never_root() {
        let uids: Uids = "700-704".parse().expect("a range");
        assert_eq!(uids.pairs().collect::<Vec<_>>(), [700, 702]);
        assert_eq!(uids.to_string(), "700-704");
        for text in ["0-9", "9", "9-9", "9-8", "1-4294967295", "x-y", ""] {
            assert!(text.parse::<Uids>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_field_that_is_not_known_is_refused_by_name() {
        let error =
            serde_json::from_str::<LaunchSpec>(r#"{"name":"a","levitate":true}"#).expect_err("refused");
        assert!(error.to_string().contains("levitate"));
        assert_eq!(serde_json::from_str::<LaunchSpec>("{}").expect("reads"), LaunchSpec::default());
    }
}
