//! The log of the monitor, the VMM and the back-end: `monitor.log`.
//!
//! The VMM and the back-end write into a pipe that the monitor reads. A file that they wrote themselves could grow
//! without bound, because a guest can make them write. The pipe outlives its monitor, and its writers hold its reading
//! end, too: a VMM that writes while there is no monitor waits when the pipe is full, and does not die.

use crate::rundir::layout;
use rustix::fs::{CWD, Mode, OFlags, mkfifoat, open};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The size at which the log is cut, in bytes.
pub const CAP: u64 = 1 << 20;

/// The number of bytes that stay when the log is cut: its end.
const KEPT: u64 = 64 * 1024;

/// The size below which the log is never cut, in bytes.
const NEVER_CUT: u64 = 64 * 1024;

/// The maximum number of bytes that are read in a row, so that a flood does not delay the other sources.
const READ_CAP: u64 = 1 << 20;

/// Makes the pipe in the current directory, a run directory.
///
/// # Errors
/// When it cannot be made.
pub fn make() -> io::Result<()> {
    Ok(mkfifoat(CWD, layout::MONITOR_PIPE, Mode::RUSR | Mode::WUSR)?)
}

/// Opens the end of the pipe for a process of the VM, in the current directory.
///
/// # Errors
/// When the pipe does not exist.
pub fn writer() -> io::Result<File> {
    File::options().read(true).write(true).open(layout::MONITOR_PIPE)
}

/// Opens the end of the pipe for the monitor, in the current directory.
///
/// # Errors
/// When the pipe does not exist, as for a VM that an older monitor has started.
pub fn reader() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(open(layout::MONITOR_PIPE, flags, Mode::empty())?)
}

/// Moves what is in the pipe to the log. What cannot be written, on a full disk, is lost.
pub fn carry(pipe: &OwnedFd) {
    let mut buffer = vec![0; 64 * 1024];
    let mut log = open_log(Path::new(layout::MONITOR_LOG));
    let mut moved = 0;
    while moved < READ_CAP {
        match rustix::io::read(pipe, &mut buffer) {
            Ok(n) if n > 0 => {
                moved += n as u64;
                if let Ok(log) = &mut log {
                    let _ = log.write_all(&buffer[..n]);
                }
            }
            Ok(_) | Err(_) => break,
        }
    }
    bound();
}

/// Moves what is in the pipe to the log, if there is a pipe in the current directory.
pub fn carry_now() {
    if let Ok(pipe) = reader() {
        carry(&pipe);
    }
}

/// Cuts the log in the current directory when it has reached [`CAP`], or a sixteenth of a small file system.
pub fn bound() {
    let path = Path::new(layout::MONITOR_LOG);
    if path.metadata().is_ok_and(|meta| meta.len() >= NEVER_CUT) {
        let size = rustix::fs::statvfs(path).map_or(u64::MAX, |fs| fs.f_blocks.saturating_mul(fs.f_frsize));
        let cap = CAP.min(size / 16).max(NEVER_CUT);
        bound_file(path, cap, KEPT.min(cap / 2));
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).mode(0o600).open(path)
}

/// Cuts a file to its last `kept` bytes when it has reached `cap`. The processes that append to it go on at its new end.
fn bound_file(path: &Path, cap: u64, kept: u64) {
    let Ok(length) = path.metadata().map(|meta| meta.len()) else { return };
    if length < cap {
        return;
    }
    let cut = || -> io::Result<()> {
        let mut log = File::options().read(true).append(true).open(path)?;
        let mut end = Vec::new();
        log.seek(SeekFrom::Start(length - kept.min(length)))?;
        Read::by_ref(&mut log).take(kept).read_to_end(&mut end)?;
        log.set_len(0)?;
        let lost = length - end.len() as u64;
        log.write_all(format!("[pepita: {lost} bytes dropped here]\n").as_bytes())?;
        log.write_all(&end)
    };
    // On a full disk the end is lost as well, and there is room again.
    let _ = cut();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_full_keeps_its_end_and_its_writers_go_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        let mut writer = open_log(&path).expect("opened");
        for n in 0..2000 {
            writeln!(writer, "line {n}").expect("written");
            bound_file(&path, 4096, 1024);
            assert!(path.metadata().expect("metadata").len() < 4096 + 64);
        }
        let text = std::fs::read_to_string(&path).expect("readable");
        assert!(text.starts_with("[pepita: ") && text.ends_with("line 1998\nline 1999\n"), "{text}");
    }
}
