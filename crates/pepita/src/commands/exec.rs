//! `pepita exec`: runs a command in a guest, and exits as the command does.

use super::foreground::code_of;
use super::order::silent;
use crate::cli::Exec;
use crate::client::{self, AgentStream};
use crate::error::{About, Result, call_error, eprint_line, system};
use crate::host::signals::EndSignals;
use crate::host::terminal::{Raw, is_terminal, size_of};
use crate::ops::exec::{End, Ends, carry};
use crate::ops::follow::follow;
use crate::reconcile;
use crate::rundir::RunDir;
use pepita_wire::agent::ExecStream;
use pepita_wire::record::{CallErrorKind, Reach, VcpuState};
use pepita_wire::streams::TerminalSize;
use pepita_wire::{Ask, ErrorKind, Exit, StatusRecord, VmId, WireError};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

/// The exit code when the command could not be run, or its end is not known (docker).
pub(super) const FAILED: u8 = 125;

/// The size of a terminal whose own size is not known, as every terminal had it at first.
const USUAL: TerminalSize = TerminalSize { rows: 24, columns: 80 };

/// The time that a guest has to boot before a command in it is given up.
const BOOT: Duration = Duration::from_secs(60);

/// The time that the monitor may take to see the end of a VM whose agent has closed a connection.
const ENDING: Duration = Duration::from_secs(5);

/// Carries out `pepita exec`.
pub(super) fn exec(run_dir: &RunDir, name: &VmId, exec: Exec) -> Result<ExitCode> {
    // Before anything else, so that no signal is missed. There is one thread.
    let signals = EndSignals::take_with_resize().map_err(|e| system("signals", e))?;
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    if exec.tty && exec.interactive && !is_terminal(&stdin) {
        let why = "the standard input is no terminal: leave out --tty";
        return Err(call_error(CallErrorKind::Usage, why));
    }
    let size = || size_of(&stdin).or_else(|| size_of(&stdout)).unwrap_or(USUAL);
    let terminal = exec.tty.then(size);
    let mut env: BTreeMap<String, String> = BTreeMap::new();
    if exec.tty {
        env.extend(std::env::var("TERM").ok().map(|term| ("TERM".to_owned(), term)));
    }
    env.extend(exec.env);
    let request = ExecStream {
        command: exec.command,
        env,
        dir: exec.workdir,
        user: exec.user,
        input: exec.interactive,
        terminal,
    };
    let ask = Ask::ExecStream(request);
    ask.check_length()
        .map_err(|e| call_error(CallErrorKind::Usage, format!("command and environment: {e}")))?;
    let agent = open(run_dir, name, ask)?;
    let end = {
        let ends = Ends {
            input: exec.interactive.then(|| stdin.as_fd()),
            output: stdout.as_fd(),
            error: stderr.as_fd(),
            signals: &signals,
            terminal: exec.tty.then(|| stdin.as_fd()),
        };
        // From here on the keys belong to the command.
        let raw = (exec.tty && exec.interactive).then(|| Raw::begin(stdin.as_fd())).transpose();
        let _raw = raw.map_err(|e| system("the terminal", e))?;
        carry(&agent, &ends).map_err(|e| system("the streams of the command", e)).about(name.as_str())?
    };
    match end {
        End::Ended(exit) => {
            if let Exit::NotExecutable { .. } = exit {
                eprint_line(format_args!("pepita: {name}: {exit}"));
            }
            Ok(ExitCode::from(code_of(Some(&exit))))
        }
        End::Left(signal) => Ok(ExitCode::from(u8::try_from(128 + signal).unwrap_or(FAILED))),
        End::Lost => {
            // The connection closes with the VM, a little before its monitor knows of the end.
            let why = match follow(run_dir, name, Some(ENDING), |_| false) {
                Ok(status) => format!("VM {name} has ended ({})", status.state),
                Err(e) if e.kind == CallErrorKind::Timeout => {
                    "the guest agent has closed the connection before the end of the command".to_owned()
                }
                Err(e) => e.message,
            };
            Err(call_error(CallErrorKind::NoSuchVm, why)).about(name.as_str())
        }
    }
}

/// Waits until the agent of a guest that boots can be asked. A VM that has ended is the caller's to tell.
///
/// # Errors
/// When the virtual CPUs are paused, the monitor does not answer, or the guest takes too long.
fn await_agent(run_dir: &RunDir, name: &VmId) -> Result<()> {
    let refused = |why: String| Err(call_error(CallErrorKind::TryAgain, why)).about(name.as_str());
    let is_paused =
        |status: &StatusRecord| status.vcpus.is_some_and(|vcpus| vcpus.state == VcpuState::Paused);
    let mut status = reconcile::status(run_dir, name)?;
    if status.reach == Reach::Silent {
        return refused(silent(name, status.monitor_pid));
    }
    if !status.agent.ready && !status.state.is_terminal() && !is_paused(&status) {
        status = follow(run_dir, name, Some(BOOT), |status| status.agent.ready || is_paused(status))?;
    }
    match is_paused(&status) {
        true => refused(format!(
            "its virtual CPUs are paused; `pepita signal --signal CONT {name}` lets them go on"
        )),
        false => Ok(()),
    }
}

/// Makes the request to the guest agent, over a connection of its own.
pub(super) fn open(run_dir: &RunDir, name: &VmId, ask: Ask) -> Result<OwnedFd> {
    let what = if matches!(ask, Ask::Copy(_)) { "copies no files" } else { "runs no commands with streams" };
    await_agent(run_dir, name)?;
    let dir = run_dir.vm(name);
    let opened =
        AgentStream::open(&dir).and_then(|agent| agent.map_or_else(|e| Ok(Err(e)), |it| it.ask(ask)));
    let failed = match opened {
        Ok(Ok(agent)) => return Ok(agent),
        Ok(Err(WireError { kind: ErrorKind::Unsupported, .. })) => {
            let why = format!(
                "the monitor or the guest agent of this VM is of an older version, which {what}: build its image with \
                 this version, and start it again"
            );
            return Err(call_error(CallErrorKind::Usage, why)).about(name.as_str());
        }
        Ok(Err(refusal)) => return Err(client::refused(refusal)).about(name.as_str()),
        Err(e) => e,
    };
    // The reason why there is no monitor is a better message than the failed connection.
    let status = reconcile::status(run_dir, name)?;
    let why = match status.state.is_terminal() {
        true => call_error(CallErrorKind::NoSuchVm, format!("VM {name} has ended ({})", status.state)),
        false => call_error(CallErrorKind::TryAgain, format!("the guest agent cannot be reached: {failed}")),
    };
    Err(why).about(name.as_str())
}
