//! What a guest uses of itself, as its agent tells it: the answer to `usage`.

use serde::{Deserialize, Serialize};

/// The memory, the CPU time and the file systems of a guest. Each number is absent where the guest does not tell it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuestUsage {
    /// The memory of the guest, in KiB, without what its kernel keeps for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_kib: Option<u64>,
    /// The memory that programs could still get, in KiB (`MemAvailable` of proc_meminfo(5)).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_kib: Option<u64>,
    /// The time for which the virtual CPUs were busy since the boot, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// The memory that the daemon and its children use, in KiB, with their share of the page cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daemon_memory_kib: Option<u64>,
    /// The CPU time that the daemon and its children have used, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daemon_cpu_ms: Option<u64>,
    /// The file systems of the disks, at most as many as a VM may have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<FilesystemUsage>,
}

/// The memory that a guest can give back to the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FreeMemory {
    /// The memory that nothing in the guest uses, not even as a cache, in KiB.
    pub free_kib: u64,
}

/// The space in the file system of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FilesystemUsage {
    /// The name of the disk, as `mount` has named it.
    pub name: String,
    /// The size of the file system, in KiB.
    pub size_kib: u64,
    /// The space in use, in KiB.
    pub used_kib: u64,
    /// The space that a daemon without privileges can still use, in KiB.
    pub available_kib: u64,
}

/// The use of a disk of a VM, as host and guest see it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskUsage {
    /// The name of the disk.
    pub name: String,
    /// The directory in the guest at which it is mounted.
    pub mount: String,
    /// The size of the disk, in KiB; absent when the host cannot tell it.
    pub size_kib: Option<u64>,
    /// The space that the disk takes on the host, in KiB; absent when the host cannot tell it.
    pub host_kib: Option<u64>,
    /// The space in use in its file system, in KiB; absent when the guest does not tell it.
    pub used_kib: Option<u64>,
    /// The space in its file system that a daemon without privileges can still use, in KiB; absent when the guest does not
    /// tell it.
    pub available_kib: Option<u64>,
}

impl DiskUsage {
    /// Adds what the guest tells of the disk of this name. More than the disk holds is not believed.
    #[must_use]
    pub fn with_guest(mut self, told: Option<&GuestUsage>) -> Self {
        let disks = told.map_or(&[][..], |told| &told.disks);
        let disk = disks.iter().find(|disk| disk.name == self.name);
        let possible = |kib: u64| Some(kib).filter(|kib| self.size_kib.is_none_or(|size| *kib <= size));
        (self.used_kib, self.available_kib) =
            disk.map_or((None, None), |disk| (possible(disk.used_kib), possible(disk.available_kib)));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_tells_only_of_disks_that_it_has_and_no_more_than_they_hold() {
        let told = |name: &str, used_kib| GuestUsage {
            disks: vec![FilesystemUsage { name: name.into(), size_kib: 90, used_kib, available_kib: 50 }],
            ..GuestUsage::default()
        };
        let disk = DiskUsage { name: "data".into(), size_kib: Some(100), ..DiskUsage::default() };
        let seen = |told: Option<&GuestUsage>| {
            let with = disk.clone().with_guest(told);
            (with.used_kib, with.available_kib)
        };
        assert_eq!(seen(Some(&told("data", 40))), (Some(40), Some(50)));
        assert_eq!(seen(Some(&told("data", u64::MAX))), (None, Some(50)));
        assert_eq!(seen(Some(&told("other", 40))), (None, None));
        assert_eq!(seen(None), (None, None));
    }
}
