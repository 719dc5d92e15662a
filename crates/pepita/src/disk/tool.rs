//! Runs the tools of e2fsprogs, with a deadline. They read what a guest has written, so they run in a jail that holds the
//! disk and nothing else of the host's files, without the environment of the launcher, and what they print is sanitised.

use super::host_use::used_by_host;
use crate::error::{CallError, Result, call_error};
use crate::host::inherited;
use pepita_jail::{Access, Bind, End, Entry, Level, Limits, Plan, end_of};
use pepita_wire::launch::JAIL_ENVIRONMENT;
use pepita_wire::record::CallErrorKind;
use pepita_wire::storage::CHECK_DEADLINE;
use pepita_wire::text::shown;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The time from the signal to a tool that has to end until it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// The bytes of a tool's output that are kept.
const OUTPUT_CAP: u64 = 16 * 1024;

/// The usual directories of these tools, which are not in an ordinary user's PATH.
const DIRECTORIES: [&str; 2] = ["/usr/sbin", "/sbin"];

/// The settings of these tools.
const SETTINGS: [&str; 2] = ["/etc/mke2fs.conf", "/etc/e2fsck.conf"];

/// The most threads and open files of a tool.
const THREADS: u64 = 16;
const OPEN_FILES: u64 = 256;

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
    end: End,
    /// The first lines of its output.
    words: String,
}

/// Makes an ext4 file system in a file of the final length, which holds nothing. Needs no privileges.
pub(super) fn format(name: &str, file: &Path, patience: Patience<'_>) -> Result<()> {
    // An error of the file system is one of the guest, which goes on with a disk that it can only read.
    let args = ["-q", "-F", "-t", "ext4", "-m", "0", "-e", "remount-ro"].map(OsStr::new);
    let lazily = ["-E", "root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1"].map(OsStr::new);
    let ran = run(name, "mke2fs", args.into_iter().chain(lazily), file, patience)?;
    match ran.end.code {
        Some(0) => Ok(()),
        Some(_) | None => Err(about(name, CallErrorKind::Io, format!("mke2fs: {}", ran.words))),
    }
}

/// Checks the file system of a disk that was not unmounted, and mends what can be mended without a question: usually its
/// journal is replayed.
pub(super) fn check(name: &str, file: &Path, patience: Patience<'_>) -> Result<()> {
    check_with(name, &["-p"], file, patience)
}

fn check_with(name: &str, options: &[&str], file: &Path, patience: Patience<'_>) -> Result<()> {
    let ran = run(name, "e2fsck", options.iter().map(OsStr::new), file, patience)?;
    // 0: no errors; 1 and 2: all errors are mended (e2fsck(8)).
    match ran.end.code {
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
    let ran = run(name, "resize2fs", std::iter::empty(), file, patience)?;
    match ran.end.code {
        Some(0) => Ok(()),
        Some(_) | None => Err(about(name, CallErrorKind::Io, format!("resize2fs: {}", ran.words))),
    }
}

/// Runs a tool on the file of a disk.
fn run<'a>(
    name: &str,
    tool: &str,
    options: impl Iterator<Item = &'a OsStr>,
    file: &Path,
    patience: Patience<'_>,
) -> Result<Ran> {
    let failed = |e: std::io::Error| about(name, CallErrorKind::Io, format!("{tool}: {e}"));
    let program = find(tool).ok_or_else(|| {
        about(name, CallErrorKind::VmmMissing, format!("{tool} is missing; install e2fsprogs"))
    })?;
    let file = file.canonicalize().map_err(failed)?;
    // In its jail a tool does not see what the host does with its devices.
    if let Some(how) = used_by_host(&file) {
        let why = format!("{}: {how}: unmount it there first", file.display());
        return Err(about(name, CallErrorKind::TryAgain, why));
    }
    let (mut reader, writer) = std::io::pipe().map_err(failed)?;
    let same = writer.try_clone().map_err(failed)?;
    let dressed = |mut command: Command| {
        inherited::clean_environment(&mut command);
        command.args(options).arg(&file).stdin(Stdio::null()).stdout(writer).stderr(same);
        command
    };
    let is_free = std::env::var_os(JAIL_ENVIRONMENT).is_some_and(|word| word == <&str>::from(Level::None));
    let handle =
        if is_free { start(dressed(Command::new(&program))) } else { jailed(&program, &file, dressed) };
    let handle = handle.map_err(|why| about(name, CallErrorKind::TryAgain, format!("{tool}: {why}")))?;
    // This process has closed its ends of the pipe, so that the pipe ends with the tool. A thread reads meanwhile, because a
    // tool whose output nobody takes does not go on.
    let words = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = reader.by_ref().take(OUTPUT_CAP).read_to_end(&mut text);
        let _ = std::io::copy(&mut reader, &mut std::io::sink());
        text
    });
    let end = wait(name, tool, &handle, patience);
    let text = words.join().unwrap_or_default();
    Ok(Ran { end: end?, words: first_words(&text) })
}

/// Returns the program of a tool.
fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = std::env::split_paths(&path).chain(DIRECTORIES.map(PathBuf::from)).collect();
    places.into_iter().map(|place| place.join(tool)).find(|program| program.is_absolute() && program.exists())
}

/// Starts a tool without a jail.
fn start(mut command: Command) -> std::result::Result<OwnedFd, String> {
    let child = command.spawn().map_err(|e| e.to_string())?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let handle = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    handle.ok_or_else(|| "no handle on the process".to_owned())
}

/// Starts a tool in a jail, as far as this host can have one: the disk is mended without some layers, too. The tool keeps the
/// user of the launcher, to whom the disk belongs, in a user namespace, without capabilities.
fn jailed(
    program: &Path,
    file: &Path,
    dressed: impl FnOnce(Command) -> Command,
) -> std::result::Result<OwnedFd, String> {
    let is_device = file.metadata().is_ok_and(|meta| meta.file_type().is_block_device());
    let access = if is_device { Access::Device } else { Access::Write };
    let mut plan = Plan::new(Level::BestEffort, None, "/").with_system().with_program(program);
    plan.binds.extend(SETTINGS.map(|path| Bind::same(path, Access::Read).optional()));
    plan.limits = Limits { open_files: Some(OPEN_FILES), threads: Some(THREADS), file_size: None };
    // They look there whether this host has mounted the disk.
    let mounts = format!("/proc/{}/mounts", std::process::id());
    plan.binds.push(Bind { target: "/etc/mtab".into(), ..Bind::same(mounts, Access::Read) });
    let entry = Entry::new(&plan.with(file, access)).map_err(|e| e.to_string())?;
    let helper = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut command = dressed(entry.command(&helper, program));
    Ok(entry.start(&mut command).map_err(|e| e.to_string())?.handle)
}

/// Waits for the end of a tool, until the deadline or until the caller has given up.
fn wait(name: &str, tool: &str, handle: &OwnedFd, patience: Patience<'_>) -> Result<End> {
    let why = loop {
        let left = patience.deadline.saturating_duration_since(Instant::now());
        let limit = Timespec::try_from(left).ok();
        let mut fds = vec![PollFd::new(handle, PollFlags::IN)];
        fds.extend(patience.caller.map(|caller| PollFd::new(caller, PollFlags::IN)));
        let _ = poll(&mut fds, limit.as_ref());
        if !fds[0].revents().is_empty() {
            return Ok(end_of(handle).unwrap_or(End { code: None, signal: None }));
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
    let _ = pidfd_send_signal(handle, Signal::TERM);
    if !crate::host::wait::wait_readable(handle, GRACE) {
        let _ = pidfd_send_signal(handle, Signal::KILL);
    }
    let _ = end_of(handle);
    Err(why)
}

/// Returns the first lines of a tool's output as one.
fn first_words(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    shown(&lines[..lines.len().min(4)].join("; "))
}
