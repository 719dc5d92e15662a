//! `pepitactl`: shows and steers a running supervisor over its control socket.

mod options;
mod show;
mod table;
mod top;
mod wait;

pub use options::{Ctl, Options};

use crate::config;
use crate::exit::Exit;
use clap::CommandFactory;
use options::Vms;
use pepita_supervisor::control::{Call, Client, ClientError, Heard, How};
use pepita_supervisor::group::Command;
use pepita_supervisor::spec::VmName;
use pepita_wire::ErrorKind;
use serde_json::Value;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::Duration;

/// Why a command came to nothing.
#[derive(Debug)]
enum Failure {
    /// With a sentence for people.
    Told(Exit, String),
    /// Whoever read our output does not read any more: nothing is wrong.
    Unread,
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::NoSupervisor { .. } | ClientError::NotASupervisor { .. } => Exit::Unavailable,
            ClientError::Permission(_) => Exit::Permission,
            ClientError::Refused(_) => Exit::Refused,
            ClientError::Gone => Exit::Failed,
        };
        Self::Told(exit, error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Self::Unread
    }
}

/// Carries out a command.
pub async fn run(options: Options) -> Exit {
    match carry_out(options).await {
        Ok(()) | Err(Failure::Unread) => Exit::Ok,
        Err(Failure::Told(exit, text)) => {
            if !text.is_empty() {
                anstream::eprintln!("pepitactl: {text}");
            }
            exit
        }
    }
}

async fn carry_out(options: Options) -> Result<(), Failure> {
    // What needs no supervisor.
    match &options.command {
        Ctl::Check { file } => {
            return match config::check(file) {
                Exit::Ok => Ok(()),
                exit => Err(Failure::Told(exit, String::new())),
            };
        }
        Ctl::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Options::command(), "pepitactl", &mut script);
            return Ok(io::stdout().write_all(&script)?);
        }
        Ctl::Man => return Ok(clap_mangen::Man::new(Options::command()).render(&mut io::stdout())?),
        _ => {}
    }
    let socket = socket(&options)?;
    if let Ctl::Wait { vms, timeout } = &options.command {
        return wait::until_ready(&socket, vms, Duration::from_secs(*timeout)).await;
    }
    let mut client = Client::connect(&socket).await?;
    match options.command {
        Ctl::Status { json: true } => print(&client.call(Call::Status).await?.to_string()),
        Ctl::Status { json: false } => print(&table::status(&client.call(Call::Status).await?)),
        Ctl::Tree => print(&table::tree(&client.call(Call::Status).await?)),
        Ctl::Start(vms) => command(&mut client, vms, Command::Start).await,
        Ctl::Stop(vms) => command(&mut client, vms, Command::Stop).await,
        Ctl::Restart(vms) => command(&mut client, vms, Command::Restart).await,
        Ctl::Reset(vms) => command(&mut client, vms, Command::Reset).await,
        Ctl::Signal { vm, signal } => done(&mut client, Call::Signal { vm, signal }).await,
        Ctl::Pause(vms) => each(&mut client, vms, |vm| Call::Pause { vm }).await,
        Ctl::Resume(vms) => each(&mut client, vms, |vm| Call::Resume { vm }).await,
        Ctl::Logs { vm, follow } => Err(logs(&mut client, &vm, follow).await?),
        Ctl::Events { follow, json } => show::events(client, follow, json).await,
        Ctl::Plan { json } => plan(&mut client, Call::Plan, json).await,
        Ctl::Reload { restart, json } => plan(&mut client, Call::Reload { restart }, json).await,
        Ctl::Shutdown { leave, destroy } => {
            let how = if leave { How::Leave } else { How::Destroy };
            shutdown(client, if leave || destroy { how } else { How::Stop }).await
        }
        Ctl::Top => top::run(client).await,
        // Done above.
        Ctl::Wait { .. } | Ctl::Check { .. } | Ctl::Completions { .. } | Ctl::Man => Ok(()),
    }
}

/// Where the supervisor is: as it was said, else as the environment has it, else the usual place.
fn socket(options: &Options) -> Result<PathBuf, Failure> {
    let usage = |text| Failure::Told(Exit::Usage, text);
    match (&options.socket, &options.config) {
        (Some(socket), _) => Ok(socket.clone()),
        (None, Some(file)) => config::socket(file).map_err(usage),
        (None, None) => {
            let named = std::env::var_os("PEPITACTL_SOCKET").filter(|named| !named.is_empty());
            Ok(named.map_or_else(|| config::DEFAULT_SOCKET.into(), PathBuf::from))
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    Ok(writeln!(anstream::stdout(), "{text}")?)
}

async fn done(client: &mut Client, call: Call) -> Result<(), Failure> {
    client.call(call).await?;
    Ok(())
}

async fn command(client: &mut Client, vms: Vms, command: Command) -> Result<(), Failure> {
    each(client, vms, |vm| Call::Command { vm, command }).await
}

async fn each(client: &mut Client, vms: Vms, call: impl Fn(String) -> Call) -> Result<(), Failure> {
    for vm in vms.vms {
        done(client, call(vm)).await?;
    }
    Ok(())
}

async fn plan(client: &mut Client, call: Call, json: bool) -> Result<(), Failure> {
    let answer = client.call(call).await.map_err(|error| match error {
        // Mistakes in the file, as many as there are.
        ClientError::Refused(e) if e.kind == ErrorKind::BadRequest => Failure::Told(Exit::Config, e.message),
        other => other.into(),
    })?;
    if json {
        return print(&answer["plan"].to_string());
    }
    if answer["empty"] == true {
        return print("nothing differs");
    }
    print(answer["text"].as_str().unwrap_or_default())
}

/// Waits for the end, and shows what happens until then.
async fn shutdown(mut client: Client, how: How) -> Result<(), Failure> {
    client.call(Call::Events { after: None }).await?;
    let number = client.send(Call::Shutdown { how }).await?;
    loop {
        match client.hear().await?.ok_or(ClientError::Gone)? {
            Heard::Answer { id, outcome } if id == number || id == 0 => {
                let answer = outcome.map_err(ClientError::Refused)?;
                let text = answer["text"].as_str().unwrap_or_default();
                return match answer["end"].as_str() {
                    Some("failed") => Err(Failure::Told(Exit::Failed, text.to_owned())),
                    _ => print(text),
                };
            }
            heard => show::heard(&heard, false)?,
        }
    }
}

/// Becomes the launcher, which has the logs. Comes back only when that fails.
async fn logs(client: &mut Client, vm: &str, follow: bool) -> Result<Failure, Failure> {
    let no_such = || Failure::Told(Exit::Refused, format!("no VM {vm:?} in this tree"));
    let status = client.call(Call::Status).await?;
    let known =
        |group: &Value| group["vms"].as_array().is_some_and(|vms| vms.iter().any(|v| v["name"] == vm));
    if !status["groups"].as_array().is_some_and(|groups| groups.iter().any(known)) {
        return Err(no_such());
    }
    let id = VmName::new(vm).map_err(|_| no_such())?.id().to_string();
    let version = client.call(Call::Version).await?;
    let Some(pepita) = version["pepita"].as_str() else {
        return Err(Failure::Told(
            Exit::Unavailable,
            "the supervisor does not find its launcher any more".into(),
        ));
    };
    let mut command = std::process::Command::new(pepita);
    if let Some(run_dir) = version["run_dir"].as_str() {
        command.args(["--run-dir", run_dir]);
    }
    command.args(["logs", "--name", &id]).args(follow.then_some("--follow"));
    let error = command.exec();
    Ok(Failure::Told(Exit::Unavailable, format!("{pepita}: {error}")))
}
