//! `pepita cp`: copies files between host and guest. The guest agent writes or reads an archive; what comes out of a guest
//! is not trusted.

use super::exec::open;
use crate::cli::{Cp, Place};
use crate::error::{About, CallError, Result, call_error, system};
use crate::host::signals::EndSignals;
use crate::host::terminal::is_terminal;
use crate::ops::exec::{End, Ends, carry};
use crate::rundir::RunDir;
use pepita_copy::{CopyError, Owner, Report, Sender, Unpacking, pack, unpack};
use pepita_wire::agent::Copy;
use pepita_wire::record::CallErrorKind;
use pepita_wire::text::shown_up_to;
use pepita_wire::{Ask, Exit, VmId};
use std::io::{BufReader, BufWriter, PipeReader, Read, pipe};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

/// The bytes of a guest's words that are read, and the characters that are shown.
const WORDS_CAP: u64 = 16 * 1024;
const SHOWN: usize = 2000;

/// The size of one read or write: as much as a pipe holds.
const PIPE: usize = 64 * 1024;

/// The exit code of the agent's program that has left something out.
const NOT_WHOLE: i32 = 1;

/// Carries out `pepita cp`.
pub(super) fn cp(run_dir: &RunDir, asked: Cp) -> Result<ExitCode> {
    let Cp { source, target, archive, follow_link, max_size } = asked;
    let usage = |why: &str| Err(call_error(CallErrorKind::Usage, why));
    let owner = if archive { Owner::Kept } else { Owner::Own };
    match (source, target) {
        (Place::Guest { vm, path }, Place::Stream) if is_terminal(std::io::stdout()) => {
            usage(&format!("an archive is nothing for a terminal: `pepita cp {vm}:{path} - | tar -t`"))
        }
        (Place::Guest { vm, path }, target) => {
            let copy = Copy::Out { path, follow_link };
            let host = match target {
                Place::Guest { .. } => {
                    return usage("between two VMs: `pepita cp A:PATH - | pepita cp - B:DIRECTORY` does it");
                }
                Place::Stream => Host::Output,
                Place::Host(place) => Host::Unpacks { place, owner, max_bytes: max_size << 20 },
            };
            transfer(&run_dir.holding(&vm), &vm, copy, host)
        }
        (source, Place::Guest { vm, path }) => {
            let into_directory = source == Place::Stream;
            let host = match source {
                Place::Stream if is_terminal(std::io::stdin()) => {
                    return usage("an archive comes from no terminal: `tar -c DIR | pepita cp - VM:PATH`");
                }
                Place::Host(path) => Host::Packs { path, follow_link },
                Place::Stream | Place::Guest { .. } => Host::Input,
            };
            let copy = Copy::In { path, into_directory, keep_owner: archive };
            transfer(&run_dir.holding(&vm), &vm, copy, host)
        }
        (Place::Host(_) | Place::Stream, Place::Host(_) | Place::Stream) => {
            usage("one of both has to be VM:PATH, a place in a guest")
        }
    }
}

/// What the host does with the archive.
enum Host {
    /// It comes from standard input.
    Input,
    /// It goes to standard output.
    Output,
    /// It is made of a file or directory.
    Packs { path: PathBuf, follow_link: bool },
    /// It is unpacked.
    Unpacks { place: PathBuf, owner: Owner, max_bytes: u64 },
}

/// Carries an archive between the agent and the host.
fn transfer(run_dir: &RunDir, vm: &VmId, copy: Copy, host: Host) -> Result<ExitCode> {
    // Before the first thread, so that no signal is missed.
    let signals = EndSignals::take().map_err(|e| system("signals", e))?;
    let agent = open(run_dir, vm, Ask::Copy(copy))?;
    let failed = |e| system("a pipe", e);
    let (words, to_words) = pipe().map_err(failed)?;
    let words = thread::spawn(move || first_words(words));
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    let run = |input: Option<BorrowedFd<'_>>, output: BorrowedFd<'_>| {
        carry(&agent, &Ends { input, output, error: to_words.as_fd(), signals: &signals, terminal: None })
    };
    let (end, ours): (_, Result<Report, CopyError>) = match host {
        Host::Input => (run(Some(stdin.as_fd()), stdout.as_fd()), Ok(Report::default())),
        Host::Output => (run(None, stdout.as_fd()), Ok(Report::default())),
        Host::Packs { path, follow_link } => {
            let (archive, to_archive) = pipe().map_err(failed)?;
            let packing = thread::spawn(move || {
                pack(&path, follow_link, &mut BufWriter::with_capacity(PIPE, to_archive))
            });
            let end = run(Some(archive.as_fd()), to_words.as_fd());
            // Without a reader, the archive is not written to its end.
            drop(archive);
            (end, packing.join().unwrap_or_else(|_| Err(CopyError::CutShort)))
        }
        Host::Unpacks { place, owner, max_bytes } => {
            let (archive, to_archive) = pipe().map_err(failed)?;
            let unpacking = thread::spawn(move || {
                let sender = Sender::Hostile { max_bytes };
                let unpacking = Unpacking { place: &place, into_directory: false, owner, sender };
                unpack(&unpacking, &mut BufReader::with_capacity(PIPE, archive))
            });
            let end = run(None, to_archive.as_fd());
            drop(to_archive);
            (end, unpacking.join().unwrap_or_else(|_| Err(CopyError::CutShort)))
        }
    };
    drop(to_words);
    let words = words.join().unwrap_or_default();
    let end = end.map_err(|e| system("the streams of the copy", e)).about(vm.as_str())?;
    judge(end, ours, &words).about(vm.as_str())
}

/// Returns the outcome of both sides: the side that has failed first says why.
fn judge(end: End, ours: Result<Report, CopyError>, words: &str) -> Result<ExitCode> {
    let io = |why: String| Err(call_error(CallErrorKind::Io, why));
    let of_guest = match &end {
        End::Left(signal) => {
            return Ok(ExitCode::from(u8::try_from(128 + signal).unwrap_or(super::exec::FAILED)));
        }
        End::Ended(Exit::Signalled { signal, .. }) if [1, 2, 15].contains(signal) => {
            return Ok(ExitCode::from(u8::try_from(128 + signal).unwrap_or(super::exec::FAILED)));
        }
        End::Ended(Exit::Exited { code: 0 }) => None,
        End::Ended(Exit::Exited { code: NOT_WHOLE }) => Some(format!("in the guest {words}")),
        End::Ended(Exit::Exited { .. }) if !words.is_empty() => Some(format!("in the guest: {words}")),
        End::Ended(exit) => Some(format!("in the guest: {exit}")),
        End::Lost => Some("the VM, or its agent, has ended before the copy".to_owned()),
    };
    match (ours, of_guest) {
        (Err(e), Some(why)) if e.is_of_other_side() => io(why),
        (Err(e), _) => Err(of_copy(&e)),
        (Ok(report), Some(why)) if report.is_whole() => io(why),
        (Ok(report), Some(why)) => io(format!("{why}; {report}")),
        (Ok(report), None) if report.is_whole() => Ok(ExitCode::SUCCESS),
        (Ok(report), None) => io(report.to_string()),
    }
}

fn of_copy(error: &CopyError) -> CallError {
    let kind = match error {
        CopyError::Path { error, .. } if error.kind() == std::io::ErrorKind::PermissionDenied => {
            CallErrorKind::Permission
        }
        CopyError::Place { .. } => CallErrorKind::Usage,
        CopyError::Path { .. }
        | CopyError::Stream(_)
        | CopyError::CutShort
        | CopyError::Archive(_)
        | CopyError::Name { .. }
        | CopyError::TooMuch { .. } => CallErrorKind::Io,
    };
    let advice = match error {
        CopyError::TooMuch { what: "bytes", .. } => " (--max-size)",
        _ => "",
    };
    call_error(kind, format!("{error}{advice}"))
}

/// Reads what the agent's program says, to its end. It is a guest's: only the beginning is kept, fit to be shown.
fn first_words(mut from: PipeReader) -> String {
    let mut bytes = Vec::new();
    let _ = from.by_ref().take(WORDS_CAP).read_to_end(&mut bytes);
    let _ = std::io::copy(&mut from, &mut std::io::sink());
    shown_up_to(String::from_utf8_lossy(&bytes).trim(), SHOWN)
}
