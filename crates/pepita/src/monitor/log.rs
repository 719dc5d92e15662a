//! The console's log: rotating files that never grow past their cap. What is thrown away is counted.

use crate::rundir::layout;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A file is turned over at this size.
pub const FILE_CAP: u64 = 10 << 20;

/// Files at most, the current one too.
pub const FILES: usize = 5;

/// Bytes a second that are written; a flood beyond is dropped, so that it costs the host neither disk nor time.
const RATE: f64 = 16.0 * 1024.0 * 1024.0;

/// What may come at once after a quiet time.
const BURST: f64 = 4.0 * RATE;

/// A daemon may print its secrets.
const MODE: u32 = 0o600;

/// Lines of the index, after which its older half goes.
const INDEX_CAP: usize = 4096;

/// The log of one VM.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    file: File,
    size: u64,
    /// Bytes that were in files that are gone.
    base: u64,
    /// Bytes that no longer are in the log, or never were.
    dropped: u64,
    /// Of those, the ones not told about yet.
    untold: u64,
    allowance: f64,
    filled: Instant,
    index: Vec<(u64, u64)>,
}

/// The path of a file of the log: 0 is the current one, higher numbers are older.
pub fn path(dir: &Path, age: usize) -> PathBuf {
    match age {
        0 => dir.join(layout::CONSOLE_LOG),
        age => dir.join(format!("{}.{age}", layout::CONSOLE_LOG)),
    }
}

impl Log {
    /// Opens the log in a run directory, and goes on with what is there. `base` and `dropped` are those of the former
    /// monitor.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn open(dir: &Path, base: u64, dropped: u64, now: Instant) -> io::Result<Self> {
        let file = File::options().create(true).append(true).mode(MODE).open(path(dir, 0))?;
        let size = file.metadata()?.len();
        Ok(Self {
            dir: dir.to_owned(),
            file,
            size,
            base,
            dropped,
            untold: 0,
            allowance: BURST,
            filled: now,
            index: read_index(dir),
        })
    }

    /// Bytes that no longer are in the log, or never were.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Where in all that was written the oldest file begins.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Writes, as far as the rate allows. A disk that is full costs output, not the VM.
    pub fn write(&mut self, now: Instant, unix_ms: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let seconds = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.allowance = (self.allowance + seconds * RATE).min(BURST);
        let length = bytes.len() as f64;
        if length > self.allowance {
            return self.drop_bytes(bytes.len() as u64);
        }
        self.allowance -= length;
        if self.untold > 0 {
            let marker = format!("\n[pepita: {} bytes of output dropped here]\n", self.untold);
            self.untold = 0;
            self.append(marker.as_bytes());
        }
        self.note_time(unix_ms);
        self.append(bytes);
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.size >= FILE_CAP {
            self.turn_over();
        }
        let before = self.size;
        self.size += bytes.len() as u64;
        if self.file.write_all(bytes).is_err() {
            // Some of it may be there.
            self.size = self.file.metadata().map_or(before, |meta| meta.len());
            self.drop_bytes(bytes.len() as u64 - self.size.saturating_sub(before));
        }
    }

    fn drop_bytes(&mut self, bytes: u64) {
        self.dropped += bytes;
        self.untold += bytes;
    }

    /// A failure on the way leaves the current file in use, over its cap: better than losing output.
    fn turn_over(&mut self) {
        let oldest = path(&self.dir, FILES - 1);
        let gone = oldest.metadata().map_or(0, |meta| meta.len());
        if std::fs::remove_file(&oldest).is_ok() {
            self.base += gone;
            self.dropped += gone;
        }
        for age in (0..FILES - 1).rev() {
            let _ = std::fs::rename(path(&self.dir, age), path(&self.dir, age + 1));
        }
        if let Ok(file) = File::options().create(true).append(true).mode(MODE).open(path(&self.dir, 0)) {
            self.size = file.metadata().map_or(0, |meta| meta.len());
            self.file = file;
        }
    }

    /// Remembers where in the log this moment stands, once a second at most.
    fn note_time(&mut self, unix_ms: u64) {
        if self.index.last().is_some_and(|(at, _)| unix_ms < at.saturating_add(1000)) {
            return;
        }
        let older: u64 = (1..FILES).filter_map(|age| Some(path(&self.dir, age).metadata().ok()?.len())).sum();
        self.index.push((unix_ms, self.base + older + self.size));
        let path = self.dir.join(layout::CONSOLE_INDEX);
        // Without an index `--since` shows everything.
        if self.index.len() > INDEX_CAP {
            self.index.drain(..INDEX_CAP / 2);
            let text: String = self.index.iter().map(|(at, offset)| format!("{at} {offset}\n")).collect();
            let _ = std::fs::write(&path, text);
        } else if let Ok(mut file) = File::options().create(true).append(true).mode(MODE).open(&path)
            && let Some((at, offset)) = self.index.last()
        {
            let _ = writeln!(file, "{at} {offset}");
        }
    }
}

/// Pairs of a time and the place in all that was written where the log stood then.
pub fn read_index(dir: &Path) -> Vec<(u64, u64)> {
    parse_index(&std::fs::read_to_string(dir.join(layout::CONSOLE_INDEX)).unwrap_or_default())
}

/// The same, of the file's text. Lines that are no pair are nobody's.
pub fn parse_index(text: &str) -> Vec<(u64, u64)> {
    let pair = |line: &str| {
        let (at, offset) = line.split_once(' ')?;
        Some((at.parse().ok()?, offset.parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
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
        // Markers are ours, not the guest's.
        let markers = kept + log.dropped() - written;
        assert!(log.dropped() > 0 && markers < 2000, "{markers}");
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
        assert_eq!(read_index(dir.path()).len(), 8);
        assert_eq!(read_index(dir.path())[3], (3000, 15 << 20));
    }
}
