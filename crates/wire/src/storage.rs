//! The storage of a VM that is not its root: disks that outlive their VMs, and directories of the host.
//!
//! Disks are what docker calls named volumes, shares what docker calls bind mounts.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest name of a disk, in bytes.
pub const NAME_CAP: usize = 63;

/// The longest place of a disk or a share in a guest, in bytes.
pub const MOUNT_CAP: usize = 1024;

/// The number of disks and shares that a VM may have: a microvm has 24 slots for devices, and needs some for itself.
pub const STORAGE_CAP: usize = 12;

/// The size of a new disk for which none is named, in MiB. The file has holes: only what is written takes space.
pub const DEFAULT_SIZE_MB: u64 = 10 * 1024;

/// The smallest and the largest disk, in MiB: ext4 with a journal, and its largest file.
pub const SIZE_MB: std::ops::RangeInclusive<u64> = 16..=16 << 20;

/// The time limit for the checks of a VM's disks before its VMM is started. It is beside the time that the guest has to
/// boot.
pub const CHECK_DEADLINE: Duration = Duration::from_secs(10 * 60);

/// The environment variable that names the directory of disks.
pub const DISK_ENVIRONMENT: &str = "PEPITA_DISK_DIR";

/// The number of bytes of the serial number of a virtio disk (VIRTIO_BLK_ID_BYTES).
const SERIAL_CAP: usize = 20;

/// A disk that a VM is to have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskSpec {
    /// The name of the disk.
    pub name: String,
    /// The directory in the guest at which the disk is mounted.
    pub mount: String,
    /// The size of the disk in MiB. A new disk gets this size, and a smaller one grows to it; absent = a new disk gets
    /// [`DEFAULT_SIZE_MB`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_mb: Option<u64>,
    /// A file or block device that is the disk; absent = a file of the disk's name in the directory of disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Whether the guest cannot write to the disk.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// A directory of the host that a VM is to see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShareSpec {
    /// The directory of the host.
    pub path: PathBuf,
    /// The directory in the guest at which it is mounted.
    pub mount: String,
    /// Whether the guest cannot write to it.
    pub read_only: bool,
}

impl Default for ShareSpec {
    fn default() -> Self {
        Self { path: PathBuf::new(), mount: String::new(), read_only: true }
    }
}

/// A file system that a guest agent mounts before it starts the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The kind of device.
    pub kind: MountKind,
    /// The name, for messages.
    pub name: String,
    /// The mark by which the agent finds the device: the serial number of a disk, the tag of a share.
    pub mark: String,
    /// The directory at which it is mounted.
    pub target: String,
    /// Whether it is mounted without the right to write.
    #[serde(default)]
    pub read_only: bool,
}

/// The kind of device that is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A disk with ext4.
    Disk,
    /// A directory of the host, by virtiofs.
    Share,
}

/// What is known of a disk: an entry of `pepita disk list --json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskRecord {
    /// The name of the disk.
    pub name: String,
    /// The file of the disk.
    pub path: PathBuf,
    /// The size of the disk, in MiB.
    pub size_mb: u64,
    /// The space that the disk takes on the host, in MiB.
    pub used_mb: u64,
    /// The VM that uses the disk now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_by: Option<String>,
    /// The VM that has used the disk last, or uses it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_by: Option<String>,
    /// The directory at which the disk is, or was last, in the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount: Option<String>,
    /// The size to which the disk grows at the next start of its VM, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grows_to_mb: Option<u64>,
}

/// Returns what is wrong with the name of a disk. The rule is docker's for volumes.
pub fn name_fault(name: &str) -> Option<String> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.is_empty() {
        return Some("the name of a disk is empty".to_owned());
    }
    if name.len() > NAME_CAP {
        return Some(format!("the name of a disk has {} bytes; at most {NAME_CAP}", name.len()));
    }
    if !name.chars().all(is_good) || !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        let rule = "use letters, digits, '_', '.' and '-', with a letter or digit in front";
        return Some(format!("{name:?} is no name of a disk; {rule}"));
    }
    None
}

/// Returns what is wrong with the place of a disk or share in a guest.
pub fn mount_fault(mount: &str) -> Option<String> {
    let fault = |why: &str| Some(format!("{mount:?} {why}"));
    if !mount.starts_with('/') {
        return fault("is no absolute path of the guest");
    }
    if mount.len() > MOUNT_CAP || mount.chars().any(char::is_control) {
        return fault("is too long, or has control characters");
    }
    let trimmed = mount.trim_end_matches('/');
    if trimmed.is_empty() {
        return fault("is the root of the guest; name a directory below it");
    }
    if trimmed[1..].split('/').any(|part| matches!(part, "" | "." | "..")) {
        return fault("has an empty part, or a part \".\" or \"..\"");
    }
    let is_below = |dir: &str| Path::new(trimmed).starts_with(dir);
    if ["/proc", "/sys", "/dev", "/run/pepita"].iter().any(|dir| is_below(dir)) || trimmed == "/run" {
        return fault("belongs to the guest agent");
    }
    None
}

/// Reads a size such as `512M`, `1G`, `10GiB`, in MiB. As for docker, `G` means GiB.
///
/// # Errors
/// Says what a size looks like.
pub fn size_mb(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is no size; write a number and a unit, such as \"512MiB\" or \"10GiB\"");
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let factor = match unit.trim_start() {
        "M" | "m" | "MiB" => 1,
        "G" | "g" | "GiB" => 1 << 10,
        "T" | "t" | "TiB" => 1 << 20,
        _ => return Err(bad()),
    };
    let size = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(bad)?;
    match SIZE_MB.contains(&size) {
        true => Ok(size),
        false => Err(format!("{text:?} is out of range; a disk has 16MiB to 16TiB")),
    }
}

/// Writes a size that [`size_mb`] reads, in the largest unit that is exact.
pub fn size_text(mb: u64) -> String {
    let units = [(1 << 20, "TiB"), (1 << 10, "GiB")];
    match units.iter().find(|(factor, _)| mb > 0 && mb.is_multiple_of(*factor)) {
        Some((factor, unit)) => format!("{}{unit}", mb / factor),
        None => format!("{mb}MiB"),
    }
}

/// Returns the serial number of a disk: its name, or a part of a long name and a hash of all of it.
pub fn serial(name: &str) -> String {
    if name.len() <= SERIAL_CAP {
        return name.to_owned();
    }
    // FNV-1a: the number is not a secret, and has to be the same in every version.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{}-{:08x}", &name[..SERIAL_CAP - 9], hash & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_dockers_volumes() {
        let longest = "x".repeat(NAME_CAP);
        for good in ["data", "a", "my_data", "Pg-15.x", &longest] {
            assert_eq!(name_fault(good), None, "{good}");
        }
        let too_long = "x".repeat(NAME_CAP + 1);
        for bad in ["", "-a", ".a", "..", "a/b", "a,b", "ä", "a b", &too_long] {
            assert!(name_fault(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_place_in_the_guest_is_absolute_and_hides_nothing_of_the_agent() {
        for good in ["/data", "/var/lib/x/", "/run/redis", "/tmp/x", "/devices"] {
            assert_eq!(mount_fault(good), None, "{good}");
        }
        for bad in
            ["", "data", "/", "//", "/a//b", "/a/../b", "/proc/x", "/dev", "/run", "/run/pepita", "/a\nb"]
        {
            assert!(mount_fault(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_units_and_read_back() {
        let sizes = [("512M", 512), ("1G", 1024), ("10GiB", 10240), ("2 TiB", 2 << 20), ("1025MiB", 1025)];
        for (text, mb) in sizes {
            assert_eq!(size_mb(text), Ok(mb), "{text}");
            assert_eq!(size_mb(&size_text(mb)), Ok(mb));
        }
        for bad in ["", "1", "G", "1KB", "1GB", "-1G", "1.5G", "1M", "99T", "99999999999999999999G"] {
            assert!(size_mb(bad).is_err(), "{bad}");
        }
    }

    /// The number is how a guest finds its disk: it never changes.
    #[test]
    fn serial_numbers_fit_and_differ() {
        assert_eq!(serial("data"), "data");
        assert_eq!(serial("exactly-20-bytes-abc"), "exactly-20-bytes-abc");
        let long = serial("postgresql-data-of-production");
        assert_eq!(long, "postgresql--866b0f10");
        assert_ne!(long, serial("postgresql-data-of-testing-01"));
    }
}
