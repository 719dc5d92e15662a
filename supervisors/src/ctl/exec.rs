//! Runs a command in a VM. The supervisor only finds the VM: the launcher takes the place of this program and carries the
//! streams, past the supervisor.

use super::failure::Failure;
use super::options::Exec;
use super::session::find;
use crate::exit::ProgramExit;
use pepita_supervisor::VmName;
use pepita_supervisor::control::{Call, Client};
use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Runs a command in a VM. Returns only after a failure: the launcher takes the place of this program, with the exit code of
/// the command.
///
/// # Errors
/// When there is no such VM, or the launcher cannot be executed. The exit code is 125 then, as the launcher has it.
pub(super) async fn run(client: Client, exec: Exec) -> Failure {
    let Err(failure) = replace(client, exec).await;
    match failure {
        Failure::Error { message, .. } => Failure::Error { exit: ProgramExit::NotRun, message },
        Failure::OutputClosed => Failure::OutputClosed,
    }
}

async fn replace(mut client: Client, exec: Exec) -> Result<Infallible, Failure> {
    let (_, found) = find(&mut client, std::slice::from_ref(&exec.vm)).await?;
    let ([vm], true) = (&found.vms[..], found.by_name) else {
        let message = format!("{} is a group: a command runs in one VM", exec.vm);
        return Err(Failure::new(ProgramExit::Refused, message));
    };
    let version = client.call(Call::Version).await?;
    let Some(pepita) = version["pepita"].as_str() else {
        let message = "the supervisor does not find its launcher any more";
        return Err(Failure::new(ProgramExit::Unavailable, message));
    };
    let id = VmName::new(vm).map_err(|_| Failure::no_such_vm(vm))?.id().to_string();
    let mut words: Vec<OsString> = Vec::new();
    if let Some(dir) = version["run_dir"].as_str() {
        words.extend(["--run-dir".into(), dir.into()]);
    }
    words.extend(["exec".into(), "--name".into(), id.into()]);
    words.extend(exec.interactive.then(|| "--interactive".into()));
    words.extend(exec.tty.then(|| "--tty".into()));
    words.extend(exec.user.map(|user| format!("--user={user}").into()));
    words.extend(exec.workdir.map(|dir| format!("--workdir={dir}").into()));
    words.extend(exec.env.into_iter().map(|pair| format!("--env={pair}").into()));
    words.push("--".into());
    words.extend(exec.command.into_iter().map(OsString::from));
    let error = Command::new(pepita).args(words).exec();
    Err(Failure::new(ProgramExit::Unavailable, format!("{pepita}: {error}")))
}
