//! Makes the sums of tar headers right. Else nearly every change of an archive would end at the first header.

const BLOCK: usize = 512;

/// Returns an archive in which each header of POSIX or GNU has the sum of its bytes.
pub(super) fn with_sums(archive: &[u8]) -> Vec<u8> {
    let mut archive = archive.to_vec();
    for block in archive.chunks_exact_mut(BLOCK).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    archive
}
