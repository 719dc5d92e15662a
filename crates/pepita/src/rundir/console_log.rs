//! The files of a VM's console log: their paths, and the index that maps moments to offsets.
//!
//! The monitor writes `console.log` and rotates it when it is full; the number at the end of a file's name is its age
//! in rotations. The index has a line for each second in which the guest wrote: a time, and the number of bytes that
//! had been written by then.

use crate::rundir::layout;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The size at which a file is rotated, in bytes.
pub const FILE_CAP: u64 = 10 << 20;

/// The maximum number of files, including the current file.
pub const FILES: usize = 5;

/// A line of the index: a moment and an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The time of the mark, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The number of bytes that had been written until then, including those of removed files.
    pub offset: u64,
}

impl Mark {
    /// Parses a line of the index; returns `None` for any other line.
    pub fn parse(line: &str) -> Option<Self> {
        let (at_ms, offset) = line.split_once(' ')?;
        Some(Self { at_ms: at_ms.parse().ok()?, offset: offset.parse().ok()? })
    }

    /// Returns the line of the index, newline included.
    pub fn line(self) -> String {
        format!("{} {}\n", self.at_ms, self.offset)
    }
}

/// Returns the path of a file of the log. The current file has the age 0.
pub fn path(dir: &Path, age: usize) -> PathBuf {
    match age {
        0 => dir.join(layout::CONSOLE_LOG),
        age => dir.join(format!("{}.{age}", layout::CONSOLE_LOG)),
    }
}

/// Returns the end of the log, at most `cap` bytes: of the current file and the file before it.
pub fn tail(dir: &Path, cap: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for age in 0..FILES {
        let room = cap.saturating_sub(bytes.len() as u64);
        let Ok(mut file) = File::open(path(dir, age)) else { break };
        let length = file.metadata().map_or(0, |meta| meta.len());
        let mut piece = Vec::new();
        // What cannot be read is missing from the end of the log, and the rest is shown.
        let _ = file.seek(SeekFrom::Start(length.saturating_sub(room)));
        let _ = file.take(room).read_to_end(&mut piece);
        piece.append(&mut bytes);
        bytes = piece;
        if bytes.len() as u64 >= cap {
            break;
        }
    }
    bytes
}

/// Returns the index of a run directory, oldest mark first. A log without an index has no marks.
pub fn read_index(dir: &Path) -> Vec<Mark> {
    parse_index(&std::fs::read_to_string(dir.join(layout::CONSOLE_INDEX)).unwrap_or_default())
}

/// Returns the marks in the text of an index. Lines that are no marks are skipped.
pub fn parse_index(text: &str) -> Vec<Mark> {
    text.lines().filter_map(Mark::parse).collect()
}
