//! Prints the output of VMs. The launcher has the logs: it is executed in place of this program for one VM, and beside it
//! for several, and for output that is followed: a VM may be removed from the configuration meanwhile.

use super::events::now_ms;
use super::failure::Failure;
use super::options::Span;
use super::session::{Session, find, part_of};
use super::view::find as find_vm;
use crate::exit::ProgramExit;
use crate::format::{shown, shown_lines};
use crate::output;
use pepita_supervisor::VmName;
use pepita_supervisor::control::{Call, Client};
use pepita_wire::record::{CallError, CallErrorKind};
use serde_json::Value;
use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{ChildStderr, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// The longest part of a line that is printed as one line, in bytes: a daemon may print without any end of line.
const LINE_CAP: usize = 64 << 10;

/// The silence after which the beginning of a line is printed as a line, when output is followed: a daemon may be waiting for
/// an answer to it.
const SILENCE: Duration = Duration::from_secs(1);

/// The number of lines that wait to be printed.
const LINES: usize = 64;

/// Prints the output of VMs.
///
/// # Errors
/// When a target is unknown, or the launcher fails. For one VM that is not followed returns only after a failure: the
/// launcher takes the place of this program.
pub(super) async fn print_logs(
    mut client: Client,
    targets: &[String],
    follow: bool,
    previous: Option<u8>,
    span: &Span,
) -> Result<(), Failure> {
    let (since, until) = span.bounds(now_ms())?;
    if let (true, Some(since)) = (follow, since) {
        wait_for(since).await?;
    }
    let now = now_ms();
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
    let is_one = found.vms.len() == 1 && found.by_name;
    if let ([vm], true, false) = (&found.vms[..], is_one, follow) {
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
        let form = if is_one { Form::AsItCame } else { Form::Named };
        outputs.push(Source { vm: vm.clone(), command, form, silent: silent(vm) });
    }
    if follow { follow_all(client, &found.vms, outputs).await } else { one_by_one(outputs).await }
}

/// Waits until a moment has come from which on output is to be printed.
async fn wait_for(ms: u64) -> Result<(), Failure> {
    let gone = output::reader_gone();
    tokio::pin!(gone);
    loop {
        let left = Duration::from_millis(ms.saturating_sub(now_ms()));
        if left.is_zero() {
            return Ok(());
        }
        tokio::select! {
            // The wall clock may be set meanwhile.
            () = sleep(left.min(SILENCE)) => {}
            () = &mut gone => return Err(Failure::OutputClosed),
        }
    }
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
    form: Form,
    silent: Option<Silent>,
}

/// The form in which output is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Byte for byte.
    AsItCame,
    /// Line by line, each with the name of its VM.
    Named,
}

/// The VMs that were removed from the configuration.
type Removed = watch::Receiver<HashSet<String>>;

/// The way in which the output of a VM has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The launcher has printed all.
    Complete,
    /// The VM was removed from the configuration: no more output is to come.
    Removed,
}

async fn one_by_one(outputs: Vec<Source>) -> Result<(), Failure> {
    for source in outputs {
        let (sender, mut lines) = mpsc::channel(LINES);
        let reading = tokio::spawn(read(source, sender, None));
        print_lines(&mut lines).await?;
        reading.await.unwrap_or(Ok(Ended::Complete))?;
    }
    Ok(())
}

async fn follow_all(client: Client, vms: &[String], outputs: Vec<Source>) -> Result<(), Failure> {
    let (sender, mut lines) = mpsc::channel(LINES);
    let (tell, removed) = watch::channel(HashSet::new());
    let watching = tokio::spawn(watch_removals(client, vms.to_vec(), tell));
    let mut readers = JoinSet::new();
    for source in outputs {
        readers.spawn(read(source, sender.clone(), Some(removed.clone())));
    }
    drop(sender);
    print_lines(&mut lines).await?;
    watching.abort();
    let mut all_removed = true;
    while let Some(read) = readers.join_next().await {
        all_removed &= read.unwrap_or(Ok(Ended::Complete))? == Ended::Removed;
    }
    // Each of them was told already.
    if all_removed { Err(Failure::new(ProgramExit::Failed, "")) } else { Ok(()) }
}

/// Watches which VMs are removed from the configuration. Without a supervisor none is: a later one may have them.
async fn watch_removals(client: Client, vms: Vec<String>, tell: watch::Sender<HashSet<String>>) {
    let watch = async {
        let mut session = Session::watch(client, part_of(&vms)).await?;
        loop {
            let status = session.status().await?;
            let gone: HashSet<String> =
                vms.iter().filter(|vm| find_vm(&status, vm).is_none()).cloned().collect();
            tell.send_if_modified(|told| {
                let is_news = *told != gone;
                *told = gone;
                is_news
            });
            if !session.changed().await? {
                return Ok::<(), Failure>(());
            }
        }
    };
    // The output goes on without the supervisor.
    let _ = watch.await;
    std::future::pending().await
}

/// Waits until a VM is removed from the configuration; for ever if that is not watched.
async fn removal(vm: &str, removed: &mut Option<Removed>) {
    if let Some(removed) = removed
        && removed.wait_for(|removed| removed.contains(vm)).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Prints lines until there are no more. A signal, and the end of the reader of the output, end this program in order, so
/// that no launcher is left that follows the output of a VM for nobody.
async fn print_lines(lines: &mut mpsc::Receiver<Vec<u8>>) -> Result<(), Failure> {
    let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    let [Ok(mut int), Ok(mut term), Ok(mut hup)] = signals else {
        return Err(Failure::new(ProgramExit::Failed, "signals cannot be handled"));
    };
    let gone = output::reader_gone();
    tokio::pin!(gone);
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            () = &mut gone => return Err(Failure::OutputClosed),
            _ = int.recv() => return Err(Failure::OutputClosed),
            _ = term.recv() => return Err(Failure::OutputClosed),
            _ = hup.recv() => return Err(Failure::OutputClosed),
        };
        let Some(line) = line else { return Ok(()) };
        output::try_write(&line)?;
    }
}

/// Reads the output of a launcher and sends it on. `removed` tells of VMs that are removed while their output is followed.
///
/// A VM of a group that has no output is told of, and is no failure of the whole.
async fn read(
    source: Source,
    lines: mpsc::Sender<Vec<u8>>,
    mut removed: Option<Removed>,
) -> Result<Ended, Failure> {
    let Source { vm, mut command, form, silent } = source;
    if silent.is_some() {
        command.arg("--json").stderr(Stdio::piped());
    }
    let mut child = command.spawn().map_err(|e| unavailable(&e))?;
    let errors = tokio::spawn(errors_of(child.stderr.take()));
    let stdout = child.stdout.take().map(BufReader::new);
    if let Some(mut stdout) = stdout {
        let patience = removed.is_some().then_some(SILENCE);
        let mut line = Vec::new();
        let mut is_removed = false;
        loop {
            let is_over = tokio::select! {
                biased;
                is_over = fill(&mut line, form, &mut stdout, patience) => is_over,
                () = removal(&vm, &mut removed), if !is_removed => {
                    // What was written before is still printed.
                    is_removed = true;
                    continue;
                }
                () = sleep(SILENCE), if is_removed => true,
            };
            let text = named(&vm, form, std::mem::take(&mut line));
            // An error says that nobody prints any more.
            if !text.is_empty() && lines.send(text).await.is_err() {
                return Ok(Ended::Complete);
            }
            if is_over && is_removed {
                output::print_error(format_args!("pepitactl: {vm} was removed from the configuration"));
                return Ok(Ended::Removed);
            }
            if is_over {
                break;
            }
        }
    }
    let error = errors.await.unwrap_or_default();
    let status = child.wait().await.map_err(|e| unavailable(&e))?;
    if let Some(silent) = silent {
        return match silent.judge(status, error) {
            Err(Failure::Error { exit: ProgramExit::Refused, message }) => {
                output::print_error(format_args!("pepitactl: {}", shown_lines(&message)));
                Ok(Ended::Complete)
            }
            judged => judged.map(|()| Ended::Complete),
        };
    }
    // The launcher has said why.
    if status.success() {
        Ok(Ended::Complete)
    } else {
        Err(Failure::new(ProgramExit::Failed, format!("no output of {vm}")))
    }
}

/// Reads into `line` until a piece of output is there that can be printed: a whole line, or, if lines are not wanted, what
/// there is. After a silence of this length the beginning of a line is such a piece, too. Returns whether the output is
/// over. What was read when this future is dropped stays in `line`.
async fn fill(
    line: &mut Vec<u8>,
    form: Form,
    output: &mut BufReader<impl AsyncRead + Unpin>,
    patience: Option<Duration>,
) -> bool {
    loop {
        let read = match patience.filter(|_| !line.is_empty()) {
            None => output.fill_buf().await,
            Some(patience) => match timeout(patience, output.fill_buf()).await {
                Ok(read) => read,
                Err(_) => return false,
            },
        };
        // An error ends the output, like its end.
        let bytes = read.unwrap_or_default();
        if bytes.is_empty() {
            return true;
        }
        let part = &bytes[..bytes.len().min(LINE_CAP - line.len())];
        let end = part.iter().position(|byte| *byte == b'\n');
        let part = match (form, end) {
            (Form::Named, Some(end)) => &part[..=end],
            (Form::Named, None) | (Form::AsItCame, _) => part,
        };
        let length = part.len();
        line.extend_from_slice(part);
        output.consume(length);
        if form == Form::AsItCame || end.is_some() || line.len() == LINE_CAP {
            return false;
        }
    }
}

/// Returns a piece of output as it is printed: a line has the name of its VM, and an end.
fn named(vm: &str, form: Form, piece: Vec<u8>) -> Vec<u8> {
    if form == Form::AsItCame || piece.is_empty() {
        return piece;
    }
    let mut line = format!("{vm} | ").into_bytes();
    line.extend(piece);
    if line.last() != Some(&b'\n') {
        line.push(b'\n');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test(start_paused = true)]
    async fn the_beginning_of_a_line_is_printed_after_a_silence_when_output_is_followed() {
        let (mut daemon, output) = tokio::io::duplex(1024);
        let mut output = BufReader::new(output);
        daemon.write_all(b"one\ntwo").await.expect("room");
        let mut line = Vec::new();
        let mut next = async |patience| {
            let is_over = fill(&mut line, Form::Named, &mut output, patience).await;
            (String::from_utf8(named("a", Form::Named, std::mem::take(&mut line))).expect("text"), is_over)
        };
        assert_eq!(next(Some(SILENCE)).await, ("a | one\n".into(), false));
        assert_eq!(next(Some(SILENCE)).await, ("a | two\n".into(), false));
        daemon.write_all(b"three").await.expect("room");
        assert!(timeout(SILENCE * 10, next(None)).await.is_err(), "without a limit lines are whole");
        drop(daemon);
        assert_eq!(next(None).await, ("a | three\n".into(), true), "what was read is not lost");
        assert_eq!(next(None).await, (String::new(), true));
    }
}
