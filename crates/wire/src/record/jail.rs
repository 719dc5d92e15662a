//! What is said of the jails of a VM's processes: which layers are in force.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The jails of a VM's processes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JailStatus {
    /// How much of a jail was asked for: `full` or `best-effort`.
    pub level: String,
    /// The processes in jails, by what they are: `vmm`, `backend`, and `share` with the directory in the guest.
    pub processes: BTreeMap<String, ProcessJail>,
}

/// The jail of one process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessJail {
    /// The user id that no other program has; absent without the layer `uid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The layers, by their names.
    pub layers: BTreeMap<String, LayerStatus>,
}

/// What is said of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum LayerStatus {
    /// The layer is in force.
    InForce {
        /// What the layer covers, where that depends on the kernel.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// The jail does without the layer, whatever the host can do.
    LeftOut {
        /// The reason.
        why: String,
    },
    /// The host does not let the layer be had.
    Missing {
        /// The reason, and what would help.
        why: String,
    },
    /// A word of a newer launcher.
    #[serde(other)]
    Unknown,
}

impl JailStatus {
    /// Returns the layers that the host does not let be had, each with the reason, for each process that lacks them.
    pub fn missing(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.processes.iter().flat_map(|(process, jail)| {
            jail.layers.iter().filter_map(move |(layer, standing)| match standing {
                LayerStatus::Missing { why } => Some((process.as_str(), layer.as_str(), why.as_str())),
                LayerStatus::InForce { .. } | LayerStatus::LeftOut { .. } | LayerStatus::Unknown => None,
            })
        })
    }

    /// Returns the sentence about the layers that are missing, each once with its reason; `None` = none is.
    pub fn shortfall(&self) -> Option<String> {
        let missing: BTreeMap<&str, &str> = self.missing().map(|(_, layer, why)| (layer, why)).collect();
        let named: Vec<String> = missing.into_iter().map(|(layer, why)| format!("{layer}: {why}")).collect();
        (!named.is_empty()).then(|| named.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_that_several_processes_lack_is_named_once_with_its_reason() {
        let jail = |text: &str| serde_json::from_str::<JailStatus>(text).expect("a record");
        let lacking = r#"{"layers":{"landlock":{"is":"missing","why":"off"},"ipc":{"is":"in-force"}}}"#;
        let both =
            format!(r#"{{"level":"best-effort","processes":{{"vmm":{lacking},"backend":{lacking}}}}}"#);
        assert_eq!(jail(&both).shortfall().as_deref(), Some("landlock: off"));
        let newer = r#"{"processes":{"vmm":{"uid":7,"layers":{"ipc":{"is":"levitating"},"pids":{"is":"left-out","why":"x"}}}}}"#;
        assert_eq!(jail(newer).shortfall(), None);
        assert_eq!(jail(newer).processes["vmm"].uid, Some(7));
    }
}
