//! Copies files between host and guest. The supervisor only finds the VM: the launcher takes the place of this program and
//! copies, past the supervisor.

use super::failure::Failure;
use super::options::Cp;
use super::session::find;
use crate::exit::ProgramExit;
use pepita_supervisor::VmName;
use pepita_supervisor::control::{Call, Client};
use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Copies files. Returns only after a failure: the launcher takes the place of this program.
///
/// # Errors
/// When there is no such VM, or the launcher cannot be executed.
pub(super) async fn run(mut client: Client, asked: Cp) -> Failure {
    let Err(failure) = replace(&mut client, asked).await;
    failure
}

async fn replace(client: &mut Client, asked: Cp) -> Result<Infallible, Failure> {
    let (source, target) = (place(client, &asked.source).await?, place(client, &asked.target).await?);
    let version = client.call(Call::Version).await?;
    let Some(pepita) = version["pepita"].as_str() else {
        let message = "the supervisor does not find its launcher any more";
        return Err(Failure::new(ProgramExit::Unavailable, message));
    };
    let mut words: Vec<OsString> = Vec::new();
    if let Some(dir) = version["run_dir"].as_str() {
        words.extend(["--run-dir".into(), dir.into()]);
    }
    words.push("cp".into());
    words.extend(asked.archive.then(|| "--archive".into()));
    words.extend(asked.follow_link.then(|| "--follow-link".into()));
    words.extend(asked.max_size.map(|size| format!("--max-size={size}").into()));
    words.extend(["--".into(), source, target]);
    let error = Command::new(pepita).args(words).exec();
    Err(Failure::new(ProgramExit::Unavailable, format!("{pepita}: {error}")))
}

/// Returns a place as the launcher knows it: with the id of the VM. What is no place in a VM stays as it is.
async fn place(client: &mut Client, place: &str) -> Result<OsString, Failure> {
    let Some((vm, path)) = place.split_once(':').filter(|_| !place.starts_with(['/', '.'])) else {
        return Ok(place.into());
    };
    let (_, found) = find(client, &[vm.to_owned()]).await?;
    let ([vm], true) = (&found.vms[..], found.by_name) else {
        return Err(Failure::new(ProgramExit::Refused, format!("{vm} is a group: a copy is of one VM")));
    };
    let id = VmName::new(vm).map_err(|_| Failure::no_such_vm(vm))?.id().to_string();
    Ok(format!("{id}:{path}").into())
}
