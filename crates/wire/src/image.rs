//! The record of a container image, as `pepita-image` prints it for the launcher and for programs, and what a VM keeps of
//! it.

use crate::Signal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// An image whose root is ready to boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageRecord {
    /// The name by which the image was asked for, in full.
    pub reference: String,
    /// The digest of the image's manifest, as registries name it.
    pub digest: String,
    /// The digest of the image's configuration, as `docker images` names it.
    pub id: String,
    /// The root file system, which VMs share and do not write to.
    pub root: PathBuf,
    /// The bytes that the root takes on the host's disk.
    pub size: u64,
    /// What the image says about the program to run.
    pub config: ImageConfig,
}

/// What an image says about the program to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// The arguments after them, or the program when there is no entrypoint.
    pub cmd: Vec<String>,
    /// Variables of the environment.
    pub env: BTreeMap<String, String>,
    /// The user, and perhaps the group, by name or number: `redis`, `999:999`.
    pub user: Option<String>,
    /// The directory in which the program starts.
    pub working_dir: Option<String>,
    /// The signal that asks the program to end.
    pub stop_signal: Option<String>,
    /// The ports that the program listens on, such as `6379/tcp`.
    pub exposed_ports: Vec<String>,
    /// The directories whose contents are to outlive the container.
    pub volumes: Vec<String>,
    /// The image's labels.
    pub labels: BTreeMap<String, String>,
    /// The image's health check.
    pub health: Option<ImageHealth>,
}

/// The container image that a VM boots. It has what is needed as long as the VM runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UsedImage {
    /// The name of the image, in full.
    pub reference: String,
    /// The digest of its manifest.
    pub digest: String,
    /// The signal that asks its program to end; absent = TERM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<Signal>,
    /// Its health check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<ImageHealth>,
    /// The directories whose contents it means to outlive the VM, and that have no disk.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unkept: Vec<String>,
}

/// The health check of an image. A number of 0 means that the image names none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageHealth {
    /// The command to run; exit code 0 means healthy.
    pub command: Vec<String>,
    /// The time between two runs, in milliseconds.
    pub interval_ms: u64,
    /// The time limit for a run, in milliseconds.
    pub timeout_ms: u64,
    /// The time after the start in which failures do not count, in milliseconds.
    pub start_period_ms: u64,
    /// The number of failures in a row that make the program unhealthy.
    pub retries: u32,
}

impl ImageConfig {
    /// Returns the command to run, as `docker run` composes it: the entrypoint, then the user's arguments, or without
    /// any the image's.
    pub fn command(&self, arguments: &[String]) -> Vec<String> {
        let arguments = if arguments.is_empty() { &self.cmd } else { arguments };
        self.entrypoint.iter().chain(arguments).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_arguments_take_the_place_of_the_images() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let config =
            ImageConfig { entrypoint: words(&["e", "-x"]), cmd: words(&["c"]), ..ImageConfig::default() };
        assert_eq!(config.command(&[]), words(&["e", "-x", "c"]));
        assert_eq!(config.command(&words(&["a", "b"])), words(&["e", "-x", "a", "b"]));
        let config = ImageConfig { entrypoint: Vec::new(), ..config };
        assert_eq!((config.command(&[]), config.command(&words(&["a"]))), (words(&["c"]), words(&["a"])));
    }
}
