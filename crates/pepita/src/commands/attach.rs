//! `pepita run` in the foreground: streams the output, stops the VM on Ctrl-C, exits as the daemon does.

use super::logs;
use crate::client;
use crate::error::{Result, call_error, eprint_line, system};
use crate::ops::destroy;
use crate::ops::follow::follow;
use crate::rundir::RunDir;
use crate::rundir::files;
use nix::sys::signal::{SigSet, Signal};
use pepita_wire::record::CallErrorKind;
use pepita_wire::{ExitRecord, VmId};
use serde_json::json;
use std::process::ExitCode;

/// For the daemon to end after Ctrl-C; then it is killed. (`docker stop` gives as long.)
const GRACE_MS: u64 = 10_000;

/// Stays with a VM until it has ended.
pub(super) fn attach(run_dir: &RunDir, name: &VmId, rm: bool) -> Result<ExitCode> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    // Before any thread, so that all have them blocked and one waits for them.
    signals.thread_block().map_err(|e| system("signals", e))?;
    let dir = run_dir.vm(name);
    let stopper = dir.clone();
    std::thread::spawn(move || {
        // The first asks politely, the second does not.
        let mut force = false;
        while signals.wait().is_ok() {
            let _ = client::ask(&stopper, "stop", json!({ "timeout_ms": GRACE_MS, "force": force }));
            force = true;
        }
    });
    logs::stream(run_dir, name)?;
    let status = follow(run_dir, name, None, |_| false)?;
    let exit = status.exit.or_else(|| files::exit_in(&run_dir.vm(name)));
    let exit =
        exit.ok_or_else(|| call_error(CallErrorKind::Internal, format!("VM {name} ended without a record")))?;
    if rm {
        destroy::destroy(run_dir, name, destroy::How::Force)?;
    }
    Ok(ExitCode::from(explain(&exit)))
}

/// The exit code, as `docker run` has it; what the daemon did not do itself is told in words.
fn explain(exit: &ExitRecord) -> u8 {
    let code = code(exit);
    if exit.guest.as_ref().is_none_or(|guest| guest.code.is_none()) {
        let why = exit.evidence.join("; ");
        eprint_line(format_args!("pepita: {}: {}: {why}", exit.name, exit.reason));
    }
    code
}

fn code(exit: &ExitRecord) -> u8 {
    let Some(guest) = &exit.guest else { return 125 };
    match (guest.code, guest.signal, &guest.exec) {
        (Some(code), ..) => u8::try_from(code).unwrap_or(125),
        (None, Some(signal), _) => u8::try_from(128 + signal).unwrap_or(125),
        (None, None, Some(exec)) if exec.errno == 2 => 127,
        (None, None, Some(_)) => 126,
        (None, None, None) => 125,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pepita_wire::{DaemonExit, ExecError};

    #[test]
    fn it_exits_as_the_daemon_does() {
        let exec = |errno| DaemonExit {
            exec: Some(ExecError { errno, ..Default::default() }),
            ..Default::default()
        };
        let cases = [
            (Some(DaemonExit::code(42)), 42),
            (Some(DaemonExit::code(255)), 255),
            (Some(DaemonExit::signal(11)), 139),
            (Some(exec(2)), 127),
            (Some(exec(13)), 126),
            (None, 125),
        ];
        for (guest, expected) in cases {
            assert_eq!(code(&ExitRecord { guest, ..Default::default() }), expected);
        }
    }
}
