//! Opens the disk of a root, and makes the layer above it that takes what the guest writes. The layer has no name, so that
//! it ends with the VM, whatever ends the VM.
//!
//! The layer is an empty image of QEMU's kind qcow2 (QEMU: `docs/interop/qcow2.txt`), which names no file below it: QEMU
//! gets both open.

use crate::error::{Result, io};
use crate::host::random;
use crate::vm_config::Root;
use rustix::fs::{Mode, OFlags, open};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The size of a cluster, the unit of an image, as a power of two.
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;

/// The bytes of the guest's disk for which an entry of the first table stands: a cluster of entries of eight bytes.
const COVERED: u64 = CLUSTER * CLUSTER / 8;

/// The disk of a root.
#[derive(Debug)]
pub(crate) struct RootDisk {
    /// The image, which is only read.
    pub(crate) image: File,
    /// The layer, unless the guest writes nothing.
    pub(crate) layer: Option<File>,
}

/// Opens the disk of a root, if the root is one.
///
/// # Errors
/// When the image cannot be opened, or there is no place for the layer.
pub(crate) fn open_root(root: &Root) -> Result<Option<RootDisk>> {
    let read = |image: &Path| File::open(image).map_err(|e| io(image, e));
    match root {
        Root::Disk { image, .. } => {
            let path = image;
            let image = read(path)?;
            let bytes = (&image).seek(SeekFrom::End(0)).map_err(|e| io(path, e))?;
            Ok(Some(RootDisk { image, layer: Some(layer(&place(), bytes)?) }))
        }
        Root::Shared { image, .. } => Ok(Some(RootDisk { image: read(image)?, layer: None })),
        Root::Initramfs(_) | Root::Host(_) => Ok(None),
    }
}

/// Returns the directory for large temporary files.
fn place() -> PathBuf {
    std::env::var_os("TMPDIR")
        .filter(|dir| !dir.is_empty())
        .map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}

/// Makes an empty layer above a disk of this size, in a directory.
fn layer(place: &Path, bytes: u64) -> Result<File> {
    let file = nameless(place).map_err(|e| io(place, e))?;
    // The first table follows the header, the table of the references and the first block of them.
    let entries = bytes.div_ceil(COVERED);
    let clusters = 3 + (entries * 8).div_ceil(CLUSTER).max(1);
    let header = header(bytes, entries);
    let block: Vec<u8> = (0..clusters).flat_map(|_| 1_u16.to_be_bytes()).collect();
    let write = || {
        (&file).write_all(&header)?;
        file.write_all_at(&(2 * CLUSTER).to_be_bytes(), CLUSTER)?;
        file.write_all_at(&block, 2 * CLUSTER)?;
        // The first table has no entries: the guest has written nothing.
        file.set_len(clusters * CLUSTER)
    };
    write().map_err(|e| io(place, e))?;
    Ok(file)
}

/// Returns the header of an image of version 3.
fn header(bytes: u64, entries: u64) -> Vec<u8> {
    let mut header = Vec::with_capacity(112);
    let mut long = |number: u64| header.extend(number.to_be_bytes());
    long(u64::from(u32::from_be_bytes(*b"QFI\xfb")) << 32 | 3);
    // No file below that is named here: its place, and its length beside the size of a cluster.
    long(0);
    long(u64::from(CLUSTER_BITS));
    long(bytes);
    // No encryption, and the first table with its place.
    long(entries);
    long(3 * CLUSTER);
    // The table of the references with its length, and no snapshots.
    long(CLUSTER);
    long(1 << 32);
    long(0);
    // No features.
    (0..3).for_each(|_| long(0));
    // Two bytes for each reference (the power of two of the bits), and the length of the header, which ends here.
    long(4 << 32 | 104);
    long(0);
    header
}

/// Makes a file without a name. A file system that makes none gives one whose name is removed at once.
fn nameless(place: &Path) -> std::io::Result<File> {
    let mode = Mode::RUSR | Mode::WUSR;
    if let Ok(file) = open(place, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode) {
        // QEMU takes no descriptor with the flag by which the file was made, so it is opened once more.
        let same = format!("/proc/self/fd/{}", file.as_raw_fd());
        return File::options().read(true).write(true).open(same);
    }
    let name = random::secret().map_err(|e| std::io::Error::other(e.message))?;
    let path = place.join(format!(".pepita-{name}"));
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_has_no_name_and_says_its_size_and_where_its_tables_are() {
        let dir = tempfile::tempdir().expect("a directory");
        for (bytes, entries, clusters) in [(0_u64, 0_u64, 4_u64), (1 << 20, 1, 4), (5 << 40, 10240, 5)] {
            let layer = layer(dir.path(), bytes).expect("made");
            assert_eq!(layer.metadata().expect("open").len(), clusters * CLUSTER);
            let long = |at| {
                let mut bytes = [0; 8];
                layer.read_exact_at(&mut bytes, at).expect("read");
                u64::from_be_bytes(bytes)
            };
            assert_eq!((long(24), long(32), long(40), long(48)), (bytes, entries, 3 * CLUSTER, CLUSTER));
            assert_eq!(long(CLUSTER), 2 * CLUSTER);
            assert_eq!(long(2 * CLUSTER), 0x0001_0001_0001_0001);
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0);
    }
}
