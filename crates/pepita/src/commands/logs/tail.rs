//! Finds the last lines of a log.

use crate::rundir::console_log;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The number of bytes that are looked at together.
const BLOCK: usize = 64 << 10;

/// The files of a log as one sequence of bytes.
pub(super) struct Pieces {
    /// Each file with the offset at which it begins and its length, the oldest first.
    files: Vec<(u64, u64, File)>,
}

impl Pieces {
    pub(super) fn new(files: Vec<File>) -> Self {
        let mut begin = 0;
        let with_offsets = files.into_iter().map(|file| {
            let length = file.metadata().map_or(0, |meta| meta.len());
            begin += length;
            (begin - length, length, file)
        });
        Self { files: with_offsets.collect() }
    }

    pub(super) fn length(&self) -> u64 {
        self.files.last().map_or(0, |(begin, length, _)| begin + length)
    }

    /// Returns the offset at which the last lines between two offsets begin. A log that cannot be read has no lines that
    /// could be told apart.
    pub(super) fn last_lines(&self, from: u64, to: u64, lines: u64) -> u64 {
        let read = |at: u64, buffer: &mut [u8]| self.read_at(at, buffer);
        begin_of(from.min(to), to, lines, read).unwrap_or(from)
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        for (begin, length, file) in &self.files {
            let at = at + done as u64;
            if done < buffer.len() && (*begin..begin + length).contains(&at) {
                let room =
                    usize::try_from(begin + length - at).unwrap_or(usize::MAX).min(buffer.len() - done);
                file.read_exact_at(&mut buffer[done..done + room], at - begin)?;
                done += room;
            }
        }
        if done < buffer.len() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

/// Returns the offset at which the last lines of a text begin.
pub(super) fn last_lines_of(text: &[u8], lines: u64) -> usize {
    let read = |at: u64, buffer: &mut [u8]| {
        let at = usize::try_from(at).map_err(io::Error::other)?;
        buffer.copy_from_slice(&text[at..at + buffer.len()]);
        Ok(())
    };
    let begin = begin_of(0, text.len() as u64, lines, read);
    begin.ok().and_then(|begin| usize::try_from(begin).ok()).unwrap_or(0)
}

/// Returns the offset at which the last lines between two offsets begin. A last line without an end is a line.
fn begin_of(
    from: u64,
    to: u64,
    lines: u64,
    read: impl Fn(u64, &mut [u8]) -> io::Result<()>,
) -> io::Result<u64> {
    if lines == 0 {
        return Ok(to);
    }
    let (mut buffer, mut at, mut found) = (vec![0; BLOCK], to, 0);
    while at > from {
        let length = usize::try_from(at - from).unwrap_or(usize::MAX).min(BLOCK);
        at -= length as u64;
        read(at, &mut buffer[..length])?;
        for place in (0..length).rev().filter(|place| buffer[*place] == b'\n') {
            let after = at + place as u64 + 1;
            if after == to {
                continue;
            }
            found += 1;
            if found == lines {
                return Ok(after);
            }
        }
    }
    Ok(from)
}

/// Opens the files of a log as one.
pub(super) fn open(dir: &Path) -> Pieces {
    Pieces::new(
        (0..console_log::FILES)
            .rev()
            .filter_map(|age| File::open(console_log::path(dir, age)).ok())
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_found_across_files_blocks_and_bounds() {
        let text = b"one\ntwo\n\nfour";
        for (lines, begin) in [(0, 13), (1, 9), (2, 8), (3, 4), (4, 0), (9, 0), (u64::MAX, 0)] {
            assert_eq!(last_lines_of(text, lines), begin, "{lines}");
        }
        assert_eq!((last_lines_of(b"one\n", 1), last_lines_of(b"", 1), last_lines_of(b"\n", 1)), (0, 0, 0));
        let dir = tempfile::tempdir().expect("a directory");
        let long = "x".repeat(BLOCK * 2);
        for (age, text) in [(2, format!("a\n{long}\nb")), (1, "c\nd".into()), (0, "e\nf\n".into())] {
            std::fs::write(console_log::path(dir.path(), age), text).expect("written");
        }
        let (log, b) = (open(dir.path()), BLOCK as u64 * 2 + 3);
        assert_eq!(log.length(), b + 8);
        let begins = [1, 2, 3, 4, 5, 6].map(|lines| log.last_lines(0, log.length(), lines));
        assert_eq!(begins, [b + 6, b + 3, b, 2, 0, 0]);
        assert_eq!(log.last_lines(b + 1, log.length(), 9), b + 1, "nothing older than asked for");
        assert_eq!(log.last_lines(0, b + 2, 1), b, "nothing newer than asked for");
    }
}
