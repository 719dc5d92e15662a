//! How much memory a guest needs at least: less, and it ends before it can say why. The bytes of a kernel may come from
//! any program, so every number is checked.

use super::build::{Kind, recognise};
use super::kernel::must_be_file;
use crate::vm_config::Root;
use std::fs::File;
use std::io::Read;
use std::path::Path;

const MIB: u64 = 1 << 20;

/// What a kernel and the agent need beside the kernel's image and the initramfs, in bytes. (Measured with Debian's cloud
/// kernel 6.1: 18 MiB are too little, 26 MiB are enough.)
const BASE: u64 = 16 * MIB;

/// Returns the memory in MiB below which a guest cannot boot; `None` when a file cannot be read or is not known.
pub(crate) fn needed_mb(kernel: &Path, root: &Root) -> Option<u64> {
    // Opening a pipe would wait for its writer.
    must_be_file("kernel", kernel).ok()?;
    let mut head = Vec::new();
    File::open(kernel).ok()?.take(0x1000).read_to_end(&mut head).ok()?;
    let initramfs = match root {
        Root::Initramfs(image) => image.metadata().ok()?.len(),
        Root::Disk { initrd: Some(initrd), .. } | Root::Shared { initrd, .. } => {
            initrd.metadata().ok()?.len()
        }
        Root::Disk { initrd: None, .. } | Root::Host(_) => 0,
    };
    // While the kernel unpacks an archive, its files are in memory beside it. A compressed archive needs still more.
    let needed = kernel_end(&head)?.checked_add(initramfs.checked_mul(2)?)?.checked_add(BASE)?;
    Some(needed.div_ceil(MIB))
}

/// Returns the memory in MiB below which a guest cannot boot a kernel and a root file system, as a configuration names
/// them; `None` when that is not known. The initrd of a disk is left out: it is made later.
pub fn needed_by_files(kernel: &Path, rootfs: &Path) -> Option<u64> {
    let (image, kind) = recognise(rootfs).ok()?;
    let root = match kind {
        Kind::Initramfs => Root::Initramfs(image),
        Kind::Disk => Root::Disk { image, initrd: None },
    };
    needed_mb(kernel, &root)
}

/// Returns the address at which the memory of a kernel's image ends, from the beginning of its file: from the segments
/// of an ELF file, or from the header of a bzImage.
fn kernel_end(head: &[u8]) -> Option<u64> {
    let number = |at: usize, bytes: usize| {
        let field = head.get(at..at.checked_add(bytes)?)?;
        Some(field.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
    };
    // Nonsense in a header is not taken for a size: a kernel is smaller than 1 GiB.
    let plausible = |end: u64| (end < 1 << 30).then_some(end);
    if head.starts_with(b"\x7fELF\x02\x01") {
        let (table, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
        let ends = (0..count).filter_map(|n| {
            let at = usize::try_from(table.checked_add(n * size)?).ok()?;
            // A segment to load (PT_LOAD): its physical address, and its size in memory.
            (number(at, 4)? == 1).then_some(())?;
            number(at.checked_add(0x18)?, 8)?.checked_add(number(at.checked_add(0x28)?, 8)?)
        });
        return ends.max().and_then(plausible);
    }
    if head.get(0x202..0x206) == Some(b"HdrS") && number(0x206, 2)? >= 0x020a {
        // Documentation/arch/x86/boot.rst: the preferred address, and the memory from there that the kernel uses.
        return number(0x258, 8)?.checked_add(number(0x260, 4)?).and_then(plausible);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn elf() -> Vec<u8> {
        let mut head = vec![0; 0x100];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (head[0x20], head[0x36], head[0x38]) = (0x40, 56, 2);
        // A segment to load at 16 MiB with 24 MiB, and a note with a larger address.
        (head[0x40], head[0x40 + 0x1b], head[0x40 + 0x2b]) = (1, 1, 1);
        head[0x40 + 0x2a] = 0x80;
        (head[0x40 + 56], head[0x40 + 56 + 0x1b]) = (4, 9);
        head
    }

    #[test]
    fn the_memory_is_that_of_the_kernel_twice_the_archive_and_a_base() {
        let dir = tempfile::tempdir().expect("a directory");
        let (kernel, image) = (dir.path().join("k"), dir.path().join("r"));
        std::fs::write(&kernel, elf()).expect("written");
        std::fs::write(&image, vec![0; 3 << 20]).expect("written");
        let needed = |root: Root| needed_mb(&kernel, &root);
        assert_eq!(needed(Root::Initramfs(image.clone())), Some(16 + 24 + 6 + 16));
        assert_eq!(needed(Root::Disk { image: image.clone(), initrd: None }), Some(16 + 24 + 16));
        std::fs::write(&kernel, "no kernel").expect("written");
        assert_eq!(needed_mb(&kernel, &Root::Initramfs(image)), None);
    }

    #[test]
    fn a_compressed_kernel_tells_its_memory_in_its_header() {
        let mut head = vec![0; 0x400];
        head[0x202..0x206].copy_from_slice(b"HdrS");
        (head[0x206], head[0x207]) = (0x0f, 0x02);
        (head[0x25b], head[0x263]) = (1, 2);
        assert_eq!(kernel_end(&head), Some(48 * MIB));
        head[0x263] = 0xff;
        assert_eq!(kernel_end(&head), None, "this is no size of a kernel");
    }

    proptest! {
        #[test]
        fn no_file_breaks_it(mut bytes in proptest::collection::vec(any::<u8>(), 0..1200), kind in 0..2) {
            let magic: &[u8] = [b"\x7fELF\x02\x01".as_slice(), b""][kind as usize];
            if bytes.len() > 0x206 {
                bytes[..magic.len()].copy_from_slice(magic);
                bytes[0x202..0x206].copy_from_slice(b"HdrS");
            }
            kernel_end(&bytes);
        }
    }
}
