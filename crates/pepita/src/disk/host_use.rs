//! Whether this host itself uses a disk: two kernels that write one file system destroy it.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Where the kernel lists its block devices; a loop device is one whose content is a file (loop(4)).
const BLOCK_DEVICES: &str = "/sys/block";

/// Returns how this host uses a disk, in words; `None` when it does not, or does not tell.
pub(super) fn used_by_host(file: &Path) -> Option<String> {
    let meta = file.metadata().ok()?;
    if meta.file_type().is_block_device() {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        return mounted_at(&mounts, meta.rdev()).map(|place| format!("this host has mounted it at {place}"));
    }
    let devices = std::fs::read_dir(BLOCK_DEVICES).ok()?.flatten();
    let device = devices.into_iter().find(|device| is_content_of(&device.path(), &meta))?;
    Some(format!("this host has it as /dev/{}", device.file_name().to_string_lossy()))
}

/// Returns whether a file is what a loop device has for its content.
fn is_content_of(device: &Path, file: &Metadata) -> bool {
    let content = std::fs::read_to_string(device.join("loop/backing_file")).unwrap_or_default();
    let same = |meta: Metadata| (meta.dev(), meta.ino()) == (file.dev(), file.ino());
    !content.is_empty() && Path::new(content.trim_end_matches('\n')).metadata().is_ok_and(same)
}

/// Returns where the file system on the device with this number is mounted, from the text of proc_pid_mountinfo(5).
fn mounted_at(mountinfo: &str, device: u64) -> Option<String> {
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let place = |line: &str| {
        let mut fields = line.split(' ').skip(2);
        (fields.next()? == number).then(|| fields.nth(1).map(str::to_owned)).flatten()
    };
    mountinfo.lines().find_map(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_mounted_device_is_told() {
        let text = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 8:17 / /srv/data rw - ext4 /dev/sdb1 rw\n";
        assert_eq!(mounted_at(text, rustix::fs::makedev(8, 17)).as_deref(), Some("/srv/data"));
        assert_eq!(mounted_at(text, rustix::fs::makedev(8, 18)), None);
        assert_eq!(mounted_at("22 1 8:17\n8:17", rustix::fs::makedev(8, 17)), None);
    }

    #[test]
    fn a_file_that_is_no_content_of_a_device_is_free() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert_eq!(used_by_host(file.path()), None);
    }
}
