//! Prints the output of VMs. The launcher has the logs: it is executed in place of this program for one VM, and beside it
//! for several, and for output that is followed: a VM may be removed from the configuration meanwhile.

mod lines;
mod merge;

use super::events::now_ms;
use super::failure::Failure;
use super::options::Span;
use super::session::{Session, find, part_of};
use super::targets::ALL;
use super::view::find as find_vm;
use crate::exit::ProgramExit;
use crate::format::{shown, shown_lines};
use crate::output;
use lines::{Form, Line, Prefix, fill};
use merge::Merge;
use pepita_supervisor::VmName;
use pepita_supervisor::control::{Call, Client};
use pepita_wire::record::{CallError, CallErrorKind};
use serde_json::Value;
use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{ChildStderr, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// The silence after which the beginning of a line is printed as a line, when output is followed: a daemon may be waiting for
/// an answer to it.
const SILENCE: Duration = Duration::from_secs(1);

/// The number of lines of a VM that wait to be printed.
const LINES: usize = 16;

/// What is to be printed.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) follow: bool,
    /// Whether each line begins with its time and its incarnation.
    pub(super) stamps: bool,
    /// The maximum number of lines of each VM, as the launcher reads it.
    pub(super) tail: Option<String>,
    pub(super) previous: Option<u8>,
    pub(super) span: Span,
}

/// Prints the output of VMs; of all when there is no target.
///
/// # Errors
/// When a target is unknown, or the launcher fails. For one VM that is not followed returns only after a failure: the
/// launcher takes the place of this program.
pub(super) async fn print_logs(
    mut client: Client,
    mut targets: Vec<String>,
    wanted: &Wanted,
) -> Result<(), Failure> {
    let Wanted { follow, stamps, ref tail, previous, ref span } = *wanted;
    if targets.is_empty() {
        targets.push(ALL.to_owned());
    }
    let (since, until) = span.bounds(now_ms())?;
    if let (true, Some(since)) = (follow, since) {
        wait_for(since).await?;
    }
    let now = now_ms();
    let (status, found) = find(&mut client, &targets).await?;
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
    let is_one = found.vms.len() == 1 && found.by_name;
    if stamps || !is_one {
        options.push("--timestamps".into());
    }
    options.extend(tail.iter().map(|lines| format!("--tail={lines}").into()));
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
    if let ([vm], true, false) = (&found.vms[..], is_one, follow) {
        if let Some(silent) = silent(vm) {
            return silent.print_kept(Command::new(pepita), arguments(vm)?).await;
        }
        let error = std::process::Command::new(pepita).args(arguments(vm)?).exec();
        return Err(Failure::new(ProgramExit::Unavailable, format!("{pepita}: {error}")));
    }
    let form = match (is_one, stamps) {
        (true, _) => Form::AsItCame,
        (false, false) => Form::Named,
        (false, true) => Form::NamedAndStamped,
    };
    let mut sources = Vec::new();
    for vm in &found.vms {
        let mut command = Command::new(pepita);
        command.args(arguments(vm)?).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        sources.push(Source { vm: vm.clone(), command, silent: silent(vm) });
    }
    // Each launcher has pipes to this program.
    let _ = pepita_supervisor::platform::raise_file_limit();
    print_all(sources, form, follow.then_some((client, found.vms))).await
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
            // It is paused, and not down.
            ("idle", _) if !vm["vmm_pid"].is_null() => return None,
            ("idle", Some(0)) => {
                format!("{name} has never run: it is idle, until a client connects to its port")
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

/// Prints the output of these VMs in the order of time. With a client the output is followed, and the client tells of VMs that are
/// removed.
async fn print_all(
    sources: Vec<Source>,
    form: Form,
    followed: Option<(Client, Vec<String>)>,
) -> Result<(), Failure> {
    let (is_followed, has_colours) = (followed.is_some(), output::has_colours());
    let (tell, removed) = watch::channel(HashSet::new());
    let watching = followed.map(|(client, vms)| tokio::spawn(watch_removals(client, vms, tell)));
    let (mut readers, mut lines) = (JoinSet::new(), Vec::new());
    for (number, source) in sources.into_iter().enumerate() {
        let (sender, receiver) = mpsc::channel(LINES);
        let prefix = Prefix::new(&source.vm, form, has_colours.then_some(number));
        let removed = watching.is_some().then(|| removed.clone());
        readers.spawn(async move { (number, read(source, prefix, sender, removed).await) });
        lines.push(receiver);
    }
    print_lines(Merge::new(lines, is_followed)).await?;
    if let Some(watching) = watching {
        watching.abort();
    }
    let mut ends = readers.join_all().await;
    ends.sort_by_key(|(number, _)| *number);
    let mut all_removed = is_followed;
    for (_, end) in ends {
        all_removed &= end? == Ended::Removed;
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
async fn print_lines(mut lines: Merge) -> Result<(), Failure> {
    let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    let [Ok(mut int), Ok(mut term), Ok(mut hup)] = signals else {
        return Err(Failure::new(ProgramExit::Failed, "signals cannot be handled"));
    };
    let gone = output::reader_gone();
    tokio::pin!(gone);
    loop {
        let line = tokio::select! {
            line = lines.next() => line,
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
    mut prefix: Prefix,
    lines: mpsc::Sender<Line>,
    mut removed: Option<Removed>,
) -> Result<Ended, Failure> {
    let Source { vm, mut command, silent } = source;
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
                is_over = fill(&mut line, prefix.form(), &mut stdout, patience) => is_over,
                () = removal(&vm, &mut removed), if !is_removed => {
                    // What was written before is still printed.
                    is_removed = true;
                    continue;
                }
                () = sleep(SILENCE), if is_removed => true,
            };
            let piece = std::mem::take(&mut line);
            // An error says that nobody prints any more.
            if !piece.is_empty() && lines.send(prefix.line(piece)).await.is_err() {
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
