//! The files of a VM's console log: where they lie, and which moment stands where.
//!
//! The monitor writes `console.log` and turns it over when it is full: the number at the end of a name is the file's age.
//! The index has a line for each second in which the guest wrote: a time, and how much had been written by then.

use crate::rundir::layout;
use std::path::{Path, PathBuf};

/// The size at which a file is turned over, in bytes.
pub const FILE_CAP: u64 = 10 << 20;

/// The most files, the current one included.
pub const FILES: usize = 5;

/// A line of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The moment, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The bytes that had been written until then, those of removed files included.
    pub offset: u64,
}

impl Mark {
    /// Reads a line of the index; `None` when it is none.
    pub fn parse(line: &str) -> Option<Self> {
        let (at_ms, offset) = line.split_once(' ')?;
        Some(Self { at_ms: at_ms.parse().ok()?, offset: offset.parse().ok()? })
    }

    /// Returns the line of the index, newline included.
    pub fn line(self) -> String {
        format!("{} {}\n", self.at_ms, self.offset)
    }
}

/// Returns the path of a file of the log. The current one has age 0.
pub fn path(dir: &Path, age: usize) -> PathBuf {
    match age {
        0 => dir.join(layout::CONSOLE_LOG),
        age => dir.join(format!("{}.{age}", layout::CONSOLE_LOG)),
    }
}

/// Returns the index of a run directory, oldest mark first. A log without an index has no marks.
pub fn read_index(dir: &Path) -> Vec<Mark> {
    parse_index(&std::fs::read_to_string(dir.join(layout::CONSOLE_INDEX)).unwrap_or_default())
}

/// Returns the marks in the text of an index. Other lines are left out.
pub fn parse_index(text: &str) -> Vec<Mark> {
    text.lines().filter_map(Mark::parse).collect()
}
