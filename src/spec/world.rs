//! The world of a daemon, as a VM's specification has it.

use pepita_wire::network::Network;
use pepita_wire::world::Ulimit;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The world of a daemon: what its guest is to give it beside its command and its environment. With
/// [`Vmm::Process`](super::Vmm::Process) only `workdir`, `env_file` and `ulimits` can be set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorldSpec {
    /// The guest's name for itself; `None` for the name of the VM.
    pub hostname: Option<String>,
    /// The daemon's user, by a name or number of the image, and with a colon its group; `None` for the image's, else root.
    pub user: Option<String>,
    /// The daemon's working directory; `None` for the image's, else `/`.
    pub workdir: Option<String>,
    /// A file of the host with more of the daemon's environment, read at each launch.
    pub env_file: Option<PathBuf>,
    /// Files of the host that the daemon finds in `/run/secrets`, by their names there.
    pub secrets: BTreeMap<String, PathBuf>,
    /// The daemon's limits, by their names in [`pepita_wire::world::ULIMITS`].
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Settings of the guest's kernel.
    pub sysctls: BTreeMap<String, String>,
    /// Whether the guest's root file system is read-only.
    pub read_only: bool,
    /// Whether the daemon has every capability, and may gain privileges.
    pub privileged: bool,
    /// The network of the guest.
    pub network: Network,
}
