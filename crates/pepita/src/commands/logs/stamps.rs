//! The beginning of each line of `logs --timestamps`: the time at which the monitor read the beginning of the line, and the
//! number of the incarnation.

use crate::host::clock::to_text_ms;
use crate::rundir::console_log::{Index, index_path, read_index};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What stands in place of a time that is not known: of output that a monitor of an earlier version has written.
const UNKNOWN: &str = "-";

/// The times of an output, which is passed on from an offset on.
#[derive(Debug)]
pub(crate) struct Stamps {
    incarnation: u64,
    offset: u64,
    index: Index,
    /// The index on the disk, which grows while the incarnation runs, as it was when it was read.
    source: Option<(PathBuf, Version)>,
}

/// What differs between two versions of a file: inode and length.
type Version = Option<(u64, u64)>;

impl Stamps {
    /// Returns the times of the log in this run directory, which is passed on from its beginning.
    pub(crate) fn of_log(dir: &Path, incarnation: u64, base: u64) -> Self {
        let (version, index) = (version(dir), read_index(dir));
        Self { incarnation, offset: base, index, source: Some((dir.to_owned(), version)) }
    }

    /// Returns the times of an output that is complete.
    pub(crate) fn of(index: Index, incarnation: u64, offset: u64) -> Self {
        Self { incarnation, offset, index, source: None }
    }

    /// Notes that a part of the output is not passed on.
    pub(super) fn skip(&mut self, bytes: u64) {
        self.offset += bytes;
    }

    /// Notes that the run directory is another incarnation's from now on: its index has the times of other output.
    pub(super) fn freeze(&mut self) {
        self.source = None;
    }

    /// Returns output with a stamp at the beginning of each line. `is_begun` tells whether a line is begun, before and
    /// afterwards.
    pub(crate) fn stamp(&mut self, output: &[u8], is_begun: &mut bool) -> Vec<u8> {
        if let Some((dir, known)) = &mut self.source {
            // The monitor marks a time before it writes the output of that time.
            let now = version(dir);
            if now != *known {
                (*known, self.index) = (now, read_index(dir));
            }
        }
        let mut stamped = Vec::with_capacity(output.len() * 2);
        for line in output.split_inclusive(|byte| *byte == b'\n') {
            if !*is_begun {
                stamped.extend(stamp(self.index.time_at(self.offset), self.incarnation).bytes());
            }
            stamped.extend_from_slice(line);
            self.offset += line.len() as u64;
            *is_begun = line.last() != Some(&b'\n');
        }
        stamped
    }
}

/// Returns what stands before a line: `2026-11-27T07:39:06.123Z #3 `.
pub(super) fn stamp(at_ms: Option<u64>, incarnation: u64) -> String {
    let time = at_ms.map_or_else(|| UNKNOWN.to_owned(), to_text_ms);
    format!("{time} #{incarnation} ")
}

fn version(dir: &Path) -> Version {
    index_path(dir).metadata().ok().map(|meta| (meta.ino(), meta.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_the_time_of_its_beginning_also_when_it_comes_in_pieces() {
        let index = Index::parse("1000 10\n2000 16\n");
        let (mut stamps, mut is_begun) = (Stamps::of(index, 3, 4), false);
        let mut text = |output: &str| {
            let stamped = stamps.stamp(output.as_bytes(), &mut is_begun);
            (String::from_utf8(stamped).expect("text"), is_begun)
        };
        assert_eq!(text("old\nhal"), ("- #3 old\n- #3 hal".into(), true));
        assert_eq!(text("f\n"), ("f\n".into(), false));
        assert_eq!(
            text("a\n\nb"),
            (
                "1970-01-01T00:00:01.000Z #3 a\n1970-01-01T00:00:01.000Z #3 \n1970-01-01T00:00:02.000Z #3 b"
                    .into(),
                true
            )
        );
        assert_eq!(text(""), (String::new(), true));
    }

    #[test]
    fn an_index_that_grows_is_read_again_until_it_is_another_incarnations() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = index_path(dir.path());
        std::fs::write(&path, "1000 0\n").expect("written");
        let mut stamps = Stamps::of_log(dir.path(), 1, 0);
        let line = |stamps: &mut Stamps| String::from_utf8(stamps.stamp(b"a\n", &mut false)).expect("text");
        assert!(line(&mut stamps).starts_with("1970-01-01T00:00:01.000Z #1"));
        std::fs::write(&path, "1000 0\n2000 2\n").expect("written");
        assert!(line(&mut stamps).starts_with("1970-01-01T00:00:02.000Z #1"));
        stamps.freeze();
        std::fs::write(&path, "9000 0\n").expect("written");
        assert!(line(&mut stamps).starts_with("1970-01-01T00:00:02.000Z #1"));
    }
}
