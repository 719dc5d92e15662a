//! Opens the reader of archives to the fuzz targets.

use crate::entry::{BLOCK, Kind, read};
use std::io::{self, Read};

/// The bytes that the headers of one entry may have.
const HEADERS: usize = (1 << 20) + 2 * BLOCK;

/// A sender that says the same again and again, and never ends.
struct Endless<'a> {
    said: &'a [u8],
    read: usize,
}

impl Read for Endless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for byte in &mut *buffer {
            *byte = self.said[self.read % self.said.len()];
            self.read += 1;
        }
        Ok(buffer.len())
    }
}

/// Reads the headers of an archive, as if no file had any content.
///
/// # Panics
/// When what was read is not read again as it is written, or when the headers of an entry have no end.
pub fn entries(archive: &[u8]) {
    let mut rest = archive;
    while let Ok(Some(entry)) = read(&mut rest) {
        assert!(entry.path.len() <= 4096 && entry.link.len() <= 4096 && entry.mode <= 0o7777);
        let mut written = Vec::new();
        if entry.kind != Kind::Other {
            entry.write(&mut written).expect("memory takes everything");
            let again = read(&mut &written[..]).expect("an archive of ours");
            // A path that ends in a slash is a directory's in some formats.
            assert!(again.as_ref() == Some(&entry) || entry.path.ends_with(b"/"), "{entry:?} {again:?}");
        }
    }
    if !archive.is_empty() {
        let mut sender = Endless { said: archive, read: 0 };
        for _ in 0..3 {
            let before = sender.read;
            let entry = read(&mut sender);
            assert!(sender.read - before <= HEADERS, "{} bytes of headers", sender.read - before);
            if !matches!(entry, Ok(Some(_))) {
                break;
            }
        }
    }
}
