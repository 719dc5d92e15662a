//! Checks whether an image is complete. A guest with a truncated kernel or root fails without a message, so the
//! launcher checks the image before the start. The bytes may come from any program, so every number is checked.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// The name of an archive's last entry.
const TRAILER: &[u8] = b"TRAILER!!!\0";

/// Returns the length that the headers of a kernel's file declare, in bytes: from the segments of an ELF file, or from
/// the size of the code of a bzImage.
pub fn kernel_length(head: &[u8]) -> Option<u64> {
    let number = |at: usize, bytes: usize| {
        let field = head.get(at..at.checked_add(bytes)?)?;
        Some(field.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
    };
    if head.starts_with(b"\x7fELF\x02\x01") {
        let (table, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
        let ends = (0..count).filter_map(|n| {
            let at = usize::try_from(table.checked_add(n * size)?).ok()?;
            number(at.checked_add(8)?, 8)?.checked_add(number(at.checked_add(0x20)?, 8)?)
        });
        return ends.max();
    }
    if head.get(0x202..0x206) == Some(b"HdrS") {
        // Documentation/arch/x86/boot.rst: 0 means 4, and the code is counted in units of 16 bytes.
        let sectors = match number(0x1f1, 1)? {
            0 => 4,
            sectors => sectors,
        };
        return Some((sectors + 1) * 512 + number(0x1f4, 4)? * 16);
    }
    None
}

/// Returns the length that the superblock of an ext4 image declares, in bytes.
pub fn ext4_length(head: &[u8]) -> Option<u64> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
    let shift = 10_u32.checked_add(u32_at(0x418)?).filter(|shift| *shift <= 16)?;
    Some(u64::from(u32_at(0x404)?) << shift)
}

/// Returns whether an uncompressed cpio archive (newc) has its last entry.
pub fn has_trailer(archive: &File) -> bool {
    let mut at = 0_u64;
    loop {
        let mut header = [0; 110];
        if archive.read_exact_at(&mut header, at).is_err() || !header.starts_with(b"07070") {
            return false;
        }
        let hex = |from: usize| {
            std::str::from_utf8(&header[from..from + 8])
                .ok()
                .and_then(|text| u64::from_str_radix(text, 16).ok())
        };
        // The fields c_filesize and c_namesize; names and contents are padded to four bytes.
        let (Some(file), Some(name)) = (hex(54), hex(94)) else { return false };
        let mut text = [0; TRAILER.len()];
        if name == TRAILER.len() as u64
            && archive.read_exact_at(&mut text, at + 110).is_ok()
            && text == *TRAILER
        {
            return true;
        }
        at = (at + 110 + name).next_multiple_of(4) + file.next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::root::Root;
    use proptest::prelude::*;
    use std::io::Write;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("written");
        file
    }

    #[test]
    fn an_archive_that_was_cut_anywhere_is_not_whole() {
        let mut archive = crate::image::cpio::Archive::new();
        archive.file("dev/init", 0o755, &[7; 333]).expect("room");
        let bytes = archive.finish();
        assert!(has_trailer(&file(&bytes)));
        let end = bytes.windows(TRAILER.len()).position(|w| w == TRAILER).expect("a trailer") + TRAILER.len();
        for cut in 0..end {
            assert!(!has_trailer(&file(&bytes[..cut])), "cut at {cut}");
        }
    }

    #[test]
    fn images_say_how_long_they_are() {
        let mut kernel = vec![0; 0x400];
        kernel[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (kernel[0x20], kernel[0x36], kernel[0x38]) = (0x40, 56, 2);
        (kernel[0x48], kernel[0x60]) = (0x10, 0x20);
        (kernel[0x48 + 56], kernel[0x61 + 56]) = (0x10, 0x30);
        assert_eq!(kernel_length(&kernel), Some(0x3010));
        let mut kernel = vec![0; 0x400];
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        (kernel[0x1f1], kernel[0x1f5]) = (1, 1);
        assert_eq!(kernel_length(&kernel), Some(1024 + 0x1000));
        let mut disk = vec![0; 0x43a];
        (disk[0x405], disk[0x418]) = (1, 2);
        assert_eq!(ext4_length(&disk), Some(256 * 4096));
    }

    proptest! {
        #[test]
        fn no_file_breaks_it(mut bytes in proptest::collection::vec(any::<u8>(), 0..1200), kind in 0..3) {
            let magic: &[u8] = [b"070701".as_slice(), b"\x7fELF\x02\x01", b""][kind as usize];
            if bytes.len() > 0x206 {
                bytes[..magic.len()].copy_from_slice(magic);
                bytes[0x202..0x206].copy_from_slice(b"HdrS");
            }
            kernel_length(&bytes);
            ext4_length(&bytes);
            has_trailer(&file(&bytes));
        }
    }
}
