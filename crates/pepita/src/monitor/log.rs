//! Writes the console's log: rotating files that never grow past their cap. Dropped bytes are counted.

use crate::rundir::console_log::{
    FILE_CAP, FILES, Index, Mark, Room, base_line, index_path, length, path, read_index, room, total,
};
use crate::rundir::files::{self, Sync};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The limit on the bytes that are written in a second. A flood beyond the limit is dropped, so that it uses up neither
/// disk space nor CPU time of the host.
const RATE: f64 = 16.0 * 1024.0 * 1024.0;

/// The number of bytes that are accepted at once after a quiet time.
const BURST: f64 = 4.0 * RATE;

/// The mode of the log's files. Only the owner may read them, because a daemon may print its secrets.
const MODE: u32 = 0o600;

/// The maximum number of marks in the index. Beyond it, the marks of older output are thinned out.
const INDEX_CAP: usize = 8192;

/// The part of its age to which the time of older output stays known: 1 in this number.
const PRECISION: u64 = 256;

/// The time between two marks of the index, in milliseconds.
const MARK_INTERVAL_MS: u64 = 100;

/// The sizes that follow from what the logs of all VMs may use together, in bytes: a log on a small file system has small
/// files, and looks more often whether there is room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sizes {
    /// The size at which a file is rotated.
    file: u64,
    /// The number of bytes that are written between two looks at the file system.
    step: u64,
}

impl Sizes {
    fn of(for_logs: u64) -> Self {
        Self { file: FILE_CAP.min((for_logs / 4).max(4096)), step: (for_logs / 16).clamp(4096, 1 << 20) }
    }
}

/// The log of one VM.
#[derive(Debug)]
pub(crate) struct Log {
    dir: PathBuf,
    file: File,
    size: u64,
    sizes: Sizes,
    /// The number of bytes that were written since the last look at the file system.
    unlooked: u64,
    /// The number of bytes in removed files.
    base: u64,
    /// The number of bytes that were removed from the log or never written to it.
    dropped: u64,
    /// The number of bytes that were dropped since the last marker in the log.
    unmarked: u64,
    allowance: f64,
    filled_at: Instant,
    index: Index,
}

impl Log {
    /// Opens the log in a run directory, and continues an existing log. `base` and `dropped` are the values of the
    /// former monitor.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub(crate) fn open(dir: &Path, base: u64, dropped: u64, now: Instant) -> io::Result<Self> {
        let file = open_current(dir)?;
        let size = file.metadata()?.len();
        Ok(Self {
            dir: dir.to_owned(),
            file,
            size,
            sizes: Sizes::of(room(dir).for_logs),
            unlooked: 0,
            base,
            dropped,
            unmarked: 0,
            allowance: BURST,
            filled_at: now,
            index: read_index(dir),
        })
    }

    /// Returns the number of bytes that were removed from the log or never written to it.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Returns the offset of the oldest file in the whole output, in bytes.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Writes `bytes`, as far as the rate allows. On a full disk output is lost, but the VM is not affected.
    pub(crate) fn write(&mut self, now: Instant, unix_ms: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let seconds = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.filled_at = now;
        self.allowance = (self.allowance + seconds * RATE).min(BURST);
        let length = bytes.len() as f64;
        if length > self.allowance {
            return self.drop_bytes(bytes.len() as u64);
        }
        self.allowance -= length;
        if self.unmarked > 0 {
            let marker = format!("\n[pepita: {} bytes of output dropped here]\n", self.unmarked);
            self.unmarked = 0;
            self.append(marker.as_bytes());
        }
        self.note_time(unix_ms);
        self.append(bytes);
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.size >= self.sizes.file {
            self.turn_over();
            self.keep_within_room();
        } else if self.unlooked >= self.sizes.step {
            self.keep_within_room();
        }
        self.unlooked += bytes.len() as u64;
        let before = self.size;
        self.size += bytes.len() as u64;
        if self.file.write_all(bytes).is_err() {
            // A part of the bytes may have been written.
            self.size = self.file.metadata().map_or(before, |meta| meta.len());
            self.drop_bytes(bytes.len() as u64 - self.size.saturating_sub(before));
        }
    }

    fn drop_bytes(&mut self, bytes: u64) {
        self.dropped += bytes;
        self.unmarked += bytes;
    }

    /// Begins a new file. After a failure the current file stays in use and grows over its cap, so that no output is
    /// lost.
    fn turn_over(&mut self) {
        self.remove_oldest(FILES - 1);
        for age in (0..FILES - 1).rev() {
            let _ = std::fs::rename(path(&self.dir, age), path(&self.dir, age + 1));
        }
        if let Ok(file) = open_current(&self.dir) {
            self.size = file.metadata().map_or(0, |meta| meta.len());
            self.file = file;
        }
    }

    /// Gives up the oldest output when the logs of all VMs together use more than they may.
    fn keep_within_room(&mut self) {
        self.unlooked = 0;
        let Room { for_logs, used } = room(&self.dir);
        self.sizes = Sizes::of(for_logs);
        // The logs are not looked at while all files together use no more than the logs may.
        if used <= for_logs {
            return;
        }
        // The monitor's current directory is the run directory, beside those of the other VMs.
        let is_within = self.make_room(total(&self.dir.join("..")), for_logs);
        if !is_within && self.size >= self.sizes.step {
            // The next look removes the present file, if it has to.
            self.turn_over();
        }
    }

    /// Removes own files, the oldest first, while the logs of all VMs together use more than their cap. Returns whether they
    /// use no more than that now. The current file stays.
    fn make_room(&mut self, mut total: u64, cap: u64) -> bool {
        for age in (1..FILES).rev() {
            if total <= cap {
                return true;
            }
            total -= self.remove_oldest(age).min(total);
        }
        total <= cap
    }

    /// Removes a file, the oldest that there is. Returns its size.
    fn remove_oldest(&mut self, age: usize) -> u64 {
        let oldest = path(&self.dir, age);
        let gone = oldest.metadata().map_or(0, |meta| meta.len());
        if std::fs::remove_file(&oldest).is_err() {
            return 0;
        }
        self.base += gone;
        self.dropped += gone;
        self.index.base = Some(self.base);
        self.add_to_index(&base_line(self.base));
        gone
    }

    /// Adds a mark for this moment to the index, at most once in [`MARK_INTERVAL_MS`], unless the clock was set back.
    fn note_time(&mut self, unix_ms: u64) {
        let is_known =
            |mark: &Mark| (mark.at_ms..mark.at_ms.saturating_add(MARK_INTERVAL_MS)).contains(&unix_ms);
        if self.index.marks.last().is_some_and(is_known) {
            return;
        }
        let older = length(&self.dir).saturating_sub(self.size);
        let mark = Mark { at_ms: unix_ms, offset: self.base + older + self.size };
        self.index.marks.push(mark);
        if self.index.marks.len() <= INDEX_CAP {
            return self.add_to_index(&mark.line());
        }
        self.index.thin_out(unix_ms, PRECISION);
        if self.index.marks.len() > INDEX_CAP / 4 * 3 {
            self.index.marks.drain(..INDEX_CAP / 2);
        }
        // A failure is harmless: the index has the older marks, and more of them.
        let _ = files::replace(&index_path(&self.dir), self.index.text().as_bytes(), Sync::No);
    }

    /// Adds a line to the index. A failure is harmless: without an index `logs --since` prints the whole log.
    fn add_to_index(&self, line: &str) {
        let file = File::options().create(true).append(true).mode(MODE).open(index_path(&self.dir));
        if let Ok(mut file) = file {
            let _ = file.write_all(line.as_bytes());
        }
    }
}

fn open_current(dir: &Path) -> io::Result<File> {
    File::options().create(true).append(true).mode(MODE).open(path(dir, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn on_disk(dir: &Path) -> u64 {
        (0..FILES + 2).filter_map(|age| Some(path(dir, age).metadata().ok()?.len())).sum()
    }

    #[test]
    fn a_flood_stays_within_the_caps_and_what_is_lost_is_counted() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut now = Instant::now();
        let mut log = Log::open(dir.path(), 0, 0, now).expect("opens");
        let (block, mut written) = (vec![b'x'; 1 << 20], 0);
        for second in 0..10_u64 {
            for _ in 0..40 {
                log.write(now, second * 1000, &block);
                written += block.len() as u64;
            }
            now += Duration::from_secs(1);
        }
        let kept = on_disk(dir.path());
        assert!(kept <= (FILE_CAP + (1 << 20)) * FILES as u64, "{kept}");
        // The markers in the log are not output of the guest, and are not counted.
        let markers = kept + log.dropped() - written;
        assert!(log.dropped() > 0 && markers < 2000, "{markers}");
    }

    #[test]
    fn a_log_gives_up_its_oldest_files_when_all_logs_together_use_too_much() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = Log::open(dir.path(), 0, 0, Instant::now()).expect("opens");
        for age in 0..FILES {
            std::fs::write(path(dir.path(), age), vec![b'x'; 1000]).expect("written");
        }
        assert!(log.make_room(10_000, 10_000));
        assert_eq!(on_disk(dir.path()), 5000);
        assert!(log.make_room(10_000, 8500));
        assert_eq!((on_disk(dir.path()), log.base(), log.dropped()), (3000, 2000, 2000));
        assert_eq!(read_index(dir.path()).base, Some(2000));
        assert!(!path(dir.path(), 4).exists() && !path(dir.path(), 3).exists());
        assert!(!log.make_room(u64::MAX, 0));
        assert_eq!(on_disk(dir.path()), 1000, "the current file stays");
    }

    #[test]
    fn the_index_has_a_mark_for_each_tenth_of_a_second_and_a_bound() {
        let dir = tempfile::tempdir().expect("a directory");
        let (now, count) = (Instant::now(), 40_000_u64);
        let mut log = Log::open(dir.path(), 0, 0, now).expect("opens");
        // Each line comes 50 ms after the one before.
        for line in 0..count {
            log.write(now, line * 50, b"a line of output\n");
        }
        let index = read_index(dir.path());
        assert!(index.marks.len() <= INDEX_CAP && index == log.index, "{} marks", index.marks.len());
        for line in 0..count {
            let (at, age) = (index.time_at(line * 17).expect("a time"), (count - line) * 50);
            assert!(at <= line * 50 && line * 50 - at <= 100 + age / 256, "line {line}: {at}");
        }
        // The clock is set back.
        log.write(now, 1000, b"later\n");
        assert_eq!(read_index(dir.path()).time_at(count * 17), Some(1000));
        // The next log begins with what is on the disk.
        assert_eq!(Log::open(dir.path(), 0, 0, now).expect("opens").index, log.index);
    }

    #[test]
    fn a_small_file_system_has_small_files_and_is_looked_at_more_often() {
        assert_eq!(Sizes::of(u64::MAX), Sizes { file: FILE_CAP, step: 1 << 20 });
        assert_eq!(Sizes::of(64 << 20), Sizes { file: FILE_CAP, step: 1 << 20 });
        assert_eq!(Sizes::of(768 << 10), Sizes { file: 192 << 10, step: 48 << 10 });
        assert_eq!(Sizes::of(0), Sizes { file: 4096, step: 4096 });
    }

    #[test]
    fn an_ordinary_rate_is_kept_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut now = Instant::now();
        let mut log = Log::open(dir.path(), 0, 0, now).expect("opens");
        for second in 0..8_u64 {
            log.write(now, second * 1000, &vec![b'x'; 5 << 20]);
            now += Duration::from_secs(1);
        }
        assert_eq!((log.dropped(), on_disk(dir.path())), (0, 40 << 20));
        let index = read_index(dir.path());
        assert_eq!((index.base, index.marks.len()), (None, 8));
        assert_eq!(index.marks[3], Mark { at_ms: 3000, offset: 15 << 20 });
    }
}
