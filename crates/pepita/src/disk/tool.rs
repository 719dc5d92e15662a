//! Runs the tools of e2fsprogs, with a deadline. They read what a guest has written, so they run without the
//! environment of the launcher, and what they print is sanitised.

use crate::error::{CallError, Result, call_error};
use crate::host::inherited;
use pepita_wire::record::CallErrorKind;
use pepita_wire::storage::CHECK_DEADLINE;
use pepita_wire::text::shown;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The time from the signal to a tool that has to end until it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// The bytes of a tool's output that are kept.
const OUTPUT_CAP: u64 = 16 * 1024;

/// Returns an error about a disk. It says which one.
pub(super) fn about(name: &str, kind: CallErrorKind, why: impl std::fmt::Display) -> CallError {
    call_error(kind, format!("disk {name}: {why}"))
}

/// How long a tool may run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience<'a> {
    deadline: Instant,
    caller: Option<&'a OwnedFd>,
}

impl<'a> Patience<'a> {
    /// Returns the patience of a launch whose `caller` may give up: the descriptor is readable then.
    pub(super) fn new(caller: Option<&'a OwnedFd>) -> Self {
        Self { deadline: Instant::now() + CHECK_DEADLINE, caller }
    }
}

/// The end of a tool.
struct Ran {
    status: ExitStatus,
    /// The first lines of its output.
    words: String,
}

/// Makes an ext4 file system in a file of the final length, which holds nothing. Needs no privileges.
pub(super) fn format(name: &str, file: &Path, patience: Patience<'_>) -> Result<()> {
    // An error of the file system is one of the guest, which goes on with a disk that it can only read.
    let args = ["-q", "-F", "-t", "ext4", "-m", "0", "-e", "remount-ro"].map(OsStr::new);
    let lazily = ["-E", "root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1"].map(OsStr::new);
    let args = args.into_iter().chain(lazily).chain([file.as_os_str()]);
    let ran = run(name, "mke2fs", args, patience)?;
    match ran.status.success() {
        true => Ok(()),
        false => Err(about(name, CallErrorKind::Io, format!("mke2fs: {}", ran.words))),
    }
}

/// Checks the file system of a disk that was not unmounted, and mends what can be mended without a question: usually its
/// journal is replayed.
pub(super) fn check(name: &str, file: &Path, patience: Patience<'_>) -> Result<()> {
    check_with(name, &["-p"], file, patience)
}

fn check_with(name: &str, options: &[&str], file: &Path, patience: Patience<'_>) -> Result<()> {
    let args = options.iter().map(OsStr::new).chain([file.as_os_str()]);
    let ran = run(name, "e2fsck", args, patience)?;
    // 0: no errors; 1 and 2: all errors are mended (e2fsck(8)).
    match ran.status.code() {
        Some(0..=3) => Ok(()),
        Some(_) | None => {
            let why = format!(
                "its file system has errors that `e2fsck -p` does not mend; nothing of it is lost by waiting: run \
                 `e2fsck -f {}`, or put a copy in its place. e2fsck said: {}",
                file.display(),
                ran.words
            );
            Err(about(name, CallErrorKind::Io, why))
        }
    }
}

/// Lets the file system of a disk fill its file.
pub(super) fn resize(name: &str, file: &Path, patience: Patience<'_>) -> Result<()> {
    // resize2fs wants a full check before.
    check_with(name, &["-f", "-p"], file, patience)?;
    let ran = run(name, "resize2fs", [file.as_os_str()].into_iter(), patience)?;
    match ran.status.success() {
        true => Ok(()),
        false => Err(about(name, CallErrorKind::Io, format!("resize2fs: {}", ran.words))),
    }
}

fn run<'a>(
    name: &str,
    tool: &str,
    args: impl Iterator<Item = &'a OsStr>,
    patience: Patience<'_>,
) -> Result<Ran> {
    let mut command = Command::new(tool);
    inherited::clean_environment(&mut command);
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    // The usual directories of these tools, which are not in an ordinary user's PATH.
    path.push(":/usr/sbin:/sbin");
    command.env("PATH", path).args(args).stdin(Stdio::null());
    let (mut reader, writer) = std::io::pipe().map_err(|e| about(name, CallErrorKind::Io, e))?;
    let same = writer.try_clone().map_err(|e| about(name, CallErrorKind::Io, e))?;
    command.stdout(writer).stderr(same);
    let child = command.spawn().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            about(name, CallErrorKind::VmmMissing, format!("{tool} is missing; install e2fsprogs"))
        }
        _ => about(name, CallErrorKind::TryAgain, format!("{tool}: {e}")),
    })?;
    // Its ends of the pipe are closed here, so that the pipe ends with the tool. A thread reads meanwhile, because a tool
    // whose output nobody takes does not go on.
    drop(command);
    let words = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = reader.by_ref().take(OUTPUT_CAP).read_to_end(&mut text);
        let _ = std::io::copy(&mut reader, &mut std::io::sink());
        text
    });
    let status = wait(name, tool, child, patience);
    let text = words.join().unwrap_or_default();
    Ok(Ran { status: status?, words: first_words(&text) })
}

/// Waits for the end of a tool, until the deadline or until the caller has given up.
fn wait(name: &str, tool: &str, mut child: Child, patience: Patience<'_>) -> Result<ExitStatus> {
    let failed = |e: std::io::Error| about(name, CallErrorKind::Io, format!("{tool}: {e}"));
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let handle = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let Some(handle) = handle else { return child.wait().map_err(failed) };
    let why = loop {
        let left = patience.deadline.saturating_duration_since(Instant::now());
        let limit = Timespec::try_from(left).ok();
        let mut fds = vec![PollFd::new(&handle, PollFlags::IN)];
        fds.extend(patience.caller.map(|caller| PollFd::new(caller, PollFlags::IN)));
        let _ = poll(&mut fds, limit.as_ref());
        if !fds[0].revents().is_empty() {
            return child.wait().map_err(failed);
        }
        if fds.get(1).is_some_and(|caller| !caller.revents().is_empty()) {
            break about(name, CallErrorKind::TryAgain, format!("given up while {tool} ran"));
        }
        if left.is_zero() {
            let why = format!("{tool} did not end in {} minutes", CHECK_DEADLINE.as_secs() / 60);
            break about(name, CallErrorKind::Timeout, why);
        }
    };
    // e2fsck ends in good order on this signal.
    let _ = pidfd_send_signal(&handle, Signal::TERM);
    if !crate::host::wait::wait_readable(&handle, GRACE) {
        let _ = pidfd_send_signal(&handle, Signal::KILL);
    }
    let _ = child.wait();
    Err(why)
}

/// Returns the first lines of a tool's output as one.
fn first_words(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    shown(&lines[..lines.len().min(4)].join("; "))
}
