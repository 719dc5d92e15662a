//! What the agent is told at its start: by the kernel's command line, or by options, and by the image.

use serde::Deserialize;
use std::collections::BTreeMap;

/// Who this guest is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// What a host's first hello must show.
    pub token: String,
    /// The vsock port to listen on.
    pub port: u32,
    /// Which start of the VM this is.
    pub incarnation: u64,
    /// The guest's CID.
    pub cid: u32,
    /// Clients inside the guest (CID 1) may connect, too: for tests over vsock_loopback.
    pub loopback: bool,
}

impl Boot {
    /// Reads `pepita.*` from a kernel command line. What is not there keeps its default; what is not known is ignored.
    pub fn from_cmdline(cmdline: &str) -> Self {
        let mut boot = Self {
            token: String::new(),
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

/// `/etc/pepita/image.json`: what the image says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Image {
    /// The daemon and its arguments, unless the launcher names another.
    pub command: Vec<String>,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Kernel modules to load, in this order.
    pub modules: Vec<String>,
    /// A block device with the real root, to which this initrd is only the way.
    pub root: Option<String>,
}

impl Image {
    /// Where it lies.
    pub const PATH: &'static str = "/etc/pepita/image.json";

    /// Reads it. No file is an image without a daemon of its own.
    ///
    /// # Errors
    /// When it is not what it should be.
    pub fn read(path: &str) -> Result<Self, String> {
        match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| format!("{path}: {e}")),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(format!("{path}: {e}")),
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
        assert_eq!(boot, Boot { token: "ab".into(), port: 9, incarnation: 7, cid: 42, loopback: false });
    }

    proptest! {
        #[test]
        fn no_command_line_breaks_it(text in ".*") {
            Boot::from_cmdline(&text);
        }

        #[test]
        fn no_image_file_breaks_it(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = serde_json::from_slice::<Image>(&bytes);
        }
    }
}
