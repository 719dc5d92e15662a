//! `pepitactl`: shows and controls a running supervisor over its control socket.

mod events;
mod failure;
mod options;
mod table;
mod top;
mod wait;

pub use options::{Ctl, Options};

use crate::config;
use crate::exit::ProgramExit;
use clap::CommandFactory;
use failure::Failure;
use options::Vms;
use pepita_supervisor::control::{Call, Client, ClientError, Received, ShutdownMode};
use pepita_supervisor::{Command, VmName};
use pepita_wire::ErrorKind;
use serde_json::Value;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::Duration;

/// Executes a command and prints its error, if it has one.
pub async fn run(options: Options) -> ProgramExit {
    match execute(options).await {
        Ok(()) | Err(Failure::OutputClosed) => ProgramExit::Ok,
        Err(Failure::Error { exit, message }) => {
            if !message.is_empty() {
                anstream::eprintln!("pepitactl: {message}");
            }
            exit
        }
    }
}

async fn execute(options: Options) -> Result<(), Failure> {
    let socket = || socket(&options);
    match options.command {
        // These need no supervisor.
        Ctl::Check { ref file } => match config::check(file) {
            ProgramExit::Ok => Ok(()),
            exit => Err(Failure::new(exit, "")),
        },
        Ctl::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Options::command(), "pepitactl", &mut script);
            Ok(io::stdout().write_all(&script)?)
        }
        Ctl::Man => Ok(clap_mangen::Man::new(Options::command()).render(&mut io::stdout())?),
        // This one waits for the supervisor.
        Ctl::Wait { ref vms, timeout } => {
            wait::until_ready(&socket()?, vms, Duration::from_secs(timeout)).await
        }
        _ => ask(Client::connect(&socket()?).await?, options.command).await,
    }
}

/// Executes a command that a running supervisor answers.
async fn ask(mut client: Client, command: Ctl) -> Result<(), Failure> {
    match command {
        Ctl::Status { json: true } => print(&client.call(Call::Status).await?.to_string()),
        Ctl::Status { json: false } => print(&table::status(&client.call(Call::Status).await?)),
        Ctl::Tree => print(&table::tree(&client.call(Call::Status).await?)),
        Ctl::Start(vms) => command_each(&mut client, vms, Command::Start).await,
        Ctl::Stop(vms) => command_each(&mut client, vms, Command::Stop).await,
        Ctl::Restart(vms) => command_each(&mut client, vms, Command::Restart).await,
        Ctl::Reset(vms) => command_each(&mut client, vms, Command::Reset).await,
        Ctl::Signal { vm, signal } => call(&mut client, Call::Signal { vm, signal }).await,
        Ctl::Pause(vms) => call_each(&mut client, vms, |vm| Call::Pause { vm }).await,
        Ctl::Resume(vms) => call_each(&mut client, vms, |vm| Call::Resume { vm }).await,
        Ctl::Logs { vm, follow } => Err(logs(&mut client, &vm, follow).await?),
        Ctl::Events { follow, json } => events::print_events(client, follow, json).await,
        Ctl::Plan { json } => plan(&mut client, Call::Plan, json).await,
        Ctl::Reload { restart, json } => plan(&mut client, Call::Reload { restart }, json).await,
        Ctl::Shutdown { leave: true, .. } => shutdown(client, ShutdownMode::Leave).await,
        Ctl::Shutdown { destroy: true, .. } => shutdown(client, ShutdownMode::Destroy).await,
        Ctl::Shutdown { .. } => shutdown(client, ShutdownMode::Stop).await,
        Ctl::Top => top::run(client).await,
        Ctl::Wait { .. } | Ctl::Check { .. } | Ctl::Completions { .. } | Ctl::Man => {
            unreachable!("executed without a connection")
        }
    }
}

/// Returns where the supervisor listens: as the options say, else as the environment says, else at the usual place.
fn socket(options: &Options) -> Result<PathBuf, Failure> {
    match (&options.socket, &options.config) {
        (Some(socket), _) => Ok(socket.clone()),
        (None, Some(file)) => config::socket(file).map_err(|e| Failure::new(ProgramExit::Usage, e)),
        (None, None) => {
            let named = std::env::var_os("PEPITACTL_SOCKET").filter(|named| !named.is_empty());
            Ok(named.map_or_else(|| config::DEFAULT_SOCKET.into(), PathBuf::from))
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    Ok(writeln!(anstream::stdout(), "{text}")?)
}

async fn call(client: &mut Client, call: Call) -> Result<(), Failure> {
    client.call(call).await?;
    Ok(())
}

async fn command_each(client: &mut Client, vms: Vms, command: Command) -> Result<(), Failure> {
    call_each(client, vms, |vm| Call::Command { vm, command }).await
}

async fn call_each(client: &mut Client, vms: Vms, make: impl Fn(String) -> Call) -> Result<(), Failure> {
    for vm in vms.vms {
        call(client, make(vm)).await?;
    }
    Ok(())
}

/// Prints the plan that the supervisor answers with.
async fn plan(client: &mut Client, call: Call, json: bool) -> Result<(), Failure> {
    let answer = client.call(call).await.map_err(|error| match error {
        // The mistakes in the file, all of them in one message.
        ClientError::Refused(e) if e.kind == ErrorKind::BadRequest => {
            Failure::new(ProgramExit::Config, e.message)
        }
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

/// Ends the supervisor, waits for that, and prints the events until then.
async fn shutdown(mut client: Client, how: ShutdownMode) -> Result<(), Failure> {
    client.call(Call::Events { after: None }).await?;
    let number = client.send(Call::Shutdown { how }).await?;
    loop {
        match client.receive().await?.ok_or(ClientError::Gone)? {
            Received::Answer { id, outcome } if id == number || id == 0 => {
                let answer = outcome.map_err(ClientError::Refused)?;
                let text = answer["text"].as_str().unwrap_or_default();
                return match answer["end"].as_str() {
                    Some("failed") => Err(Failure::new(ProgramExit::Failed, text)),
                    _ => print(text),
                };
            }
            received => events::print_received(&received, false)?,
        }
    }
}

/// Becomes the launcher, which has the logs. Returns only when that fails, and then why.
async fn logs(client: &mut Client, vm: &str, follow: bool) -> Result<Failure, Failure> {
    let status = client.call(Call::Status).await?;
    let has_vm =
        |group: &Value| group["vms"].as_array().is_some_and(|vms| vms.iter().any(|v| v["name"] == vm));
    if !status["groups"].as_array().is_some_and(|groups| groups.iter().any(has_vm)) {
        return Err(Failure::no_such_vm(vm));
    }
    let id = VmName::new(vm).map_err(|_| Failure::no_such_vm(vm))?.id().to_string();
    let version = client.call(Call::Version).await?;
    let Some(pepita) = version["pepita"].as_str() else {
        let message = "the supervisor does not find its launcher any more";
        return Err(Failure::new(ProgramExit::Unavailable, message));
    };
    let mut command = std::process::Command::new(pepita);
    if let Some(run_dir) = version["run_dir"].as_str() {
        command.args(["--run-dir", run_dir]);
    }
    command.args(["logs", "--name", &id]).args(follow.then_some("--follow"));
    let error = command.exec();
    Ok(Failure::new(ProgramExit::Unavailable, format!("{pepita}: {error}")))
}
