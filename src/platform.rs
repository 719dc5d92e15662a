//! Detects where this program runs, selects the adapter that fits, by the environment and marks in the file system, and
//! raises the limit of open files.

use crate::adapter::{PepitaAdapter, PlatformAdapter};
use std::fmt;
use std::path::Path;

/// The variable that the guest agent sets for the daemon.
const CID_VARIABLE: &str = "PEPITA_VSOCK_CID";

/// The file that the guest agent writes at boot.
const GUEST_MARK: &str = "/run/pepita/guest";

/// The platform that a program runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Platform {
    /// Inside a pepita microVM.
    PepitaMicroVM,
    /// Inside a container.
    Container,
    /// On Linux with systemd.
    Linux,
    /// On a host with macOS.
    MacOS,
    /// On WOS, that is in WebAssembly.
    Wos,
    /// On any other platform.
    Native,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PepitaMicroVM => "pepita",
            Self::Container => "container",
            Self::Linux => "linux",
            Self::MacOS => "macos",
            Self::Wos => "wos",
            Self::Native => "native",
        })
    }
}

/// The error that no adapter exists for the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no adapter for the platform {0}; on any Linux host, PepitaAdapter::with_images runs daemons in microVMs"
)]
pub struct NoAdapter(pub Platform);

/// The signs by which a platform is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Signs {
    wos: bool,
    pepita: bool,
    container: bool,
    systemd: bool,
    macos: bool,
}

impl Signs {
    fn detect() -> Self {
        let exists = |path: &str| Path::new(path).exists();
        let variable = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let cgroup = std::fs::read_to_string("/proc/1/cgroup").unwrap_or_default();
        let runtimes = ["docker", "containerd", "kubepods", "lxc", "libpod"];
        Self {
            wos: cfg!(target_arch = "wasm32") || variable("WOS_KERNEL"),
            pepita: variable(CID_VARIABLE) || exists(GUEST_MARK),
            container: exists("/.dockerenv")
                || exists("/run/.containerenv")
                || variable("KUBERNETES_SERVICE_HOST")
                || runtimes.iter().any(|word| cgroup.contains(word)),
            // sd_booted(3)
            systemd: cfg!(target_os = "linux") && exists("/run/systemd/system"),
            macos: cfg!(target_os = "macos"),
        }
    }

    /// Returns the innermost platform: a guest may run a container, and the host of a container a systemd.
    fn platform(self) -> Platform {
        match self {
            Self { wos: true, .. } => Platform::Wos,
            Self { container: true, pepita: false, .. } => Platform::Container,
            Self { pepita: true, .. } => Platform::PepitaMicroVM,
            Self { systemd: true, .. } => Platform::Linux,
            Self { macos: true, .. } => Platform::MacOS,
            Self { .. } => Platform::Native,
        }
    }
}

/// Returns the platform that this program runs on.
pub fn detect_platform() -> Platform {
    Signs::detect().platform()
}

/// Returns the adapter for a platform.
///
/// # Errors
/// Returns an error when there is no such adapter: this project has only the adapter for microVMs.
pub fn select_adapter(platform: Platform) -> Result<Box<dyn PlatformAdapter>, NoAdapter> {
    match platform {
        Platform::PepitaMicroVM => Ok(Box::new(PepitaAdapter::new())),
        Platform::Container | Platform::Linux | Platform::MacOS | Platform::Wos | Platform::Native => {
            Err(NoAdapter(platform))
        }
    }
}

/// Raises this process's limit of open files from the soft to the hard one, and returns the limit that holds then; `None`
/// when there is no limit. A supervisor needs two descriptors for each VM, and the usual soft limit of 1024 is meant for
/// programs that use select(2). For host programs to call at their start: a library does not change the limits of its
/// process by itself.
///
/// # Errors
/// Returns the error of the system; the limit is what it was.
pub fn raise_file_limit() -> std::io::Result<Option<u64>> {
    crate::executor::raise_file_limit()
}

/// Returns how many open files a supervisor of this many VMs needs.
pub fn files_needed(vms: usize) -> u64 {
    const FOR_EACH_VM: u64 = 2;
    // Launches under way, clients of the control socket, the reserve for removals.
    const BESIDE: u64 = 160;
    u64::try_from(vms).unwrap_or(u64::MAX).saturating_mul(FOR_EACH_VM).saturating_add(BESIDE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_sign_wins() {
        let none = Signs::default();
        let cases = [
            (none, Platform::Native),
            (Signs { systemd: true, ..none }, Platform::Linux),
            (Signs { systemd: true, container: true, ..none }, Platform::Container),
            (Signs { pepita: true, systemd: true, ..none }, Platform::PepitaMicroVM),
            (Signs { pepita: true, container: true, ..none }, Platform::PepitaMicroVM),
            (Signs { macos: true, ..none }, Platform::MacOS),
            (Signs { wos: true, pepita: true, ..none }, Platform::Wos),
        ];
        for (signs, platform) in cases {
            assert_eq!(signs.platform(), platform, "{signs:?}");
        }
    }

    #[test]
    fn a_platform_without_an_adapter_is_named() {
        assert!(select_adapter(Platform::PepitaMicroVM).is_ok());
        let error = select_adapter(Platform::Wos).err().expect("none").to_string();
        assert!(error.contains("platform wos"), "{error}");
    }
}
