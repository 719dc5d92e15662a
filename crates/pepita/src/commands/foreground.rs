//! `pepita run` in the foreground: streams the output, stops the VM on Ctrl-C and when its terminal or its reader goes
//! away, exits as the daemon does.

use super::logs::{self, Disturbance};
use crate::client;
use crate::error::{Result, call_error, eprint_line, system};
use crate::host::patience;
use crate::host::signals::EndSignals;
use crate::ops::destroy::{How, destroy, kill, stop_signal};
use crate::ops::follow::follow;
use crate::ops::launch::Caller;
use crate::rundir::{RunDir, files};
use pepita_wire::record::CallErrorKind;
use pepita_wire::{Exit, ExitRecord, MonitorRequest, VmId};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, mpsc};

/// How long the daemon may take to end after Ctrl-C before it is killed, in milliseconds. (`docker stop` gives as
/// long.)
const GRACE_MS: u64 = 10_000;

/// A command in the foreground, as the caller of a launch: a signal gives the launch up.
#[derive(Debug)]
pub(super) struct Foreground(EndSignals);

impl Foreground {
    /// Takes the signals that ask for an end. Has to be called before the launch, so that none is missed.
    pub(super) fn begin() -> Result<Self> {
        EndSignals::take().map(Self).map_err(|e| system("signals", e))
    }

    /// Returns the exit code after a launch that was given up: 128 + the signal.
    pub(super) fn interrupted(&self) -> Option<ExitCode> {
        let signal = self.0.next()?;
        Some(ExitCode::from(u8::try_from(128 + signal).unwrap_or(125)))
    }
}

impl Caller for Foreground {
    fn gives_up(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    fn is_heard(&self) -> bool {
        true
    }
}

/// Prints the output of a VM until the VM has ended. A signal, and a reader that goes away, stop the VM. Returns the exit
/// code for this process.
pub(super) fn stay(run_dir: &RunDir, name: &VmId, rm: bool, foreground: &Foreground) -> Result<ExitCode> {
    let mut is_stopped = false;
    // Of several orders for an end at once, one is enough as long as it is being carried out.
    let killing = Arc::new(Mutex::new(()));
    let mut stop = |force: bool| {
        let (run_dir, name, killing) = (run_dir.clone(), name.clone(), Arc::clone(&killing));
        let force = force && is_stopped;
        is_stopped = true;
        // A monitor that does not answer must not hold up the output, nor the next signal.
        let _ = patience::spawn(move || match force {
            true => kill_once(&run_dir, &name, &killing),
            false => {
                let dir = run_dir.vm(&name);
                let request = MonitorRequest::Stop {
                    signal: stop_signal(&dir),
                    timeout_ms: GRACE_MS,
                    force,
                    if_idle: false,
                };
                let _ = client::ask(&dir, request);
            }
        });
    };
    let exit = until_end(run_dir, name, || {
        logs::stream(run_dir, name, &foreground.0, |disturbance| match disturbance {
            // The first signal stops the VM gracefully, the second at once.
            Disturbance::Signal(_) => stop(true),
            Disturbance::ReaderGone => stop(false),
        })
    })?;
    if rm {
        destroy(run_dir, name, How::Force)?;
    }
    Ok(ExitCode::from(explain(&exit)))
}

/// Returns how a VM ended whose output `stream` prints until then.
pub(super) fn until_end(
    run_dir: &RunDir,
    name: &VmId,
    stream: impl FnOnce() -> Result<()>,
) -> Result<ExitRecord> {
    // The end is awaited from the beginning: another program may remove the VM with its record.
    let (sender, ending) = mpsc::channel();
    let (watched, vm) = (run_dir.clone(), name.clone());
    patience::spawn(move || drop(sender.send(follow(&watched, &vm, None, |_| false))))
        .map_err(|e| system("a thread", e))?;
    stream()?;
    let status = match ending.recv().unwrap_or_else(|_| follow(run_dir, name, None, |_| false)) {
        Err(e) if e.kind == CallErrorKind::NoSuchVm => {
            let why = format!("VM {name} was removed by another program, and its record with it");
            return Err(call_error(CallErrorKind::Internal, why));
        }
        status => status?,
    };
    let exit = status.exit.or_else(|| files::exit(&run_dir.vm(name)).ok());
    exit.ok_or_else(|| call_error(CallErrorKind::Internal, format!("VM {name} ended without a record")))
}

/// Ends a VM at once, unless that is being done.
fn kill_once(run_dir: &RunDir, name: &VmId, killing: &Mutex<()>) {
    let Ok(_turn) = killing.try_lock() else { return };
    match kill(run_dir, name) {
        // The VM was removed meanwhile, which is an end.
        Err(e) if e.kind == CallErrorKind::NoSuchVm => {}
        Err(e) => {
            let advice = format!("`pepita destroy --force --name {name}` ends the VM");
            eprint_line(format_args!("pepita: {name}: {}; {advice}", e.message));
        }
        Ok(()) => {}
    }
}

/// Returns the exit code, and prints why the VM ended unless the daemon exited.
pub(super) fn explain(exit: &ExitRecord) -> u8 {
    let code = code(exit);
    if !matches!(exit.daemon_exit(), Some(Exit::Exited { .. })) {
        let why = exit.evidence.join("; ");
        eprint_line(format_args!("pepita: {}: {}: {why}", exit.name, exit.exit));
    }
    code
}

/// Returns the exit code as `docker run` has it: the daemon's, 128 + the signal, 126 or 127 when the program cannot be
/// executed, 125 when the VM failed.
fn code(exit: &ExitRecord) -> u8 {
    code_of(exit.daemon_exit())
}

/// Returns the exit code for the end of a program in a guest.
pub(super) fn code_of(exit: Option<&Exit>) -> u8 {
    match exit {
        Some(Exit::Exited { code }) => u8::try_from(*code).unwrap_or(125),
        Some(Exit::Signalled { signal, .. }) => u8::try_from(128 + signal).unwrap_or(125),
        // The OOM killer of Linux sends SIGKILL, so the exit code is the same as for that signal.
        Some(Exit::GuestOom) => 128 + 9,
        Some(Exit::NotExecutable { errno: 2, .. }) => 127,
        Some(Exit::NotExecutable { .. }) => 126,
        Some(
            Exit::GuestPanic { .. }
            | Exit::GuestReset
            | Exit::HostOom
            | Exit::VmmCrashed(_)
            | Exit::VmmRefused { .. }
            | Exit::BootTimeout
            | Exit::AgentLost { .. }
            | Exit::TransportLost
            | Exit::ShareLost { .. }
            | Exit::StopRequested
            | Exit::Killed
            | Exit::Unknown,
        )
        | None => 125,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_that_of_the_daemon() {
        let exec = |errno| Exit::NotExecutable { path: String::new(), errno, message: String::new() };
        let cases = [
            (Exit::code(42), 42),
            (Exit::code(255), 255),
            (Exit::signal(11), 139),
            (Exit::GuestOom, 137),
            (exec(2), 127),
            (exec(13), 126),
            (Exit::Unknown, 125),
        ];
        for (exit, expected) in cases {
            assert_eq!(code(&ExitRecord { exit, ..Default::default() }), expected);
        }
        let stopped =
            ExitRecord { exit: Exit::StopRequested, daemon: Some(Exit::code(7)), ..Default::default() };
        assert_eq!(code(&stopped), 7);
    }
}
