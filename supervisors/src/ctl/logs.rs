//! Prints the output of VMs. The launcher has the logs: it is executed in place of this program for one VM, and beside it
//! for several.

use super::events::now_ms;
use super::failure::Failure;
use super::options::Span;
use super::session::find;
use super::view::find as find_vm;
use crate::exit::ProgramExit;
use crate::format::{shown, shown_lines};
use crate::output;
use pepita_supervisor::VmName;
use pepita_supervisor::control::{Call, Client};
use pepita_wire::record::{CallError, CallErrorKind};
use serde_json::Value;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{ExitStatus, Stdio};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{ChildStderr, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The longest part of a line that is printed as one line, in bytes: a daemon may print without any end of line.
const LINE_CAP: u64 = 64 << 10;

/// The number of lines that wait to be printed.
const LINES: usize = 64;

/// Prints the output of VMs.
///
/// # Errors
/// When a target is unknown, or the launcher fails. For one VM returns only after a failure: the launcher takes the place
/// of this program.
pub(super) async fn print_logs(
    mut client: Client,
    targets: &[String],
    follow: bool,
    previous: Option<u8>,
    span: &Span,
) -> Result<(), Failure> {
    let now = now_ms();
    let (since, until) = span.bounds(now)?;
    let (status, found) = find(&mut client, targets).await?;
    let version = client.call(Call::Version).await?;
    let Some(pepita) = version["pepita"].as_str() else {
        let message = "the supervisor does not find its launcher any more";
        return Err(Failure::new(ProgramExit::Unavailable, message));
    };
    let run_dir = version["run_dir"].as_str().map(|dir| ["--run-dir".into(), dir.into()]);
    let run_dir: Vec<OsString> = run_dir.into_iter().flatten().collect();
    // The launcher counts from its own now, a moment later.
    let ago = |option: &str, ms: u64| [option.into(), format!("{}ms", now.saturating_sub(ms)).into()];
    let mut options: Vec<OsString> = Vec::new();
    if follow {
        options.extend(["--follow".into(), "--restarts".into()]);
    }
    options.extend(previous.map(|number| format!("--previous={number}").into()));
    options.extend(since.into_iter().flat_map(|ms| ago("--since", ms)));
    // Nothing is newer than now.
    options.extend(until.filter(|ms| *ms < now).into_iter().flat_map(|ms| ago("--until", ms)));
    let arguments = |vm: &str| -> Result<Vec<OsString>, Failure> {
        let id = VmName::new(vm).map_err(|_| Failure::no_such_vm(vm))?.id().to_string();
        let name = ["logs".into(), "--name".into(), id.into()];
        Ok(run_dir.iter().cloned().chain(name).chain(options.iter().cloned()).collect())
    };
    // The launcher says itself how many earlier ends it has kept.
    let is_meant = |silent: &Silent| !follow && (previous.is_none() || silent.has_never_run);
    let silent = |vm: &str| Silent::of(vm, &status).filter(is_meant);
    if let ([vm], true) = (&found.vms[..], found.by_name) {
        if let Some(silent) = silent(vm) {
            return silent.print_kept(Command::new(pepita), arguments(vm)?).await;
        }
        let error = std::process::Command::new(pepita).args(arguments(vm)?).exec();
        return Err(Failure::new(ProgramExit::Unavailable, format!("{pepita}: {error}")));
    }
    let mut outputs = Vec::new();
    for vm in &found.vms {
        let mut command = Command::new(pepita);
        command.args(arguments(vm)?).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        outputs.push(Source { vm: vm.clone(), command, silent: silent(vm) });
    }
    if follow { all_at_once(outputs).await } else { one_by_one(outputs).await }
}

/// A VM that does not run, and of which there may be no output.
struct Silent {
    /// The sentence for the case that there is none.
    why: String,
    has_never_run: bool,
}

impl Silent {
    /// Returns `None` for a VM that runs: the launcher has a log of it.
    fn of(name: &str, status: &Value) -> Option<Self> {
        let (_, vm) = find_vm(status, name)?;
        let incarnation = vm["incarnation"].as_u64();
        let why = match (vm["phase"].as_str()?, incarnation) {
            ("starting" | "running" | "ready" | "unhealthy" | "paused" | "stopping" | "unknown", _) => {
                return None;
            }
            ("stopped", Some(0)) => format!("{name} has never run; `pepitactl start {name}` starts it"),
            (phase, Some(0)) => format!("{name} has never run: it is {phase}"),
            (phase, _) => match vm["reason"].as_str() {
                Some(reason) => format!("no output of {name} is kept: it is {phase}: {reason}"),
                None => format!("no output of {name} is kept: it is {phase}"),
            },
        };
        Some(Self { why, has_never_run: incarnation == Some(0) })
    }

    /// Prints what the launcher has kept of the output of this VM.
    async fn print_kept(self, mut command: Command, arguments: Vec<OsString>) -> Result<(), Failure> {
        command.args(arguments).arg("--json").stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| unavailable(&e))?;
        let error = errors_of(child.stderr.take()).await;
        let ended = child.wait().await.map_err(|e| unavailable(&e))?;
        self.judge(ended, error)
    }

    /// Returns how the launcher's search for the output has ended.
    fn judge(self, ended: ExitStatus, error: Option<CallError>) -> Result<(), Failure> {
        match error {
            Some(error) if error.kind == CallErrorKind::NoSuchVm => {
                Err(Failure::new(ProgramExit::Refused, self.why))
            }
            Some(error) if error.kind == CallErrorKind::Io => {
                Err(Failure::new(ProgramExit::Output, error.message))
            }
            Some(error) => Err(Failure::new(ProgramExit::Failed, error.message)),
            None if ended.success() => Ok(()),
            None => Err(Failure::new(ProgramExit::Failed, format!("the launcher has failed: {ended}"))),
        }
    }
}

/// Passes on what a launcher that was called with `--json` says on standard error, and returns the error of its call.
async fn errors_of(stderr: Option<ChildStderr>) -> Option<CallError> {
    let mut lines = BufReader::new(stderr?).lines();
    let mut error = None;
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line) {
            Ok(told) => error = Some(told),
            Err(_) => output::print_error(shown(&line)),
        }
    }
    error
}

fn unavailable(error: &std::io::Error) -> Failure {
    Failure::new(ProgramExit::Unavailable, format!("the launcher: {error}"))
}

/// The output of a VM that is to be printed.
struct Source {
    vm: String,
    command: Command,
    silent: Option<Silent>,
}

async fn one_by_one(outputs: Vec<Source>) -> Result<(), Failure> {
    for source in outputs {
        let (sender, mut lines) = mpsc::channel(LINES);
        let reading = tokio::spawn(read(source, sender));
        print_lines(&mut lines).await?;
        reading.await.unwrap_or(Ok(()))?;
    }
    Ok(())
}

async fn all_at_once(outputs: Vec<Source>) -> Result<(), Failure> {
    let (sender, mut lines) = mpsc::channel(LINES);
    let mut readers = JoinSet::new();
    for source in outputs {
        readers.spawn(read(source, sender.clone()));
    }
    drop(sender);
    print_lines(&mut lines).await?;
    while let Some(read) = readers.join_next().await {
        read.unwrap_or(Ok(()))?;
    }
    Ok(())
}

/// Prints lines until there are no more. A signal ends this program in order, so that no launcher is left that follows
/// the output of a VM for nobody.
async fn print_lines(lines: &mut mpsc::Receiver<Vec<u8>>) -> Result<(), Failure> {
    let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    let [Ok(mut int), Ok(mut term), Ok(mut hup)] = signals else {
        return Err(Failure::new(ProgramExit::Failed, "signals cannot be handled"));
    };
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            _ = int.recv() => return Err(Failure::OutputClosed),
            _ = term.recv() => return Err(Failure::OutputClosed),
            _ = hup.recv() => return Err(Failure::OutputClosed),
        };
        let Some(line) = line else { return Ok(()) };
        output::try_write(&line)?;
    }
}

/// Reads the output of a launcher and sends it on, line by line, each with the name of the VM.
///
/// A VM of a group that has no output is told of, and is no failure of the whole.
async fn read(source: Source, lines: mpsc::Sender<Vec<u8>>) -> Result<(), Failure> {
    let Source { vm, mut command, silent } = source;
    if silent.is_some() {
        command.arg("--json").stderr(Stdio::piped());
    }
    let mut child = command.spawn().map_err(|e| unavailable(&e))?;
    let errors = tokio::spawn(errors_of(child.stderr.take()));
    let stdout = child.stdout.take().map(BufReader::new);
    if let Some(mut stdout) = stdout {
        while let Some(line) = next_line(&vm, &mut stdout).await {
            // Nobody prints any more.
            if lines.send(line).await.is_err() {
                return Ok(());
            }
        }
    }
    let error = errors.await.unwrap_or_default();
    let status = child.wait().await.map_err(|e| unavailable(&e))?;
    if let Some(silent) = silent {
        return match silent.judge(status, error) {
            Err(Failure::Error { exit: ProgramExit::Refused, message }) => {
                output::print_error(format_args!("pepitactl: {}", shown_lines(&message)));
                Ok(())
            }
            judged => judged,
        };
    }
    // The launcher has said why.
    if status.success() {
        Ok(())
    } else {
        Err(Failure::new(ProgramExit::Failed, format!("no output of {vm}")))
    }
}

async fn next_line(vm: &str, output: &mut BufReader<impl AsyncRead + Unpin>) -> Option<Vec<u8>> {
    let mut line = format!("{vm} | ").into_bytes();
    let name = line.len();
    // An error ends the output, like its end.
    let _ = output.take(LINE_CAP).read_until(b'\n', &mut line).await;
    if line.len() == name {
        return None;
    }
    if line.last() != Some(&b'\n') {
        line.push(b'\n');
    }
    Some(line)
}
