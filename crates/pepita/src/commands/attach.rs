//! `pepita run` in the foreground: streams the output, stops the VM on Ctrl-C, exits as the daemon does.

use super::logs;
use crate::client;
use crate::error::{Result, call_error, eprint_line, system};
use crate::ops::destroy::{How, destroy};
use crate::ops::follow::follow;
use crate::rundir::{RunDir, files};
use nix::sys::signal::{SigSet, Signal};
use pepita_wire::record::CallErrorKind;
use pepita_wire::{Exit, ExitRecord, MonitorRequest, VmId};
use std::process::ExitCode;

/// How long the daemon may take to end after Ctrl-C before it is killed, in milliseconds. (`docker stop` gives as
/// long.)
const GRACE_MS: u64 = 10_000;

/// Prints the output of a VM until the VM has ended. Returns the exit code for this process.
pub(super) fn attach(run_dir: &RunDir, name: &VmId, rm: bool) -> Result<ExitCode> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    // The signals are blocked before any thread is started, so that they reach only the thread that waits for them.
    signals.thread_block().map_err(|e| system("signals", e))?;
    let dir = run_dir.vm(name);
    let stopper = dir.clone();
    std::thread::spawn(move || {
        // The first signal stops the VM gracefully, the second at once.
        let mut force = false;
        while signals.wait().is_ok() {
            let stop =
                MonitorRequest::Stop { signal: pepita_wire::Signal::TERM, timeout_ms: GRACE_MS, force };
            let _ = client::ask(&stopper, stop);
            force = true;
        }
    });
    logs::stream(run_dir, name)?;
    let status = follow(run_dir, name, None, |_| false)?;
    let exit = status.exit.or_else(|| files::exit(&run_dir.vm(name)).ok());
    let exit =
        exit.ok_or_else(|| call_error(CallErrorKind::Internal, format!("VM {name} ended without a record")))?;
    if rm {
        destroy(run_dir, name, How::Force)?;
    }
    Ok(ExitCode::from(explain(&exit)))
}

/// Returns the exit code, and prints why the VM ended unless the daemon exited.
fn explain(exit: &ExitRecord) -> u8 {
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
    match exit.daemon_exit() {
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
