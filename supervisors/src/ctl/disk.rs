//! Lists, grows and removes disks. The launcher keeps them: it takes the place of this program, with the directory of disks of
//! the supervisor.

use super::failure::Failure;
use super::options::Disk;
use crate::exit::ProgramExit;
use pepita_supervisor::control::{Call, Client};
use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Carries out a command about disks. Returns only after a failure: the launcher takes the place of this program.
///
/// # Errors
/// When the supervisor does not tell where its disks are, or the launcher cannot be executed.
pub(super) async fn run(mut client: Client, asked: Disk) -> Failure {
    let Err(failure) = replace(&mut client, asked).await;
    failure
}

async fn replace(client: &mut Client, asked: Disk) -> Result<Infallible, Failure> {
    let version = client.call(Call::Version).await?;
    let unavailable = |message: &str| Failure::new(ProgramExit::Unavailable, message);
    let pepita = version["pepita"].as_str();
    let pepita = pepita.ok_or_else(|| unavailable("the supervisor does not find its launcher any more"))?;
    // A supervisor without a directory for its state has none for disks either: the launcher chooses it.
    let Some(dir) = version.get("disk_dir") else {
        let why = "the supervisor is of an older version, which does not tell where its disks are: use `pepita disk --disk-dir DIR`";
        return Err(unavailable(why));
    };
    let mut words: Vec<OsString> = vec!["disk".into()];
    words.extend(dir.as_str().into_iter().flat_map(|dir| ["--disk-dir".into(), dir.into()]));
    match asked {
        Disk::List { json } => {
            words.push("list".into());
            words.extend(json.then(|| "--json".into()));
        }
        Disk::Grow { name, size, json } => {
            words.push("grow".into());
            words.extend(json.then(|| "--json".into()));
            words.extend(["--".into(), name.into(), size.into()]);
        }
        Disk::Remove { names, yes, force } => {
            words.push("remove".into());
            words.extend(yes.then(|| "--yes".into()));
            words.extend(force.then(|| "--force".into()));
            words.push("--".into());
            words.extend(names.into_iter().map(OsString::from));
        }
    }
    let error = Command::new(pepita).args(words).exec();
    Err(unavailable(&format!("{pepita}: {error}")))
}
