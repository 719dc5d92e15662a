//! Looks at the agent in an initramfs: the program that the kernel starts as `/init`.

use pepita_wire::protocol::TOKEN_PORT_MARK;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The length of the header of an entry (newc).
const HEADER: usize = 110;

/// The maximum number of entries that are looked at.
const ENTRIES_CAP: usize = 100_000;

/// The most bytes that may follow the last entry.
const PADDING_CAP: u64 = 1 << 20;

/// The longest program that is read, in bytes.
const PROGRAM_CAP: u64 = 64 << 20;

/// Returns whether the agent in an archive takes its boot token from a port. An archive that is compressed, or that
/// cannot be read to its end, counts as one with an older agent.
pub(crate) fn takes_its_token(archive: &Path) -> bool {
    let found = File::open(archive).ok().and_then(|file| program(&file));
    let mark = TOKEN_PORT_MARK.as_bytes();
    found.is_some_and(|program| program.windows(mark.len()).any(|bytes| bytes == mark))
}

/// Returns the contents of `init`. Of several entries with this name the last one counts, as for the kernel.
fn program(file: &File) -> Option<Vec<u8>> {
    let length = file.metadata().ok()?.len();
    let (mut at, mut found) = (0, None);
    for _ in 0..ENTRIES_CAP {
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, at).ok()?;
        let field = |number: usize| {
            let from = 6 + 8 * number;
            u64::from_str_radix(std::str::from_utf8(&header[from..from + 8]).ok()?, 16).ok()
        };
        if !header.starts_with(b"07070") {
            return None;
        }
        let (mode, size, name_length) = (field(1)?, field(6)?, field(11)?);
        if name_length > 4096 {
            return None;
        }
        let mut name = vec![0; usize::try_from(name_length).ok()?];
        file.read_exact_at(&mut name, at + HEADER as u64).ok()?;
        let name = name.strip_suffix(b"\0")?;
        let contents = (at + HEADER as u64 + name_length).next_multiple_of(4);
        let next = (contents + size).next_multiple_of(4);
        if name == b"TRAILER!!!" {
            // A second archive behind the first one could hold another init.
            let (at, size) = found.filter(|_| is_end(file, next, length))?;
            let mut program = vec![0; usize::try_from(size).ok()?];
            file.read_exact_at(&mut program, at).ok()?;
            return Some(program);
        }
        if matches!(name.strip_prefix(b"./").unwrap_or(name), b"init" | b"/init") {
            // Only a file that is there whole is looked at, and no link.
            let is_file = mode & 0o170_000 == 0o100_000 && size > 0 && size <= PROGRAM_CAP;
            found = is_file.then_some((contents, size));
        }
        at = next;
    }
    None
}

/// Returns whether an archive ends at `at`: only zeros follow.
fn is_end(file: &File, at: u64, length: u64) -> bool {
    let left = length.saturating_sub(at);
    let mut rest = vec![1; usize::try_from(left.min(PADDING_CAP)).unwrap_or(0)];
    left <= PADDING_CAP && file.read_exact_at(&mut rest, at).is_ok() && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::cpio::Archive;
    use crate::image::root::Root;

    fn takes(bytes: &[u8]) -> bool {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bytes).expect("written");
        takes_its_token(file.path())
    }

    /// Returns an archive with these files, of which several may have one name.
    fn archive(entries: &[(&str, &str)]) -> Vec<u8> {
        let trailer = Archive::new().finish();
        let mut bytes = Vec::new();
        for (path, contents) in entries {
            let mut one = Archive::new();
            one.file(path, 0o755, contents.as_bytes()).expect("room");
            let one = one.finish();
            bytes.extend_from_slice(&one[..one.len() - trailer.len()]);
        }
        [bytes, trailer].concat()
    }

    #[test]
    fn only_the_init_that_the_kernel_starts_counts() {
        let (new, old) = (format!("\x7fELF..{TOKEN_PORT_MARK}.."), "\x7fELF....");
        assert!(takes(&archive(&[("init", &new), ("etc/x", "y")])));
        assert!(takes(&[archive(&[("init", &new)]), vec![0; 512]].concat()));
        assert!(!takes(&archive(&[("init", old), ("sbin/daemonctl", &new)])));
        assert!(!takes(&archive(&[("init", &new), ("init", old)])), "the last one counts");
        assert!(takes(&archive(&[("init", old), ("init", &new)])));
        let behind = [archive(&[("init", &new)]), archive(&[("init", old)])].concat();
        assert!(!takes(&behind), "another archive follows");
        let mut cut = archive(&[("init", &new)]);
        cut.truncate(cut.len() - 200);
        assert!(!takes(&cut) && !takes(b"") && !takes(b"\x1f\x8b compressed"));
    }

    proptest::proptest! {
        #[test]
        fn no_file_breaks_it(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
            takes(&bytes);
            takes(&[b"070701".as_slice(), &bytes].concat());
        }
    }
}
