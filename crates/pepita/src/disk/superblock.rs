//! Reads the superblock of an ext4 file system. The disk belongs to a guest, so every value is a claim.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// The place of the superblock, in bytes.
const AT: u64 = 1024;

/// The number of bytes of it that are read.
pub(crate) const LENGTH: usize = 1024;

/// `s_state`: the file system was unmounted, and no errors were found.
const VALID: u16 = 1;
const ERRORS: u16 = 2;

/// `s_feature_incompat`: the journal has to be replayed; block numbers have 64 bits.
const RECOVER: u32 = 0x4;
const WIDE: u32 = 0x80;

/// What a superblock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// The length of the file system, in bytes.
    pub(crate) bytes: u64,
    /// Whether the file system was unmounted, so that it needs no check.
    pub(crate) is_clean: bool,
}

impl Superblock {
    /// Reads the superblock of a disk. Returns `None` when there is none.
    pub(crate) fn read(disk: &File) -> std::io::Result<Option<Self>> {
        let mut block = [0; LENGTH];
        match disk.read_exact_at(&mut block, AT) {
            Ok(()) => Ok(Self::parse(&block)),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(crate) fn parse(block: &[u8; LENGTH]) -> Option<Self> {
        let half = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
        let word = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
        if half(0x38) != 0xef53 {
            return None;
        }
        let (state, incompat) = (half(0x3a), word(0x60));
        let high = if incompat & WIDE == 0 { 0 } else { word(0x150) };
        let blocks = u64::from(high) << 32 | u64::from(word(0x4));
        let block_size = 1024_u64.checked_shl(word(0x18)).filter(|size| *size <= 64 * 1024)?;
        let is_clean = state & VALID != 0 && state & ERRORS == 0 && incompat & RECOVER == 0;
        Some(Self { bytes: blocks.checked_mul(block_size)?, is_clean })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(state: u16, incompat: u32) -> [u8; LENGTH] {
        let mut block = [0; LENGTH];
        block[0x38..0x3a].copy_from_slice(&0xef53_u16.to_le_bytes());
        block[0x3a..0x3c].copy_from_slice(&state.to_le_bytes());
        block[0x4..0x8].copy_from_slice(&100_u32.to_le_bytes());
        block[0x18..0x1c].copy_from_slice(&2_u32.to_le_bytes());
        block[0x60..0x64].copy_from_slice(&incompat.to_le_bytes());
        block[0x150..0x154].copy_from_slice(&1_u32.to_le_bytes());
        block
    }

    #[test]
    fn only_what_was_unmounted_without_errors_is_clean() {
        let is_clean = |state, incompat| Superblock::parse(&block(state, incompat)).expect("ext4").is_clean;
        assert!(is_clean(1, 0x40));
        for (state, incompat) in [(0, 0x40), (3, 0x40), (1, 0x44)] {
            assert!(!is_clean(state, incompat), "{state} {incompat:#x}");
        }
    }

    #[test]
    fn the_length_is_in_blocks_of_32_or_64_bits() {
        let bytes = |incompat| Superblock::parse(&block(1, incompat)).expect("ext4").bytes;
        assert_eq!((bytes(0), bytes(WIDE)), (100 * 4096, (100 + (1 << 32)) * 4096));
        assert_eq!(Superblock::parse(&[0; LENGTH]), None);
    }

    proptest! {
        #[test]
        fn no_block_breaks_it(mut bytes in proptest::collection::vec(any::<u8>(), LENGTH..=LENGTH), magic: bool) {
            if magic {
                bytes[0x38..0x3a].copy_from_slice(&0xef53_u16.to_le_bytes());
            }
            let block: [u8; LENGTH] = bytes.try_into().expect("the length");
            let _ = Superblock::parse(&block);
        }
    }
}
