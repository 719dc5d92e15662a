//! The files of a VM's console log: their paths, and the index that maps moments to offsets.
//!
//! The monitor writes `console.log` and rotates it when it is full; the number at the end of a file's name is its age
//! in rotations. The index has a line for each tenth of a second in which the guest wrote: a time, and the number of bytes
//! that had been written by then. When there are too many, those of older output are thinned out.

use crate::rundir::{files, layout};
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
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

/// What stands in place of a time in the line of an index that says where the oldest file begins.
const BASE: &str = "base";

/// The index of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    /// The offset at which the oldest file begins; `None` while no file was removed, and with a monitor of an earlier
    /// version, which tells it in its state only.
    pub base: Option<u64>,
    /// The marks, the oldest first.
    pub marks: Vec<Mark>,
}

impl Index {
    /// Parses the text of an index. Lines that are unknown are skipped.
    pub fn parse(text: &str) -> Self {
        let base = text.lines().filter_map(|line| line.strip_prefix(BASE)?.trim().parse().ok()).next_back();
        Self { base, marks: text.lines().filter_map(Mark::parse).collect() }
    }

    /// Returns the text of an index.
    pub fn text(&self) -> String {
        let base = self.base.map(base_line).into_iter();
        base.chain(self.marks.iter().map(|mark| mark.line())).collect()
    }

    /// Returns the time at which the output at this offset was read, as far as it is known: at this time or later, and
    /// before that of the next mark. The output of a monitor of an earlier version has no time before its first mark.
    pub fn time_at(&self, offset: u64) -> Option<u64> {
        let after = self.marks.partition_point(|mark| mark.offset <= offset);
        self.marks.get(after.checked_sub(1)?).map(|mark| mark.at_ms)
    }

    /// Returns the offset of the first output that is not older than a time; `None` when all is older.
    pub fn offset_at(&self, from_ms: u64) -> Option<u64> {
        // Times are not in order when the clock was set back.
        self.marks.iter().find(|mark| mark.at_ms >= from_ms).map(|mark| mark.offset)
    }

    /// Removes the marks of output that is gone, and thins out the others: between two of them may be 1 in `precision` of
    /// their age.
    pub fn thin_out(&mut self, now_ms: u64, precision: u64) {
        let base = self.base.unwrap_or(0);
        // The last mark of what is gone is the time of the oldest output.
        let gone = self.marks.partition_point(|mark| mark.offset <= base).saturating_sub(1);
        let marks = &self.marks[gone..];
        let mut kept: Vec<Mark> = Vec::with_capacity(marks.len());
        for (number, mark) in marks.iter().enumerate() {
            let around = kept.last().zip(marks.get(number + 1));
            let is_needed = around.is_none_or(|(before, after)| {
                let age = now_ms.saturating_sub(mark.at_ms);
                // Where the clock was set back, all marks stay.
                after.at_ms < before.at_ms || after.at_ms - before.at_ms > age / precision
            });
            if is_needed {
                kept.push(*mark);
            }
        }
        self.marks = kept;
    }
}

/// Returns the line of an index that says where the oldest file begins, newline included.
pub fn base_line(base: u64) -> String {
    format!("{BASE} {base}\n")
}

/// Returns the path of a file of the log of the VM with this run directory. The current file has the age 0.
pub fn path(dir: &Path, age: usize) -> PathBuf {
    match age {
        0 => home(dir).join(layout::CONSOLE_LOG),
        age => home(dir).join(format!("{}.{age}", layout::CONSOLE_LOG)),
    }
}

/// Returns the path of the index.
pub fn index_path(dir: &Path) -> PathBuf {
    home(dir).join(layout::CONSOLE_INDEX)
}

/// Returns the directory of the log: the run directory, or another one that a link in the run directory names.
fn home(dir: &Path) -> PathBuf {
    let elsewhere = dir.join(layout::LOGS);
    if elsewhere.symlink_metadata().is_ok() { elsewhere } else { dir.to_owned() }
}

/// Places the log of the VM with this run directory into a directory of its own in `log_dir`. The log of a former VM of
/// this name is removed from there.
///
/// # Errors
/// When the directory cannot be made, belongs to another user, or holds the log of a VM of this name in another
/// directory of run directories.
pub fn place(dir: &Path, log_dir: &Path) -> io::Result<()> {
    let own = log_dir.join(dir.file_name().unwrap_or_default());
    DirBuilder::new().recursive(true).mode(0o700).create(&own)?;
    let meta = own.symlink_metadata()?;
    if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "belongs to another user"));
    }
    let owner = own.join(OWNER);
    if let Ok(other) = std::fs::read_to_string(&owner).map(PathBuf::from)
        && other != dir
        && std::fs::read_link(other.join(layout::LOGS)).is_ok_and(|link| link == own)
    {
        let why = format!("{} holds the log of the VM in {}", own.display(), other.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
    }
    std::fs::write(&owner, dir.as_os_str().as_encoded_bytes())?;
    symlink(&own, dir.join(layout::LOGS))?;
    for file in files(dir) {
        let _ = std::fs::remove_file(file);
    }
    Ok(())
}

/// The file in a directory for logs that names the run directory of its VM.
const OWNER: &str = "run-dir";

fn files(dir: &Path) -> impl Iterator<Item = PathBuf> {
    (0..FILES).map(|age| path(dir, age)).chain([index_path(dir)])
}

/// Removes a log that is not in the run directory, with its directory.
pub fn remove_elsewhere(dir: &Path) {
    let Ok(elsewhere) = std::fs::read_link(dir.join(layout::LOGS)) else { return };
    for file in files(dir).chain([elsewhere.join(OWNER)]) {
        let _ = std::fs::remove_file(file);
    }
    // Another program may have put files of its own there; then the directory stays.
    let _ = std::fs::remove_dir(elsewhere);
}

/// Returns the bytes of the logs of all VMs in a directory of run directories.
pub fn total(run_dir: &Path) -> u64 {
    let vms = std::fs::read_dir(run_dir).into_iter().flatten().flatten();
    let vms = vms.filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
    vms.flat_map(|vm| (0..FILES).filter_map(move |age| Some(path(&vm.path(), age).metadata().ok()?.len())))
        .sum()
}

/// The room on a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The bytes that the logs of all VMs may use together: a quarter of the file system.
    pub for_logs: u64,
    /// The bytes of all files on the file system.
    pub used: u64,
}

/// Returns the room on the file system that holds the log of the VM with this run directory.
pub fn room(dir: &Path) -> Room {
    let unknown = Room { for_logs: u64::MAX, used: 0 };
    rustix::fs::statvfs(home(dir)).map_or(unknown, |fs| Room {
        for_logs: fs.f_blocks.saturating_mul(fs.f_frsize) / 4,
        used: fs.f_blocks.saturating_sub(fs.f_bfree).saturating_mul(fs.f_frsize),
    })
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

/// Returns the index of a run directory. A log without an index has no marks.
pub fn read_index(dir: &Path) -> Index {
    Index::parse(&std::fs::read_to_string(index_path(dir)).unwrap_or_default())
}

/// Returns the offset at which the oldest file of the log begins.
pub fn base(dir: &Path, index: &Index) -> u64 {
    // Without any base too much of the log counts as recent, but nothing is missing.
    index.base.or_else(|| Some(files::state(dir).ok()?.log_base)).unwrap_or(0)
}

/// Returns the number of bytes in all files of the log.
pub fn length(dir: &Path) -> u64 {
    (0..FILES).filter_map(|age| Some(path(dir, age).metadata().ok()?.len())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(at_ms: u64, offset: u64) -> Mark {
        Mark { at_ms, offset }
    }

    #[test]
    fn an_index_tells_when_output_was_read_and_where_the_output_of_a_time_begins() {
        let text = "100 0\n300 50\nbase 7\nnonsense\n200 60\nbase 40\n900 90\n";
        let index = Index::parse(text);
        assert_eq!(index.base, Some(40));
        assert_eq!(Index::parse(&index.text()), index);
        let times = [0, 49, 50, 59, 60, 89, 90, u64::MAX].map(|offset| index.time_at(offset));
        assert_eq!(times, [100, 100, 300, 300, 200, 200, 900, 900].map(Some));
        assert_eq!([0, 101, 301, 901].map(|ms| index.offset_at(ms)), [Some(0), Some(50), Some(90), None]);
        let late = Index { base: None, marks: vec![mark(5, 10)] };
        assert_eq!((late.time_at(9), late.time_at(10)), (None, Some(5)));
    }

    #[test]
    fn the_marks_of_a_month_are_few_and_precise_to_a_part_of_their_age() {
        // A mark each 10 s, thinned out as a monitor does.
        let (mut index, month) = (Index::default(), 30 * 86_400_000_u64);
        for at in (0..=month).step_by(10_000) {
            index.marks.push(mark(at, at));
            if index.marks.len() > 8192 {
                index.thin_out(at, 256);
                assert!(index.marks.len() < 6144, "{} marks", index.marks.len());
            }
        }
        for pair in index.marks.windows(2) {
            let (age, gap) = (month - pair[0].at_ms, pair[1].at_ms - pair[0].at_ms);
            assert!(gap <= 10_000.max(age / 256), "{gap} ms at an age of {age} ms");
        }
        // The marks of output that is gone are removed, but for the one of the oldest output.
        index.base = Some(month - 25_000);
        index.thin_out(month, 256);
        assert_eq!(index.marks.first(), Some(&mark(month - 30_000, month - 30_000)));
    }

    #[test]
    fn two_vms_of_one_name_in_two_places_do_not_share_a_log() {
        let top = tempfile::tempdir().expect("a directory");
        let (here, there) = (top.path().join("r1/a"), top.path().join("r2/a"));
        for dir in [&here, &there] {
            std::fs::create_dir_all(dir).expect("made");
        }
        let logs = top.path().join("logs");
        place(&here, &logs).expect("placed");
        std::fs::write(path(&here, 0), "output").expect("written");
        let refused = place(&there, &logs).expect_err("it is in use");
        assert!(refused.to_string().contains("r1/a"), "{refused}");
        assert!(logs.join("a/console.log").exists() && total(&top.path().join("r1")) == 6);
        // A restart in the same place begins anew.
        std::fs::remove_file(here.join(layout::LOGS)).expect("removed");
        place(&here, &logs).expect("placed");
        assert!(!logs.join("a/console.log").exists());
        remove_elsewhere(&here);
        assert!(!logs.join("a").exists());
        std::fs::remove_file(here.join(layout::LOGS)).expect("removed");
        place(&there, &logs).expect("free by now");
    }
}
