//! A process of a VM, and the start of one.

use crate::error::{CallError, Result, call_error, io, system};
use crate::host::process_id::{END_DEADLINE, ProcessId};
use crate::host::wait::wait_readable;
use crate::host::{inherited, setsid, strays};
use crate::rundir::{layout, monitor_log};
use crate::vm_config::VmConfig;
use pepita_jail::{End, Entry, Failure, Jailed, Plan, Report, What, end_of};
use pepita_wire::ProcessExit;
use pepita_wire::environment::VM_DIR;
use pepita_wire::record::CallErrorKind;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A process of a VM, started by this monitor or by a former one.
#[derive(Debug)]
pub struct Process {
    /// The identity of the process.
    pub identity: ProcessId,
    is_child: bool,
    handle: OwnedFd,
}

impl Process {
    /// Starts a process.
    pub(super) fn spawn(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().map_err(|e| {
            let is_missing = matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied);
            let kind = if is_missing { CallErrorKind::VmmMissing } else { CallErrorKind::TryAgain };
            call_error(kind, format!("{program}: {e}"))
        })?;
        Self::of_child(child, Path::new(&program))
    }

    /// Returns the process that was just started.
    pub(super) fn of_child(child: Child, program: &Path) -> Result<Self> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let handle = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        match handle {
            Some(handle) => Ok(Self::new(child.id(), handle)),
            None => Err(system(&program.to_string_lossy(), "no handle on the process")),
        }
    }

    /// Returns a child of this process that was not reaped yet, so that its identity can be read even if it has ended.
    fn new(pid: u32, handle: OwnedFd) -> Self {
        Self { identity: ProcessId::of_child(pid), is_child: true, handle }
    }

    /// Returns a process that a former monitor started, if the process still runs.
    pub fn adopt(identity: ProcessId) -> Option<Self> {
        identity.open().map(|handle| Self { identity, is_child: false, handle })
    }

    /// Returns the pidfd, which is readable once the process has ended.
    pub fn handle(&self) -> &OwnedFd {
        &self.handle
    }

    /// Sends a signal to the process, unless the process has ended.
    pub fn signal(&self, signal: Signal) {
        // The process may end at this moment, so an error is ignored.
        let _ = pidfd_send_signal(&self.handle, signal);
    }

    /// Returns how the process ended, once its pidfd is readable; `None` when a former monitor was its parent.
    pub fn end(&mut self) -> Option<ProcessExit> {
        let End { code, signal } = self.is_child.then(|| end_of(&self.handle)).flatten()?;
        // It is reaped now.
        self.is_child = false;
        Some(ProcessExit { code, signal })
    }

    /// Kills the process and waits until the process is gone.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        wait_readable(&self.handle, END_DEADLINE);
        self.end();
    }
}

/// Starts a program of the VM that inherits these descriptors, in a jail or without one. Returns what is said of the layers of
/// its jail.
pub(super) fn start(
    config: &VmConfig,
    program: &Path,
    args: Vec<OsString>,
    inherited: &[BorrowedFd<'_>],
    jail: Option<Plan>,
) -> Result<(Process, Option<Report>)> {
    let Some(plan) = jail else {
        let mut command = command(program, config)?;
        command.args(args);
        inherit(inherited.iter().copied())?;
        return Ok((Process::spawn(&mut command)?, None));
    };
    let plan = Plan { keep: inherited.iter().map(AsRawFd::as_raw_fd).collect(), ..plan };
    let entry = Entry::new(&plan).map_err(refusal)?;
    let helper = std::env::current_exe().map_err(|e| system("our own program", e))?;
    let mut command = dressed(entry.command(&helper, program), config)?;
    command.args(args);
    inherit(inherited.iter().copied())?;
    let Jailed { pid, handle, report } = entry.start(&mut command).map_err(refusal)?;
    Ok((Process::new(pid, handle), Some(report)))
}

/// Returns the error about a program that was not started in its jail.
pub(super) fn refusal(failure: Failure) -> CallError {
    let kind = match failure.what {
        What::Layer(_) => {
            let why = format!("{failure}; without this layer the VM starts with --jail best-effort");
            return call_error(CallErrorKind::Permission, why);
        }
        What::Plan => CallErrorKind::Internal,
        What::File => CallErrorKind::Io,
        What::Program if failure.is_missing() => CallErrorKind::VmmMissing,
        What::Program | What::Helper => CallErrorKind::TryAgain,
    };
    call_error(kind, failure.to_string())
}

/// Returns a call of a program of the VM, with the output of all of them in the monitor's log.
pub(super) fn command(program: &Path, config: &VmConfig) -> Result<Command> {
    dressed(Command::new(program), config)
}

/// Gives a call what the processes of the VM have.
fn dressed(mut command: Command, config: &VmConfig) -> Result<Command> {
    let path = Path::new(layout::MONITOR_PIPE);
    let log = monitor_log::writer().map_err(|e| io(path, e))?;
    let same = log.try_clone().map_err(|e| io(path, e))?;
    let here = std::env::current_dir().map_err(|e| system("current directory", e))?;
    inherited::clean_environment(&mut command);
    command.env(VM_DIR, here).env(strays::RECORD, config.carried().to_json());
    command.stdin(Stdio::null()).stdout(log).stderr(same);
    setsid::in_own_session(&mut command);
    Ok(command)
}

/// Lets the next process inherit descriptors. The monitor has one thread, so no other process is started in between.
pub(super) fn inherit<'a>(fds: impl Iterator<Item = std::os::fd::BorrowedFd<'a>>) -> Result<()> {
    for fd in fds {
        fcntl_setfd(fd, FdFlags::empty()).map_err(|e| system("descriptor", e))?;
    }
    Ok(())
}
