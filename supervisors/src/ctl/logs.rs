//! Prints the output of VMs. The launcher has the logs: it is executed in place of this program for one VM, and beside it
//! for several.

use super::events::now_ms;
use super::failure::Failure;
use super::options::Span;
use super::session::find;
use crate::exit::ProgramExit;
use crate::output;
use pepita_supervisor::VmName;
use pepita_supervisor::control::{Call, Client};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::Command;
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
    let (_, found) = find(&mut client, targets).await?;
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
    if let ([vm], true) = (&found.vms[..], found.by_name) {
        let error = std::process::Command::new(pepita).args(arguments(vm)?).exec();
        return Err(Failure::new(ProgramExit::Unavailable, format!("{pepita}: {error}")));
    }
    let mut outputs = Vec::new();
    for vm in &found.vms {
        let mut command = Command::new(pepita);
        command.args(arguments(vm)?).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        outputs.push((vm.clone(), command));
    }
    if follow { all_at_once(outputs).await } else { one_by_one(outputs).await }
}

async fn one_by_one(outputs: Vec<(String, Command)>) -> Result<(), Failure> {
    for (vm, command) in outputs {
        let (sender, mut lines) = mpsc::channel(LINES);
        let reading = tokio::spawn(read(vm, command, sender));
        print_lines(&mut lines).await?;
        reading.await.unwrap_or(Ok(()))?;
    }
    Ok(())
}

async fn all_at_once(outputs: Vec<(String, Command)>) -> Result<(), Failure> {
    let (sender, mut lines) = mpsc::channel(LINES);
    let mut readers = JoinSet::new();
    for (vm, command) in outputs {
        readers.spawn(read(vm, command, sender.clone()));
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
async fn read(vm: String, mut command: Command, lines: mpsc::Sender<Vec<u8>>) -> Result<(), Failure> {
    let unavailable =
        |e: std::io::Error| Failure::new(ProgramExit::Unavailable, format!("the launcher: {e}"));
    let mut child = command.spawn().map_err(unavailable)?;
    let output = child.stdout.take().map(BufReader::new);
    if let Some(mut output) = output {
        while let Some(line) = next_line(&vm, &mut output).await {
            // Nobody prints any more.
            if lines.send(line).await.is_err() {
                return Ok(());
            }
        }
    }
    let status = child.wait().await.map_err(unavailable)?;
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
