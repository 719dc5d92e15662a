//! `pepita logs`: prints the console's log from its oldest file on, and follows it through rotations.

use crate::client::Client;
use crate::error::{Result, system};
use crate::host::clock::unix_ms;
use crate::reconcile;
use crate::rundir::RunDir;
use crate::rundir::console_log::{FILES, path, read_index};
use crate::rundir::files;
use pepita_wire::VmId;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// Carries out `pepita logs`.
pub(super) fn logs(run_dir: &RunDir, name: &VmId, follow: bool, since: Option<Duration>) -> Result<()> {
    reconcile::status(run_dir, name)?;
    let dir = run_dir.vm(name);
    let skip = since.map_or(0, |since| offset_of(&dir, since));
    copy_out(run_dir, name, skip, follow)
}

/// Prints the whole log, and the output that is added until the VM has ended.
pub(super) fn stream(run_dir: &RunDir, name: &VmId) -> Result<()> {
    copy_out(run_dir, name, 0, true)
}

/// Returns the offset of a moment in the files of the log, in bytes.
fn offset_of(dir: &Path, since: Duration) -> u64 {
    let from = unix_ms().saturating_sub(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    // Without a readable log base, more of the log is printed than was asked for, but nothing is missing.
    let base = files::state(dir).ok().map_or(0, |state| state.log_base);
    let index = read_index(dir);
    // The first mark of the index that is not older than asked for.
    let at = index.partition_point(|mark| mark.at_ms < from);
    match index.get(at) {
        Some(mark) => mark.offset.saturating_sub(base),
        None => u64::MAX,
    }
}

fn copy_out(run_dir: &RunDir, name: &VmId, mut skip: u64, follow: bool) -> Result<()> {
    let dir = run_dir.vm(name);
    // The watches are set up before the first read, so that nothing is missed in between.
    let ended = follow.then(|| watch_end(run_dir, name)).transpose()?;
    let written = follow.then(|| watch_log(&dir)).transpose()?;
    let mut out = io::stdout().lock();
    let mut files = all(&dir);
    for file in &mut files {
        copy(file, &mut skip, &mut out)?;
    }
    let mut current = files.pop();
    let (Some(ended), Some(written)) = (ended, written) else { return Ok(()) };
    loop {
        let mut fds = [PollFd::new(&ended, PollFlags::IN), PollFd::new(&written, PollFlags::IN)];
        let _ = poll(&mut fds, None);
        let over = !fds[0].revents().is_empty();
        if !fds[1].revents().is_empty() {
            let _ = rustix::io::read(&written, &mut [0; 4096]);
        }
        // Every file is read to its end. The monitor does not write to a rotated file any more; further output is in
        // the next file.
        for mut next in newer(&dir, current.as_ref()) {
            if let Some(file) = &mut current {
                copy(file, &mut 0, &mut out)?;
            }
            copy(&mut next, &mut 0, &mut out)?;
            current = Some(next);
        }
        if let Some(file) = &mut current {
            copy(file, &mut 0, &mut out)?;
        }
        if over {
            return Ok(());
        }
    }
}

/// Opens the files of the log, the oldest first. All files are opened before any of them is read. When a rotation
/// happens in between, the files are opened again.
fn all(dir: &Path) -> Vec<File> {
    for _ in 0..FILES {
        let files: Vec<File> = (0..FILES).rev().filter_map(|age| File::open(path(dir, age)).ok()).collect();
        if files.last().and_then(inode) == path(dir, 0).metadata().map(|meta| meta.ino()).ok() {
            return files;
        }
    }
    File::open(path(dir, 0)).into_iter().collect()
}

/// Opens the files that are newer than `than`, or all files when `than` was removed.
fn newer(dir: &Path, than: Option<&File>) -> Vec<File> {
    let inode_of_newest = path(dir, 0).metadata().map(|meta| meta.ino()).ok();
    if inode_of_newest.is_none() || than.and_then(inode) == inode_of_newest {
        return Vec::new();
    }
    let mut files = all(dir);
    if let Some(at) = files.iter().position(|file| inode(file) == than.and_then(inode)) {
        files.drain(..=at);
    }
    files
}

fn inode(file: &File) -> Option<u64> {
    file.metadata().map(|meta| meta.ino()).ok()
}

fn copy(from: &mut File, skip: &mut u64, to: &mut impl Write) -> Result<()> {
    if *skip > 0 {
        let (here, end) = (from.stream_position().unwrap_or(0), from.seek(SeekFrom::End(0)).unwrap_or(0));
        let step = (*skip).min(end - here);
        *skip -= step;
        from.seek(SeekFrom::Start(here + step)).map_err(|e| system("log", e))?;
    }
    match io::copy(from, to).and_then(|_| to.flush()) {
        // The reader of the output is gone.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map(drop).map_err(|e| system("log", e)),
    }
}

/// Watches for writes to the log and for rotations.
fn watch_log(dir: &Path) -> Result<OwnedFd> {
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let watch = inotify::init(flags).map_err(|e| system("inotify", e))?;
    let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&watch, dir, events).map_err(|e| system("inotify", e))?;
    Ok(watch)
}

/// Returns a pipe that is readable once the VM has ended.
fn watch_end(run_dir: &RunDir, name: &VmId) -> Result<OwnedFd> {
    let (reader, writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| system("pipe", e))?;
    let (run_dir, name) = (run_dir.clone(), name.clone());
    std::thread::spawn(move || {
        // An error ends the wait as well.
        let _ = crate::ops::follow::follow(&run_dir, &name, None, |_| false);
        // The monitor writes the last output before it answers, so the log is complete by now.
        drop(Client::open(&run_dir.vm(&name)));
        drop(writer);
    });
    Ok(reader)
}
