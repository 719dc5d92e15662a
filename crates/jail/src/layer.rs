//! The layers of a jail, and what is said of each: whether it is in force, and why not.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// A layer of the jail. Each stops attempts that the others would let pass, so none is a reason to leave out another.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    strum::EnumIter,
    strum::IntoStaticStr,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Layer {
    /// No open file of the host but those that the program is to have.
    Descriptors,
    /// A root directory of its own (mount_namespaces(7)): what is not listed in the plan does not exist.
    Root,
    /// A network of its own (network_namespaces(7)), without any interface that is up; abstract sockets belong to it, too.
    Network,
    /// Process ids of its own (pid_namespaces(7)): no process of the host has a name that could be signalled or traced.
    Pids,
    /// System V IPC objects and POSIX message queues of its own (ipc_namespaces(7)).
    Ipc,
    /// A host name of its own (uts_namespaces(7)).
    HostName,
    /// A user id that no other program has. Only root can give one away.
    Uid,
    /// A user namespace of its own (user_namespaces(7)), in which no other user exists and from which no further one can
    /// be made.
    UserNamespace,
    /// No capability in any set, and none to be had again (capabilities(7)).
    Capabilities,
    /// No program that it executes gives it more rights (PR_SET_NO_NEW_PRIVS).
    NoNewPrivileges,
    /// A filter of system calls (seccomp(2)).
    Seccomp,
    /// A rule set of the kernel for files, TCP, abstract sockets and signals (landlock(7)).
    Landlock,
    /// Limits of the process: core files, file size, open files, processes (setrlimit(2)).
    Limits,
    /// Limits of a control group: memory, CPU, processes. The launcher sets them, and adds this layer to a report.
    Cgroup,
}

impl Layer {
    /// Returns the name of the layer as it is printed and stored.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is said of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Standing {
    /// The layer is in force.
    InForce {
        /// What it covers, where that depends on the kernel. (For example `files, TCP (ABI 4)`.)
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// The plan does without the layer, whatever the host can do.
    LeftOut {
        /// The reason, for example that the guest has a network.
        why: String,
    },
    /// The layer cannot be had here.
    Missing {
        /// The reason, and what would help.
        why: String,
    },
}

impl Standing {
    /// Returns the standing of a layer of which nothing more is to be said.
    pub fn in_force() -> Self {
        Self::InForce { note: None }
    }

    /// Returns the standing of a layer that is in force, with what it covers.
    pub fn covering(note: impl Into<String>) -> Self {
        Self::InForce { note: Some(note.into()) }
    }
}

/// What is said of all layers of one process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Report {
    layers: BTreeMap<Layer, Standing>,
}

impl Report {
    /// Notes the standing of a layer.
    pub fn note(&mut self, layer: Layer, standing: Standing) {
        self.layers.insert(layer, standing);
    }

    /// Returns the standing of a layer, if anything is known about it.
    pub fn of(&self, layer: Layer) -> Option<&Standing> {
        self.layers.get(&layer)
    }

    /// Returns all layers of which something is known, in the order in which they are listed to users.
    pub fn iter(&self) -> impl Iterator<Item = (Layer, &Standing)> {
        self.layers.iter().map(|(layer, standing)| (*layer, standing))
    }

    /// Returns the layers that cannot be had, with the reason of each.
    pub fn missing(&self) -> impl Iterator<Item = (Layer, &str)> {
        self.iter().filter_map(|(layer, standing)| match standing {
            Standing::Missing { why } => Some((layer, why.as_str())),
            Standing::InForce { .. } | Standing::LeftOut { .. } => None,
        })
    }

    /// Returns the layers in force.
    pub fn in_force(&self) -> impl Iterator<Item = Layer> {
        self.iter().filter_map(|(layer, standing)| match standing {
            Standing::InForce { .. } => Some(layer),
            Standing::LeftOut { .. } | Standing::Missing { .. } => None,
        })
    }
}
