//! `pepita logs`: prints the console's log from its oldest file on, follows it through rotations and restarts, and prints
//! the last words of earlier ends.

mod out;
pub(crate) mod stamps;
mod tail;

use crate::client::Client;
use crate::error::{About, Result, call_error, eprint_line, system};
use crate::host::clock::{self, unix_ms};
use crate::host::patience;
use crate::host::signals::EndSignals;
use crate::reconcile;
use crate::rundir::console_log::{FILES, base, path, read_index};
use crate::rundir::{RunDir, ends, files};
use out::{Out, WhenUnwritable};
use pepita_wire::VmId;
use pepita_wire::record::CallErrorKind;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use stamps::Stamps;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// The part of the output that is wanted, and its form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Whether each line begins with its time and its incarnation.
    pub(super) stamps: bool,
    /// The maximum number of lines, the last ones.
    pub(super) tail: Option<u64>,
    /// The greatest age.
    pub(super) since: Option<Duration>,
    /// The least age.
    pub(super) until: Option<Duration>,
}

/// Carries out `pepita logs`. Of a VM that is gone the last words are printed, if they are kept.
pub(super) fn logs(run_dir: &RunDir, name: &VmId, follow: bool, wanted: &Wanted) -> Result<()> {
    match reconcile::status(run_dir, name) {
        Err(e) if e.kind == CallErrorKind::NoSuchVm && !ends::list(run_dir, name).is_empty() => {
            return previous(run_dir, name, 1, wanted);
        }
        status => status?,
    };
    let dir = run_dir.vm(name);
    let (skip, end) = bounds(&dir, wanted);
    match end {
        None => copy_out(run_dir, name, skip, follow, &mut out_for(&dir, wanted)),
        Some(end) => copy_until(&dir, skip, end, &mut out_for(&dir, wanted)),
    }
}

/// Returns the output for the log in a run directory.
fn out_for(dir: &Path, wanted: &Wanted) -> Out {
    let mut out = Out::new(WhenUnwritable::Fail);
    out.stamps = wanted.stamps.then(|| stamps_of(dir));
    out
}

/// Returns the times of the log in a run directory.
fn stamps_of(dir: &Path) -> Stamps {
    Stamps::of_log(dir, present(dir).map_or(0, |(incarnation, _)| incarnation), base(dir, &read_index(dir)))
}

/// Returns the offsets in the files of the log between which the wanted output is, in bytes. Without an end it is all that
/// there is and comes.
fn bounds(dir: &Path, wanted: &Wanted) -> (u64, Option<u64>) {
    let index = read_index(dir);
    let base = base(dir, &index);
    let offset_at = |ms: u64| index.offset_at(ms).map_or(u64::MAX, |offset| offset.saturating_sub(base));
    let skip = wanted.since.map_or(0, |since| offset_at(moment(since)));
    let end = wanted.until.map(|until| offset_at(moment(until).saturating_add(1)));
    let skip = match wanted.tail {
        None => skip,
        Some(lines) => {
            let log = tail::open(dir);
            log.last_lines(skip, end.unwrap_or(u64::MAX).min(log.length()), lines)
        }
    };
    (skip, end)
}

/// Prints the part of the log between two offsets.
fn copy_until(dir: &Path, mut skip: u64, end: u64, out: &mut Out) -> Result<()> {
    let mut rest = end.saturating_sub(skip);
    for mut file in all(dir) {
        out.skip(skip_in(&mut file, &mut skip)?);
        rest -= copy_all(&mut file.take(rest), out)?;
    }
    Ok(())
}

/// Prints the last words of the `number`th newest end of a VM. How the VM ended is printed on standard error.
pub(super) fn previous(run_dir: &RunDir, name: &VmId, number: u8, wanted: &Wanted) -> Result<()> {
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
    let text = end.text.as_bytes();
    let begin = wanted.tail.map_or(0, |lines| tail::last_lines_of(text, lines));
    let mut out = Out::new(WhenUnwritable::Fail);
    out.stamps = wanted.stamps.then(|| Stamps::of(end.index(), end.exit.incarnation, begin as u64));
    copy_all(&mut &text[begin..], &mut out)?;
    out.end_line()
}

/// An incarnation: its number, and the time of its start.
type Start = (u64, u64);

/// Prints the log and the output that is added, of this incarnation of the VM and of all that follow. A line says where
/// an incarnation ends and where the next one begins. Waits for a VM that is not there (yet). Does not return before an
/// error.
pub(super) fn follow_restarts(run_dir: &RunDir, name: &VmId, wanted: &Wanted) -> Result<()> {
    run_dir.create()?;
    let dir = run_dir.vm(name);
    let mut out = Out::new(WhenUnwritable::Fail);
    let mut last: Option<Start> = None;
    loop {
        // The watch is set up before the look, so that nothing is missed in between.
        let changed = watch_starts(run_dir, &dir)?;
        match present(&dir) {
            Some(start) if last != Some(start) => {
                out.stamps = wanted.stamps.then(|| stamps_of(&dir));
                if last.is_some() {
                    out.say(start.0, &format!("incarnation {} has started", start.0))?;
                    leave_without_reader(&out);
                }
                let skip = if last.is_none() { bounds(&dir, wanted).0 } else { 0 };
                match copy_out(run_dir, name, skip, true, &mut out) {
                    // The VM was destroyed meanwhile.
                    Err(_) if present(&dir) != Some(start) => {}
                    result => result?,
                }
                let end = ends::list(run_dir, name).into_iter().find(|end| end.exit.incarnation == start.0);
                let how = end.map_or_else(String::new, |end| format!(": {}", end.exit.exit));
                out.say(start.0, &format!("incarnation {} has ended{how}", start.0))?;
                leave_without_reader(&out);
                last = Some(start);
            }
            Some(_) | None => {
                // The reader may go away while there is no VM that would write.
                let mut fds =
                    [PollFd::new(&changed, PollFlags::IN), PollFd::new(&out.stdout, PollFlags::empty())];
                let _ = poll(&mut fds, None);
                if fds[1].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
                    std::process::exit(0);
                }
            }
        }
    }
}

/// Returns the incarnation whose files are in a run directory.
fn present(dir: &Path) -> Option<Start> {
    let state = files::state(dir).ok()?;
    Some((state.status.incarnation, state.status.started_at))
}

/// Ends this process when the reader of the output is gone.
fn leave_without_reader(out: &Out) {
    if out.is_gone {
        std::process::exit(0);
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

/// A thing that happens while output is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disturbance {
    /// A signal asks for an end: its number.
    Signal(u32),
    /// The reader of the output is gone, or the terminal is.
    ReaderGone,
}

/// Prints the whole log, and the output that is added until the VM has ended. Goes on without output when its reader
/// goes away.
pub(super) fn stream(
    run_dir: &RunDir,
    name: &VmId,
    signals: &EndSignals,
    on: impl FnMut(Disturbance),
) -> Result<()> {
    follow_log(run_dir, name, 0, &mut Out::new(WhenUnwritable::Warn), Some(signals), on)
}

/// Prints the output that is added from now on, until the VM has ended. Goes on without output when its reader goes away.
pub(super) fn stream_new(
    run_dir: &RunDir,
    name: &VmId,
    signals: &EndSignals,
    on: impl FnMut(Disturbance),
) -> Result<()> {
    let nothing = Wanted { stamps: false, tail: Some(0), since: None, until: None };
    let (skip, _) = bounds(&run_dir.vm(name), &nothing);
    follow_log(run_dir, name, skip, &mut Out::new(WhenUnwritable::Warn), Some(signals), on)
}

fn moment(ago: Duration) -> u64 {
    unix_ms().saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX))
}

/// Prints the log, and the output that is added if it is followed. Ends this process when the reader of the output is
/// gone.
fn copy_out(run_dir: &RunDir, name: &VmId, skip: u64, follow: bool, out: &mut Out) -> Result<()> {
    if !follow {
        return print_files(&run_dir.vm(name), skip, out).map(drop);
    }
    let leave = |_: Disturbance| {
        std::process::exit(0);
    };
    follow_log(run_dir, name, skip, out, None, leave)
}

/// Prints all files of the log, and returns the newest one.
fn print_files(dir: &Path, mut skip: u64, out: &mut Out) -> Result<Option<File>> {
    let mut files = all(dir);
    for file in &mut files {
        copy(file, &mut skip, out)?;
    }
    Ok(files.pop())
}

fn follow_log(
    run_dir: &RunDir,
    name: &VmId,
    skip: u64,
    out: &mut Out,
    signals: Option<&EndSignals>,
    mut on: impl FnMut(Disturbance),
) -> Result<()> {
    let dir = run_dir.vm(name);
    let start = present(&dir);
    // The watches are set up before the first read, so that nothing is missed in between.
    let (ended, written) = (watch_end(run_dir, name)?, watch_log(&dir)?);
    let mut current = print_files(&dir, skip, out)?;
    let mut is_told = false;
    loop {
        if out.is_gone && !is_told {
            is_told = true;
            on(Disturbance::ReaderGone);
        }
        let mut fds = vec![PollFd::new(&ended, PollFlags::IN), PollFd::new(&written, PollFlags::IN)];
        fds.extend(signals.map(|signals| PollFd::new(signals, PollFlags::IN)));
        // A pipe without a reader, and a terminal that is closed, report themselves without being asked for anything.
        fds.extend((!out.is_gone).then(|| PollFd::new(&out.stdout, PollFlags::empty())));
        let _ = poll(&mut fds, None);
        let over = !fds[0].revents().is_empty();
        let gone = PollFlags::ERR | PollFlags::HUP;
        let is_gone = !out.is_gone && fds.last().is_some_and(|stdout| stdout.revents().intersects(gone));
        if !fds[1].revents().is_empty() {
            let _ = rustix::io::read(&written, &mut [0; 4096]);
        }
        drop(fds);
        out.is_gone |= is_gone;
        while let Some(signal) = signals.and_then(EndSignals::next) {
            on(Disturbance::Signal(signal));
        }
        // Every file is read to its end. The monitor does not write to a rotated file any more; further output is in
        // the next file.
        let (mut newer, is_gap) = newer(&dir, current.as_ref());
        if present(&dir) != start {
            // These are files of the next incarnation: its former state is removed before they are made.
            newer.clear();
            if let Some(stamps) = &mut out.stamps {
                stamps.freeze();
            }
        } else if is_gap && out.stamps.is_some() {
            // The files that followed were removed before they were read.
            out.stamps = Some(stamps_of(&dir));
        }
        for mut next in newer {
            if let Some(file) = &mut current {
                copy(file, &mut 0, out)?;
            }
            copy(&mut next, &mut 0, out)?;
            current = Some(next);
        }
        if let Some(file) = &mut current {
            copy(file, &mut 0, out)?;
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

/// Opens the files that are newer than `than`, or all files when `than` was removed, which is the second answer.
fn newer(dir: &Path, than: Option<&File>) -> (Vec<File>, bool) {
    let inode_of_newest = path(dir, 0).metadata().map(|meta| meta.ino()).ok();
    if inode_of_newest.is_none() || than.and_then(inode) == inode_of_newest {
        return (Vec::new(), false);
    }
    let mut files = all(dir);
    let at = files.iter().position(|file| inode(file) == than.and_then(inode));
    if let Some(at) = at {
        files.drain(..=at);
    }
    (files, at.is_none())
}

fn inode(file: &File) -> Option<u64> {
    file.metadata().map(|meta| meta.ino()).ok()
}

fn copy(from: &mut File, skip: &mut u64, to: &mut Out) -> Result<()> {
    to.skip(skip_in(from, skip)?);
    copy_all(from, to).map(drop)
}

/// Copies all that there is, and returns the number of bytes.
fn copy_all(from: &mut impl Read, to: &mut impl Write) -> Result<u64> {
    io::copy(from, to).and_then(|copied| to.flush().map(|()| copied)).map_err(|e| system("log", e))
}

/// Skips bytes in a file, as far as it has them, and returns how many.
fn skip_in(from: &mut File, skip: &mut u64) -> Result<u64> {
    if *skip == 0 {
        return Ok(0);
    }
    let (here, end) = (from.stream_position().unwrap_or(0), from.seek(SeekFrom::End(0)).unwrap_or(0));
    let step = (*skip).min(end - here);
    *skip -= step;
    from.seek(SeekFrom::Start(here + step)).map_err(|e| system("log", e))?;
    Ok(step)
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
    let waiting = patience::spawn(move || {
        // An error ends the wait as well.
        let _ = crate::ops::follow::follow(&run_dir, &name, None, |_| false);
        // The monitor writes the last output before it answers, so the log is complete by now.
        drop(Client::open(&run_dir.vm(&name)));
        drop(writer);
    });
    waiting.map_err(|e| system("a thread", e))?;
    Ok(reader)
}
