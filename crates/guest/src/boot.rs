//! Reads the input of the agent's start: the kernel's command line and the description of the image.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The longest token that is read from the token's port, in bytes.
const TOKEN_CAP: usize = 256;

/// The identity of this guest, and the port for hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Boot {
    /// The token that a host must show in its first hello; empty when it was not read yet.
    pub(crate) token: String,
    /// The length of the token that waits in the token's port; 0 when the token is on the command line, as an older
    /// launcher passes it.
    pub(crate) token_in_port: usize,
    /// The vsock port to listen on.
    pub(crate) port: u32,
    /// The number of this start of the VM.
    pub(crate) incarnation: u64,
    /// The guest's CID; 0 when none was given.
    pub(crate) cid: u32,
    /// Whether clients inside the guest (CID 1) may connect, too, for tests over vsock_loopback.
    pub(crate) loopback: bool,
}

impl Boot {
    /// Parses the words `pepita.<key>=<value>` of a kernel command line. A missing key keeps its default; an unknown
    /// key is ignored, because a newer launcher may send more keys.
    pub(crate) fn from_cmdline(cmdline: &str) -> Self {
        let mut boot = Self {
            token: String::new(),
            token_in_port: 0,
            port: pepita_wire::DEFAULT_PORT,
            incarnation: 0,
            cid: 0,
            loopback: false,
        };
        for word in cmdline.split_ascii_whitespace() {
            let Some((key, value)) = word.strip_prefix("pepita.").and_then(|w| w.split_once('=')) else {
                continue;
            };
            match key {
                "token" => boot.token = value.to_owned(),
                "token_port" => boot.token_in_port = value.parse().unwrap_or(0).min(TOKEN_CAP),
                "port" => boot.port = value.parse().unwrap_or(boot.port),
                "incarnation" => boot.incarnation = value.parse().unwrap_or(0),
                "cid" => boot.cid = value.parse().unwrap_or(0),
                "loopback" => boot.loopback = value == "1",
                _ => {}
            }
        }
        boot
    }
}

/// The description of the image: `/etc/pepita/image.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Image {
    /// The daemon and its arguments, unless the launcher names another command.
    pub(crate) command: Vec<String>,
    /// Variables for the daemon's environment.
    pub(crate) env: BTreeMap<String, String>,
    /// The daemon's user, unless the launcher names another one.
    pub(crate) user: Option<String>,
    /// The daemon's working directory, unless the launcher names another one.
    pub(crate) workdir: Option<String>,
    /// Kernel modules to load, in this order.
    pub(crate) modules: Vec<String>,
    /// The modules of drivers that are loaded when they are needed, in this order.
    pub(crate) drivers: BTreeMap<String, Vec<String>>,
    /// The block device with the real root file system, when this image is only the initrd.
    pub(crate) root: Option<String>,
    /// The block device with a root file system that other VMs share: it is mounted read-only below a layer in memory, and
    /// this agent goes on in it.
    pub(crate) shared_root: Option<String>,
}

impl Image {
    /// The path of the description in the image.
    pub(crate) const PATH: &'static str = "/etc/pepita/image.json";

    /// Reads the description. An absent file describes an image that names no daemon.
    ///
    /// # Errors
    /// When the file cannot be read or is not a description of an image.
    pub(crate) fn read(path: impl AsRef<Path>) -> Result<Self, String> {
        let path = path.as_ref();
        match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", path.display())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(format!("{}: {e}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_command_line_is_read_among_the_kernels_own_words() {
        let boot = Boot::from_cmdline(
            "quiet pepita.token=ab pepita.port=9 pepita.cid=42 pepita.new=1 pepita.incarnation=7",
        );
        let expected =
            Boot { token: "ab".into(), token_in_port: 0, port: 9, incarnation: 7, cid: 42, loopback: false };
        assert_eq!(boot, expected);
        let boot = Boot::from_cmdline("pepita.token_port=32 quiet");
        assert_eq!((boot.token.as_str(), boot.token_in_port), ("", 32));
        assert_eq!(Boot::from_cmdline("pepita.token_port=99999999").token_in_port, TOKEN_CAP);
    }

    proptest! {
        #[test]
        fn no_command_line_panics(text in ".*") {
            Boot::from_cmdline(&text);
        }

        #[test]
        fn no_image_file_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = serde_json::from_slice::<Image>(&bytes);
        }
    }
}
