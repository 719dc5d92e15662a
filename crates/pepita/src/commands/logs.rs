//! `pepita logs`: prints the console's log from its oldest file on, follows it through rotations and restarts, and prints
//! the last words of earlier ends.

use crate::client::Client;
use crate::error::{About, Result, call_error, eprint_line, system};
use crate::host::clock::{self, unix_ms};
use crate::reconcile;
use crate::rundir::console_log::{FILES, path, read_index};
use crate::rundir::{RunDir, ends, files};
use pepita_wire::VmId;
use pepita_wire::record::CallErrorKind;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// Carries out `pepita logs`. Of a VM that was destroyed the last words are printed.
pub(super) fn logs(
    run_dir: &RunDir,
    name: &VmId,
    follow: bool,
    since: Option<Duration>,
    until: Option<Duration>,
) -> Result<()> {
    match reconcile::status(run_dir, name) {
        Err(e) if e.kind == CallErrorKind::NoSuchVm && !ends::list(run_dir, name).is_empty() => {
            return previous(run_dir, name, 1);
        }
        status => status?,
    };
    let dir = run_dir.vm(name);
    let skip = since.map_or(0, |since| offset_of(&dir, since));
    match until {
        None => copy_out(run_dir, name, skip, follow),
        Some(until) => copy_until(&dir, skip, end_of(&dir, until)),
    }
}

/// Prints the part of the log between two offsets.
fn copy_until(dir: &Path, mut skip: u64, end: u64) -> Result<()> {
    let mut out = io::stdout().lock();
    let mut rest = end.saturating_sub(skip);
    for mut file in all(dir) {
        skip_in(&mut file, &mut skip)?;
        let copied = io::copy(&mut file.take(rest), &mut out);
        rest -= *copied.as_ref().unwrap_or(&0);
        printed(copied.and_then(|_| out.flush()))?;
    }
    Ok(())
}

/// Prints the last words of the `number`th newest end of a VM. How the VM ended is printed on standard error.
pub(super) fn previous(run_dir: &RunDir, name: &VmId, number: u8) -> Result<()> {
    let ends = ends::list(run_dir, name);
    let Some(end) = ends.get(usize::from(number.saturating_sub(1))) else {
        let why = match ends.len() {
            0 => format!("nothing is kept of an end of VM {name}"),
            kept => format!("only the last {kept} ends of VM {name} are kept"),
        };
        return Err(call_error(CallErrorKind::NoSuchVm, why)).about(name.as_str());
    };
    eprint_line(format_args!(
        "pepita: {name}: incarnation {} ended at {}: {} ({})",
        end.exit.incarnation,
        clock::to_text(end.exit.ended_at_ms),
        end.exit.exit,
        end.exit.evidence.join("; ")
    ));
    let mut out = io::stdout().lock();
    print_all(&mut out, end.text.as_bytes())?;
    if end.text.ends_with('\n') || end.text.is_empty() { Ok(()) } else { print_all(&mut out, b"\n") }
}

/// An incarnation: its number, and the time of its start.
type Start = (u64, u64);

/// Prints the log and the output that is added, of this incarnation of the VM and of all that follow. A line says where
/// an incarnation ends and where the next one begins. Waits for a VM that is not there (yet). Does not return before an
/// error.
pub(super) fn follow_restarts(run_dir: &RunDir, name: &VmId, since: Option<Duration>) -> Result<()> {
    run_dir.create()?;
    let dir = run_dir.vm(name);
    let mut last: Option<Start> = None;
    loop {
        // The watch is set up before the look, so that nothing is missed in between.
        let changed = watch_starts(run_dir, &dir)?;
        match present(&dir) {
            Some(start) if last != Some(start) => {
                if last.is_some() {
                    announce(&format!("incarnation {} has started", start.0))?;
                }
                let skip = if last.is_none() { since.map_or(0, |since| offset_of(&dir, since)) } else { 0 };
                match copy_out(run_dir, name, skip, true) {
                    // The VM was destroyed meanwhile.
                    Err(_) if present(&dir) != Some(start) => {}
                    result => result?,
                }
                let end = ends::list(run_dir, name).into_iter().find(|end| end.exit.incarnation == start.0);
                let how = end.map_or_else(String::new, |end| format!(": {}", end.exit.exit));
                announce(&format!("incarnation {} has ended{how}", start.0))?;
                last = Some(start);
            }
            Some(_) | None => {
                let _ = poll(&mut [PollFd::new(&changed, PollFlags::IN)], None);
            }
        }
    }
}

/// Returns the incarnation whose files are in a run directory.
fn present(dir: &Path) -> Option<Start> {
    let state = files::state(dir).ok()?;
    Some((state.status.incarnation, state.status.started_at))
}

/// Prints a line about the VM among its output.
fn announce(what: &str) -> Result<()> {
    print_all(&mut io::stdout().lock(), format!("[pepita: {what}]\n").as_bytes())
}

/// Prints bytes. Ends this process when the reader of the output is gone.
fn print_all(to: &mut impl Write, bytes: &[u8]) -> Result<()> {
    printed(to.write_all(bytes).and_then(|()| to.flush()))
}

fn printed(result: io::Result<()>) -> Result<()> {
    match result {
        // The reader of the output is gone.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map_err(|e| system("log", e)),
    }
}

/// Watches for run directories that appear, and for files that are replaced in the directory of one VM.
fn watch_starts(run_dir: &RunDir, dir: &Path) -> Result<OwnedFd> {
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let watch = inotify::init(flags).map_err(|e| system("inotify", e))?;
    let events = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&watch, run_dir.path(), events).map_err(|e| system("inotify", e))?;
    // The VM may have no run directory now.
    let _ = inotify::add_watch(&watch, dir, events);
    Ok(watch)
}

/// Prints the whole log, and the output that is added until the VM has ended.
pub(super) fn stream(run_dir: &RunDir, name: &VmId) -> Result<()> {
    copy_out(run_dir, name, 0, true)
}

/// Returns the offset in the files of the log at which the output begins that is at most this old, in bytes.
fn offset_of(dir: &Path, since: Duration) -> u64 {
    offset_at(dir, moment(since))
}

/// Returns the offset in the files of the log at which the output ends that is at least this old, in bytes.
fn end_of(dir: &Path, until: Duration) -> u64 {
    offset_at(dir, moment(until).saturating_add(1))
}

fn moment(ago: Duration) -> u64 {
    unix_ms().saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX))
}

fn offset_at(dir: &Path, from: u64) -> u64 {
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
    let start = present(&dir);
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
        let mut newer = newer(&dir, current.as_ref());
        if present(&dir) != start {
            // These are files of the next incarnation: its former state is removed before they are made.
            newer.clear();
        }
        for mut next in newer {
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
    skip_in(from, skip)?;
    printed(io::copy(from, to).and_then(|_| to.flush()))
}

/// Skips bytes in a file, as far as it has them.
fn skip_in(from: &mut File, skip: &mut u64) -> Result<()> {
    if *skip > 0 {
        let (here, end) = (from.stream_position().unwrap_or(0), from.seek(SeekFrom::End(0)).unwrap_or(0));
        let step = (*skip).min(end - here);
        *skip -= step;
        from.seek(SeekFrom::Start(here + step)).map_err(|e| system("log", e))?;
    }
    Ok(())
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
