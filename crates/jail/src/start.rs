//! The side of the program that starts another one in a jail: the call of the helper, and what it says.

use crate::answer::{Failure, What, Words};
use crate::layer::Report;
use crate::plan::{HELPER, Level, Plan};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The time that a helper has to become the program. A file system that hangs would hold the caller up otherwise.
pub const ENTRY_DEADLINE: Duration = Duration::from_secs(20);

/// The most bytes that a helper says.
const WORDS_CAP: u64 = 64 << 10;

/// A jail for one program that is about to be started.
#[derive(Debug)]
pub struct Entry {
    plan: String,
    reader: std::io::PipeReader,
    writer: std::io::PipeWriter,
}

/// A program that runs in its jail: a child of this process.
#[derive(Debug)]
pub struct Jailed {
    /// Its process id. It is not the one of the helper, where the jail has process ids of its own.
    pub pid: u32,
    /// The handle on the process (pidfd), which is readable once the process has ended.
    pub handle: OwnedFd,
    /// What is said of the layers.
    pub report: Report,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The exit code, if it exited.
    pub code: Option<i32>,
    /// The signal, if a signal has ended it.
    pub signal: Option<i32>,
}

impl Entry {
    /// Prepares a jail.
    ///
    /// # Errors
    /// When the plan contradicts itself, or the system gives no pipe.
    pub fn new(plan: &Plan) -> Result<Self, Failure> {
        plan.check().map_err(|why| Failure::new(What::Plan, why))?;
        let (reader, writer) =
            std::io::pipe().map_err(|e| Failure::new(What::Helper, format!("a pipe: {e}")))?;
        let plan = serde_json::to_string(plan).map_err(|e| Failure::new(What::Plan, e.to_string()))?;
        Ok(Self { plan, reader, writer })
    }

    /// Returns the call of the helper that becomes no program: it ends when it is in its jail.
    fn trial(&self, helper: &Path) -> Command {
        let mut command = Command::new(helper);
        command.arg(HELPER).arg(&self.plan).arg(self.writer.as_raw_fd().to_string());
        command
    }

    /// Returns the call of the helper (`pepita`) that becomes `program`. Arguments that are added to it, its environment and
    /// its standard input, output and error are those of the program.
    pub fn command(&self, helper: &Path, program: &Path) -> Command {
        let mut command = self.trial(helper);
        command.arg("--").arg(program);
        command
    }

    /// Starts the program with [`Entry::command`], and returns when it executes. This process must start no other one
    /// meanwhile.
    ///
    /// # Errors
    /// When the program is not started; the failure names the layer or the file. No process is left then.
    pub fn start(self, command: &mut Command) -> Result<Jailed, Failure> {
        let lost = |e: std::io::Error| Failure::new(What::Helper, e.to_string());
        let Self { reader, writer, .. } = self;
        fcntl_setfd(&writer, FdFlags::empty()).map_err(|e| lost(e.into()))?;
        let helper = command.spawn().map_err(|e| {
            let program = command.get_program().to_string_lossy().into_owned();
            Failure::new(What::Helper, format!("{program}: {e}"))
        })?;
        drop(writer);
        let words = listen(reader);
        conclude(helper, words)
    }
}

/// Reads what the helper says until it executes the program, or has ended.
fn listen(mut reader: std::io::PipeReader) -> Words {
    let deadline = Instant::now() + ENTRY_DEADLINE;
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    let failed = |bytes: &[u8], why: String| {
        let mut words = Words::of(bytes);
        words.failure = Some(Failure::new(What::Helper, why));
        words
    };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = Timespec::try_from(left).ok();
        let mut fds = [PollFd::from_borrowed_fd(reader.as_fd(), PollFlags::IN)];
        let ready = poll(&mut fds, limit.as_ref());
        if left.is_zero() {
            let why = format!("the program did not begin within {} s", ENTRY_DEADLINE.as_secs());
            return failed(&bytes, why);
        }
        if !matches!(ready, Ok(1..)) {
            continue;
        }
        match reader.read(&mut chunk) {
            Ok(0) => return Words::of(&bytes),
            Ok(length) if (bytes.len() + length) as u64 <= WORDS_CAP => {
                bytes.extend_from_slice(&chunk[..length])
            }
            Ok(_) => return failed(&[], "the helper said too much".into()),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return failed(&bytes, e.to_string()),
        }
    }
}

/// Returns the program that the helper has become, and reaps all others.
fn conclude(mut helper: Child, words: Words) -> Result<Jailed, Failure> {
    let Words { became, report, failure } = words;
    let pid = became.unwrap_or(helper.id());
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // The process is a child of this one that was not reaped, so that its number is its own, whether it runs or not.
    let handle = raw.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    if became.is_some() {
        let _ = helper.wait();
    }
    let failure = match (failure, report, handle) {
        (None, Some(report), Some(handle)) => return Ok(Jailed { pid, handle, report }),
        (Some(failure), _, handle) => (failure, handle),
        (None, None, handle) => (Failure::new(What::Helper, "the helper ended without a word"), handle),
        (None, Some(_), None) => (Failure::new(What::Helper, "no handle on the process"), None),
    };
    let (failure, handle) = failure;
    if let Some(handle) = &handle {
        let _ = pidfd_send_signal(handle, Signal::KILL);
        let _ = end_of(handle);
    } else if became.is_none() {
        let _ = helper.kill();
        let _ = helper.wait();
    }
    Err(failure)
}

/// Says which layers of a jail can be had here, by entering it with the programs and libraries of the host alone.
///
/// # Errors
/// When the helper does not run at all.
pub fn probe(helper: &Path, plan: Plan) -> Result<Report, Failure> {
    let plan = Plan { level: Level::BestEffort, ..plan }.with_system();
    let entry = Entry::new(&plan)?;
    let mut command = entry.trial(helper);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let jailed = entry.start(&mut command)?;
    // It ends by itself.
    jailed.end();
    Ok(jailed.report)
}

impl Jailed {
    /// Waits for the end of the program and returns how it ended; `None` when that is not to be had any more.
    pub fn end(&self) -> Option<End> {
        end_of(&self.handle)
    }
}

/// Waits for the end of a child and reaps it.
pub fn end_of(handle: &OwnedFd) -> Option<End> {
    loop {
        match waitid(WaitId::PidFd(handle.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => {
                return Some(End { code: status.exit_status(), signal: status.terminating_signal() });
            }
            Err(rustix::io::Errno::INTR) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}
